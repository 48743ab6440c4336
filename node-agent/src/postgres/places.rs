//! Where things are: paths, programs and addresses, worked out once from the configuration.

use super::Error;
use node_agent_wire::config::{Authentication, Credentials, LocalConfig};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// A longer socket path would not fit into the kernel's address (107 bytes) on every system.
const SOCKET_PATH_BYTES_MAX: usize = 99;
/// Names the guard's program instead of the one beside the agent's.
const GUARD_VARIABLE: &str = "NODE_AGENT_GUARD";

/// Everything about this server that the configuration file fixes.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) scope: String,
    pub(super) name: String,
    pub(super) data_dir: PathBuf,
    bin_dir: Option<PathBuf>,
    pub(super) guard_program: PathBuf,
    pub(super) guard_socket: PathBuf,
    pub(super) log_file: PathBuf,
    pub(super) pgpass: PathBuf,
    pub(super) incomplete: PathBuf,
    /// Exists while the guard has no deadline because of maintenance mode.
    pub(super) mark_file: PathBuf,
    pub(super) database: String,
    /// A reload may change them.
    users: RwLock<Arc<Authentication>>,
    pub(super) use_unix_socket: bool,
    /// The service name of the server for Kerberos.
    pub(super) krbsrvname: Option<String>,
    /// Where `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf` are.
    pub(super) config_dir: PathBuf,
    /// `postgresql`, or another name for `postgresql.conf`.
    config_base_name: String,
    pub(super) initdb_options: Vec<serde_json::Value>,
    pub(super) bootstrap_hba: Vec<String>,
    pub(super) own_hba: bool,
    listen_host: String,
    pub(super) listen_port: u16,
    connect: (String, u16),
}

/// Splits `host:port`; an IPv6 address is in brackets.
pub(super) fn split_address(key: &str, text: &str) -> Result<(String, u16), Error> {
    let bad =
        || Error::Config { key: key.to_owned(), problem: format!("\"{text}\" is not host:port") };
    let (host, port) = text.trim().rsplit_once(':').ok_or_else(bad)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(bad());
    }
    Ok((host.to_owned(), port.parse().map_err(|_| bad())?))
}

/// The address for the agent's own sessions, out of `listen_addresses`.
fn local_host(listen: &str) -> String {
    let hosts: Vec<&str> = listen.split(',').map(str::trim).filter(|h| !h.is_empty()).collect();
    let loopback = hosts.iter().find(|h| h.starts_with("127.") || **h == "localhost");
    match loopback.or(hosts.first()).copied() {
        None | Some("*" | "0.0.0.0") => "127.0.0.1".to_owned(),
        Some("::") => "::1".to_owned(),
        Some(host) => host.to_owned(),
    }
}

/// `.NAME.guard` beside the data directory, or a hash of that under the temporary directory when
/// it would be too long for a socket.
fn guard_socket(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(format!(".{name}.guard"));
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return path;
    }
    // SipHash with fixed keys: the same path gives the same socket after a restart of the agent.
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    std::env::temp_dir().join(format!("node-agent-{:016x}.guard", hasher.finish()))
}

fn guard_program() -> Result<PathBuf, Error> {
    if let Some(program) = std::env::var_os(GUARD_VARIABLE) {
        return Ok(PathBuf::from(program));
    }
    let own = std::env::current_exe().map_err(|source| Error::File {
        action: "find",
        path: PathBuf::from("/proc/self/exe"),
        source,
    })?;
    Ok(own.with_file_name("node-agent-guard"))
}

impl Places {
    pub(super) fn new(config: &LocalConfig) -> Result<Self, Error> {
        let postgresql = &config.postgresql;
        let (listen_host, port) = split_address("postgresql.listen", &postgresql.listen)?;
        let connect = match &postgresql.connect_address {
            Some(address) => split_address("postgresql.connect_address", address)?,
            None => (local_host(&listen_host), port),
        };
        let data_dir = std::path::absolute(&postgresql.data_dir).map_err(|source| Error::File {
            action: "resolve",
            path: postgresql.data_dir.clone(),
            source,
        })?;
        let parent = data_dir.parent().ok_or_else(|| Error::Config {
            key: "postgresql.data_dir".to_owned(),
            problem: "the root directory can't be a data directory".to_owned(),
        })?;
        let text = |key: &str| postgresql.other.get(key)?.as_str().map(ToOwned::to_owned);
        let name = &config.name;
        if name.is_empty() || name.contains(['/', '\0']) {
            let problem = format!("\"{name}\" can't be part of a file name");
            return Err(Error::Config { key: "name".to_owned(), problem });
        }
        Ok(Self {
            scope: config.scope.clone(),
            name: name.clone(),
            bin_dir: postgresql.bin_dir.clone(),
            guard_program: guard_program()?,
            guard_socket: guard_socket(parent, name),
            log_file: parent.join(format!("{name}.log")),
            pgpass: postgresql
                .pgpass
                .clone()
                .unwrap_or_else(|| parent.join(format!(".{name}.pgpass"))),
            incomplete: parent.join(format!(".{name}.incomplete")),
            mark_file: parent.join(format!(".{name}.unattended")),
            database: postgresql.database.clone(),
            users: RwLock::new(Arc::new(postgresql.authentication.clone())),
            use_unix_socket: postgresql.use_unix_socket.unwrap_or(false),
            krbsrvname: text("krbsrvname"),
            config_dir: text("config_dir").map_or_else(|| data_dir.clone(), PathBuf::from),
            config_base_name: text("config_base_name").unwrap_or_else(|| "postgresql".to_owned()),
            initdb_options: config.bootstrap.initdb.clone(),
            bootstrap_hba: config.bootstrap.pg_hba.clone(),
            own_hba: postgresql.pg_hba.is_some(),
            data_dir,
            listen_host,
            listen_port: port,
            connect,
        })
    }

    /// A PostgreSQL program, by `bin_dir` or the search path.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.as_ref().map_or_else(|| PathBuf::from(name), |dir| dir.join(name))
    }

    pub(super) fn connect(&self) -> (&str, u16) {
        (&self.connect.0, self.connect.1)
    }

    pub(super) fn local_host(&self) -> String {
        local_host(&self.listen_host)
    }

    fn users(&self) -> Arc<Authentication> {
        // A value is replaced as a whole.
        self.users.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_users(&self, users: Authentication) {
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(users);
    }

    pub(super) fn superuser(&self) -> Credentials {
        let mut user = self.users().superuser.clone();
        if user.username.is_empty() {
            "postgres".clone_into(&mut user.username);
        }
        user
    }

    pub(super) fn replication(&self) -> Result<Credentials, Error> {
        let user = self.users().replication.clone();
        if user.username.is_empty() {
            return Err(Error::Config {
                key: "postgresql.authentication.replication.username".to_owned(),
                problem: "is missing".to_owned(),
            });
        }
        Ok(user)
    }

    /// The user of pg_rewind when one is configured; the superuser otherwise.
    pub(super) fn rewind_user(&self) -> Option<Credentials> {
        self.users().rewind.clone().filter(|user| !user.username.is_empty())
    }

    /// A file in the data directory.
    pub(super) fn data(&self, name: &str) -> PathBuf {
        self.data_dir.join(name)
    }

    /// The main configuration file.
    pub(super) fn main_conf(&self) -> PathBuf {
        self.config_dir.join(format!("{}.conf", self.config_base_name))
    }

    /// What was the main configuration file before the agent.
    pub(super) fn base_conf(&self) -> PathBuf {
        self.config_dir.join(format!("{}.base.conf", self.config_base_name))
    }

    /// A file beside the data directory.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.data_dir.with_file_name(name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A configuration whose data directory is `dir/data`.
    pub(crate) fn config(dir: &Path) -> LocalConfig {
        serde_json::from_value(serde_json::json!({
            "scope": "demo", "name": "pg1",
            "restapi": {"listen": "127.0.0.1:8008"},
            "etcd3": {"host": "127.0.0.1:2379"},
            "postgresql": {
                "listen": "127.0.0.1:5432", "data_dir": dir.join("data"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": "s"},
                    "replication": {"username": "rep", "password": "r:1"},
                },
            },
        }))
        .expect("configuration")
    }

    #[test]
    fn addresses_are_split_or_refused() {
        let split = |text| split_address("k", text).ok();
        assert_eq!(split("127.0.0.1:5432"), Some(("127.0.0.1".into(), 5432)));
        assert_eq!(split("[::1]:5"), Some(("::1".into(), 5)));
        assert_eq!(split("a,b:5"), Some(("a,b".into(), 5)));
        for bad in ["", "host", ":5432", "host:", "host:99999", "host:x"] {
            let problem = split_address("postgresql.listen", bad).expect_err("accepted");
            assert!(problem.to_string().contains("postgresql.listen"), "{problem}");
        }
    }

    #[test]
    fn own_sessions_use_a_reachable_address() {
        for (listen, local) in [
            ("*", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("10.0.0.1, 127.0.0.2", "127.0.0.2"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(local_host(listen), local);
        }
    }

    #[test]
    fn the_socket_path_always_fits() {
        assert_eq!(guard_socket(Path::new("/v"), "pg1"), Path::new("/v/.pg1.guard"));
        let long = guard_socket(Path::new("/v"), &"n".repeat(200));
        assert!(long.as_os_str().len() <= SOCKET_PATH_BYTES_MAX, "{long:?}");
        assert_eq!(long, guard_socket(Path::new("/v"), &"n".repeat(200)));
        assert_ne!(long, guard_socket(Path::new("/v"), &"m".repeat(200)));
    }
}
