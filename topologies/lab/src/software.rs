//! The programs that a lab runs and the user that runs them.
//!
//! PostgreSQL refuses to run as root, so a lab started by root hands everything to an unprivileged
//! user, and copies the agents to a place which that user can reach.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Debian's directory of PostgreSQL versions.
const DEBIAN_POSTGRES: &str = "/usr/lib/postgresql";
/// Names the directory of PostgreSQL's programs in place of an installed version.
pub const POSTGRES_BIN_DIR: &str = "LAB_POSTGRES_BIN_DIR";
/// The version that the packages of Debian 12 have.
const DEBIAN_VERSION: u32 = 15;
/// The user that Debian's packages create.
const DEFAULT_USER: &str = "postgres";

/// Something that is missing on this machine.
#[derive(Debug, thiserror::Error)]
pub enum SoftwareError {
    /// PostgreSQL is not installed, or not in this version.
    #[error(
        "PostgreSQL {version} is not installed: no {DEBIAN_POSTGRES}/{version}/bin/postgres\n\
         HINT: apt-get install -y postgresql-{version}"
    )]
    NoPostgres {
        /// Major version.
        version: u32,
    },
    /// The directory that was named holds no PostgreSQL.
    #[error(
        "there is no program postgres in {dir}, which postgresql.bin_dir of the topology or the \
         variable {POSTGRES_BIN_DIR} names"
    )]
    NoPrograms {
        /// The directory.
        dir: PathBuf,
    },
    /// etcd is not installed.
    #[error("there is no program etcd in PATH\nHINT: apt-get install -y etcd-server")]
    NoEtcd,
    /// setsid is not installed.
    #[error("there is no program setsid in PATH\nHINT: apt-get install -y util-linux")]
    NoSetsid,
    /// One of our own programs is not there.
    #[error(
        "there is no program {name} in {dir}\n\
         HINT: cargo build --release -p node-agent -p federator -p lab,\n\
         or name another directory with --bin-dir"
    )]
    NotBuilt {
        /// The program.
        name: &'static str,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// Root, and no user to hand over to.
    #[error(
        "PostgreSQL cannot run as root, and there is no user \"{0}\" to run it\n\
         HINT: apt-get install -y postgresql-common creates it; or name another one with --user"
    )]
    NoUser(String),
    /// The chosen user is root.
    #[error("PostgreSQL cannot run as root\nHINT: name an unprivileged user with --user")]
    RootChosen,
    /// Not root, and another user was asked for.
    #[error("only root can run a lab as another user (\"{0}\")\nHINT: leave --user out")]
    NotRoot(String),
    /// A directory bars the run user.
    #[error(
        "user {user} cannot enter {dir}, so the lab cannot run there\n\
         HINT: choose another place with --dir, for example below /tmp"
    )]
    Barred {
        /// The run user.
        user: String,
        /// The directory without permission.
        dir: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Our own programs that a lab runs.
pub const AGENT: &str = "node-agent";
/// The program that understands the same configuration and may run in its place.
pub const PATRONI: &str = "patroni";
/// The guard, which the agent looks for beside itself.
pub const GUARD: &str = "node-agent-guard";
/// The federator's command line.
pub const FEDERATOR: &str = "federator";
/// The program of the lab itself, which also is the router of a WAN.
pub const LAB: &str = "lab";

/// The programs, by absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// Directory of PostgreSQL's programs.
    pub postgres_bin_dir: PathBuf,
    /// etcd.
    pub etcd: PathBuf,
    /// setsid, which detaches what we start.
    pub setsid: PathBuf,
    /// Directory of node-agent, node-agent-guard and federator.
    pub bin_dir: PathBuf,
    /// What runs on a node instead of node-agent, with the configuration file as its argument.
    #[serde(default)]
    pub agent: Option<PathBuf>,
    /// The same for single nodes, by name.
    #[serde(default)]
    pub agents: BTreeMap<String, PathBuf>,
}

impl Software {
    /// Looks for everything.
    ///
    /// # Errors
    /// Names the first thing that is missing and how to install it.
    pub fn find(
        version: Option<u32>,
        postgres: Option<&Path>,
        bin_dir: Option<&Path>,
    ) -> Result<Self, SoftwareError> {
        let bin_dir = match bin_dir {
            Some(dir) => absolute(dir)?,
            None => own_dir()?,
        };
        for name in [AGENT, GUARD] {
            if !is_program(&bin_dir.join(name)) {
                return Err(SoftwareError::NotBuilt { name, dir: bin_dir });
            }
        }
        Ok(Self {
            postgres_bin_dir: find_postgres(version, postgres)?,
            etcd: in_path("etcd").ok_or(SoftwareError::NoEtcd)?,
            setsid: in_path("setsid").ok_or(SoftwareError::NoSetsid)?,
            bin_dir,
            agent: None,
            agents: BTreeMap::new(),
        })
    }

    /// One of our programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Copies our programs into `dir`, for a run user who may not reach where they were built;
    /// also that of the router, for a lab with a WAN.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn copy_into(&self, dir: &Path, wan: bool) -> Result<Self, SoftwareError> {
        let fail = |action, path: &Path| {
            let path = path.to_owned();
            move |source| SoftwareError::File { action, path, source }
        };
        fs::create_dir_all(dir).map_err(fail("create", dir))?;
        for name in [AGENT, GUARD, FEDERATOR].into_iter().chain(wan.then_some(LAB)) {
            let (from, to) = (self.bin_dir.join(name), dir.join(name));
            // The federator is not needed by the lab itself.
            if from == to || !from.exists() {
                continue;
            }
            // A running program cannot be overwritten, but it can be replaced.
            let staged = dir.join(format!("{name}.new"));
            fs::copy(&from, &staged).map_err(fail("copy", &from))?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&staged, mode).map_err(fail("make executable", &staged))?;
            fs::rename(&staged, &to).map_err(fail("replace", &to))?;
        }
        Ok(Self { bin_dir: dir.to_owned(), ..self.clone() })
    }
}

/// PostgreSQL's programs: those in `named`, or in the directory that [`POSTGRES_BIN_DIR`] names, or
/// of a version, or of the highest one installed.
///
/// # Errors
/// When it is not installed.
pub fn find_postgres(version: Option<u32>, named: Option<&Path>) -> Result<PathBuf, SoftwareError> {
    // Chosen by hand, for versions that no package of the distribution has.
    let chosen = named.map(Path::to_owned);
    installed_postgres(version, chosen.or_else(|| env::var_os(POSTGRES_BIN_DIR).map(PathBuf::from)))
}

fn installed_postgres(
    version: Option<u32>,
    chosen: Option<PathBuf>,
) -> Result<PathBuf, SoftwareError> {
    if let Some(dir) = chosen {
        let found = Some(absolute(&dir)?).filter(|dir| is_program(&dir.join("postgres")));
        return found.ok_or(SoftwareError::NoPrograms { dir });
    }
    let bin = |version: u32| Path::new(DEBIAN_POSTGRES).join(version.to_string()).join("bin");
    let installed = |version: &u32| is_program(&bin(*version).join("postgres"));
    if let Some(version) = version {
        let found = Some(version).filter(installed).map(bin);
        return found.ok_or(SoftwareError::NoPostgres { version });
    }
    let entries = fs::read_dir(DEBIAN_POSTGRES).into_iter().flatten().flatten();
    let versions = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let highest = versions.filter(installed).max().map(bin);
    let elsewhere =
        || in_path("initdb").and_then(|p| Some(p.canonicalize().ok()?.parent()?.into()));
    highest.or_else(elsewhere).ok_or(SoftwareError::NoPostgres { version: DEBIAN_VERSION })
}

/// Directory of the running program.
fn own_dir() -> Result<PathBuf, SoftwareError> {
    let fail =
        |source| SoftwareError::File { action: "find", path: "the running program".into(), source };
    let program = env::current_exe().map_err(fail)?;
    let dir = program.parent().ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
    // A test program lies one directory below the binaries.
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_owned())
}

fn absolute(path: &Path) -> Result<PathBuf, SoftwareError> {
    path.canonicalize().map_err(|source| SoftwareError::File {
        action: "find directory",
        path: path.to_owned(),
        source,
    })
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // System directories are often absent from the PATH of an ordinary user.
    let system = ["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|p| is_program(p))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The user under whose id everything of a lab runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunUser {
    /// Name, or the number where the current user has no name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl RunUser {
    /// The user of this process.
    #[must_use]
    pub fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Self { name: format!("uid {uid}"), uid, gid }
    }

    /// Who runs the lab: `asked` or `postgres` when this process is root, else the current user.
    ///
    /// # Errors
    /// When root finds no such user, or an ordinary user asks for another one.
    pub fn choose(asked: Option<&str>) -> Result<Self, SoftwareError> {
        let current = Self::current();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        if current.uid != 0 {
            return match asked {
                None => Ok(current),
                Some(name) => match find_user(&passwd, name) {
                    Some(user) if user.uid == current.uid => Ok(user),
                    Some(_) | None => Err(SoftwareError::NotRoot(name.to_owned())),
                },
            };
        }
        let name = asked.unwrap_or(DEFAULT_USER);
        let user =
            find_user(&passwd, name).ok_or_else(|| SoftwareError::NoUser(name.to_owned()))?;
        if user.uid == 0 { Err(SoftwareError::RootChosen) } else { Ok(user) }
    }

    /// Makes a directory that only this user can read.
    pub(crate) fn make_private_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        chown(dir, Some(self.uid), Some(self.gid))
    }

    /// Writes a file that only this user can read.
    pub(crate) fn write_private(&self, path: &Path, text: &str) -> io::Result<()> {
        use std::io::Write;
        // Removed first: the mode below holds only for a file that is made here.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = open_for(self, path, fs::OpenOptions::new().write(true).create_new(true))?;
        file.write_all(text.as_bytes())
    }

    /// Checks that this user can enter a directory and all above it.
    ///
    /// # Errors
    /// Names the directory that bars the way.
    pub fn check_can_enter(&self, dir: &Path) -> Result<(), SoftwareError> {
        if self.uid == rustix::process::geteuid().as_raw() {
            // The system itself will say what this user cannot do.
            return Ok(());
        }
        for above in dir.ancestors() {
            // What does not exist yet will be made with the right owner.
            let Ok(meta) = fs::metadata(above) else { continue };
            let execute = if meta.uid() == self.uid {
                0o100
            } else if meta.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            if meta.permissions().mode() & execute == 0 {
                let (user, dir) = (self.name.clone(), above.to_owned());
                return Err(SoftwareError::Barred { user, dir });
            }
        }
        Ok(())
    }
}

/// Opens a private file of a user in a directory of that user. Root does this on behalf of somebody
/// who may put a link there, so a link is not followed and the owner is set on the open file.
pub(crate) fn open_for(
    user: &RunUser,
    path: &Path,
    options: &mut fs::OpenOptions,
) -> io::Result<fs::File> {
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = options.mode(0o600).custom_flags(no_link).open(path)?;
    fchown(&file, Some(user.uid), Some(user.gid))?;
    Ok(file)
}

fn find_user(passwd: &str, name: &str) -> Option<RunUser> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut matching = fields.filter(|fields| fields.first() == Some(&name));
    let fields = matching.next()?;
    let uid = fields.get(2)?.parse().ok()?;
    let gid = fields.get(3)?.parse().ok()?;
    Some(RunUser { name: name.to_owned(), uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:101:104::/var:/bin/sh\nbad:x:a:b\n";
        let user = RunUser { name: "postgres".into(), uid: 101, gid: 104 };
        assert_eq!(find_user(passwd, "postgres"), Some(user));
        assert_eq!(find_user(passwd, "post"), None);
        assert_eq!(find_user(passwd, "bad"), None);
    }

    #[test]
    fn a_directory_that_bars_the_user_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = RunUser { name: "stranger".into(), uid: 54321, gid: 54321 };
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let fault = stranger.check_can_enter(&inner).unwrap_err().to_string();
        assert!(fault.contains(&format!("cannot enter {}", inner.display())), "{fault}");
        stranger.check_can_enter(dir.path()).unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_a_private_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (precious, log) = (dir.path().join("precious"), dir.path().join("log"));
        fs::write(&precious, "x").unwrap();
        std::os::unix::fs::symlink(&precious, &log).unwrap();
        let user = RunUser::current();
        let append = || fs::OpenOptions::new().append(true).create(true).clone();
        assert!(open_for(&user, &log, &mut append()).is_err());
        user.write_private(&log, "secret").unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
        assert_eq!(fs::read_to_string(&log).unwrap(), "secret");
    }

    #[test]
    fn missing_programs_name_the_directory_and_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let fault = Software::find(None, None, Some(dir.path())).unwrap_err().to_string();
        assert!(fault.contains("node-agent in"), "{fault}");
        assert!(fault.contains("cargo build --release"), "{fault}");
        let fault = installed_postgres(Some(3), None).unwrap_err().to_string();
        assert!(fault.contains("apt-get install -y postgresql-3"), "{fault}");
    }
}
