//! A new database system: by initdb or a configured command, and the users that the agents need.

use super::command::Tool;
use super::conf::conninfo_value;
use super::leftover::WORKS_ON;
use super::method::{BootstrapMethod, ConfiguredCommand};
use super::process::Postmaster;
use super::session::Session;
use super::{Effective, Error, QUERY_DEADLINE, Server, StopMode, conf, control, files, passfile};
use node_agent_wire::config::Credentials;
use serde_json::Value;
use std::time::Duration;

/// initdb writes some 40 MB and syncs them.
const INITDB_DEADLINE: Duration = Duration::from_secs(300);
/// Options that the agent gives itself, or that would leave no usable directory (contract E.4).
const REFUSED: [&str; 5] = ["pgdata", "nosync", "pwfile", "sync-only", "version"];

/// The text of the marker beside a data directory that initdb has not finished.
pub(super) const INITIALISING: &str = "initdb\n";
/// … that pg_basebackup has not finished.
pub(super) const CLONING: &str = "clone\n";
/// … that pg_rewind has not finished.
pub(super) const REWINDING: &str = "rewind\n";

/// A session with this leaves no password in the server's log or statistics.
const NO_TRACE: &str = "-c log_statement=none -c log_min_error_statement=panic \
    -c log_min_duration_statement=-1 -c log_min_duration_sample=-1 -c log_parameter_max_length=0 \
    -c pg_stat_statements.track_utility=off";

/// Functions that pg_rewind calls (PostgreSQL manual, pg_rewind, notes).
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

fn initdb_arguments(options: &[Value]) -> Result<Vec<String>, Error> {
    let bad = |problem: String| Error::Config { key: "bootstrap.initdb".to_owned(), problem };
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: Option<&Value>| {
        let name = name.trim_start_matches('-');
        if REFUSED.contains(&name) {
            return Err(bad(format!("the option {name} is not possible here")));
        }
        arguments.push(match value {
            None => format!("--{name}"),
            Some(Value::String(text)) => format!("--{name}={text}"),
            Some(Value::Number(number)) => format!("--{name}={number}"),
            Some(Value::Bool(true)) => format!("--{name}"),
            Some(other) => return Err(bad(format!("the option {name} can't be {other}"))),
        });
        Ok(())
    };
    for option in options {
        match option {
            Value::String(name) => add(name, None)?,
            Value::Object(pairs) => {
                for (name, value) in pairs {
                    add(name, Some(value))?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                return Err(bad(format!("{option} is neither a name nor a name with a value")));
            }
        }
    }
    Ok(arguments)
}

impl Server {
    /// The directory may be written to: no server, and no finished database system.
    pub(super) fn must_be_unused(&self, action: &str) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::Refused { action: action.to_owned(), reason });
        if let Some(postmaster) = Postmaster::find(&self.places)? {
            return refuse(format!("PostgreSQL runs (pid {})", postmaster.file.pid));
        }
        let unfinished = files::read(&self.places.incomplete)?;
        let leftover = unfinished.is_some_and(|mark| mark != REWINDING);
        if !leftover && !files::is_empty_dir(&self.places.data_dir)? {
            return refuse(format!("{} is not empty", self.places.data_dir.display()));
        }
        Ok(())
    }

    /// Marks the directory as half written.
    pub(super) async fn mark(&self, mark: &str) -> Result<(), Error> {
        if let Some(parent) = self.places.incomplete.parent() {
            std::fs::create_dir_all(parent).map_err(files::failed("create", parent))?;
        }
        files::write(&self.places.incomplete, mark.to_owned()).await?;
        Ok(())
    }

    /// Marks the directory as half written while `work` runs. It is emptied before, and after a
    /// failure, unless its contents are of use (`keep_data`): then it stays marked.
    pub(super) async fn fill(
        &self,
        mark: &str,
        keep_data: bool,
        work: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        self.mark(mark).await?;
        if !keep_data {
            self.wipe().await?;
        }
        let result = work.await;
        match (&result, keep_data) {
            (Err(_), true) => return result,
            (Err(_), false) => self.wipe().await?,
            (Ok(()), _) => {}
        }
        files::remove(&self.places.incomplete)?;
        result
    }

    /// A new database system by the configured method; `bootstrap.pg_hba` is appended when
    /// `postgresql.pg_hba` is absent. The directory must be absent or empty. It stays marked as
    /// half written until [`Server::bootstrapped`].
    ///
    /// # Errors
    /// When an option is not possible, the directory is in use, or the program fails.
    pub async fn create(&self, method: &BootstrapMethod, deadline: Duration) -> Result<(), Error> {
        self.must_be_unused("create a database system")?;
        match method {
            BootstrapMethod::Initdb => {
                let arguments = initdb_arguments(&self.places.initdb_options)?;
                self.mark(INITIALISING).await?;
                self.wipe().await?;
                self.initdb(&arguments).await
            }
            BootstrapMethod::Custom { command, keep_existing, .. } => {
                self.mark(INITIALISING).await?;
                self.wipe().await?;
                self.custom(command, deadline).await?;
                if !keep_existing {
                    self.forget_source()?;
                    files::remove(&self.places.data(conf::STANDBY_SIGNAL))?;
                }
                Ok(())
            }
        }
    }

    /// The new database system is complete.
    ///
    /// # Errors
    /// When the mark can't be removed.
    pub fn bootstrapped(&self) -> Result<(), Error> {
        files::remove(&self.places.incomplete)
    }

    /// Ends what an earlier agent has left at work on the directory, and stops what it had begun as
    /// a new database system and did not finish.
    ///
    /// # Errors
    /// When it can't be stopped.
    pub async fn abandon_unfinished(&self) -> Result<(), Error> {
        let ended = self.end_leftovers().await?;
        if ended > 0 {
            tracing::warn!(ended, "programs of an earlier agent were at work here; ended");
        }
        let begun = files::read(&self.places.incomplete)?.as_deref() == Some(INITIALISING);
        if !begun || Postmaster::find(&self.places)?.is_none() {
            return Ok(());
        }
        tracing::warn!("stopping a bootstrap that an earlier agent did not finish");
        self.stop(StopMode::Immediate, QUERY_DEADLINE).await.map(|_| ())
    }

    async fn initdb(&self, arguments: &[String]) -> Result<(), Error> {
        let superuser = self.places.superuser();
        let mut tool = Tool::new(&self.places.program("initdb"))
            .arg("--pgdata")
            .arg(&self.places.data_dir)
            .arg(format!("--username={}", superuser.username))
            .env(WORKS_ON, &self.places.data_dir);
        for argument in arguments {
            tool = tool.arg(argument);
        }
        let pwfile = self.places.beside(&format!(".{}.pwfile", self.places.name));
        if let Some(password) = superuser.password {
            files::write(&pwfile, format!("{password}\n")).await?;
            tool = tool.arg(format!("--pwfile={}", pwfile.display()));
        }
        let result = tool.output(INITDB_DEADLINE).await;
        files::remove(&pwfile)?;
        result?;
        self.append_hba().await
    }

    /// A command of the configuration (contract E.4).
    async fn custom(&self, command: &ConfiguredCommand, deadline: Duration) -> Result<(), Error> {
        let mut tool = Tool::configured(&command.words);
        if !command.no_params {
            tool = tool
                .arg(format!("--scope={}", self.places.scope))
                .arg(format!("--datadir={}", self.places.data_dir.display()));
        }
        for option in &command.options {
            tool = tool.arg(option);
        }
        let name = command.words.first().cloned().unwrap_or_default();
        let mut said = |line: &str| tracing::info!(command = name, "{line}");
        let mut warned = |line: &str| tracing::info!(command = name, "{line}");
        tool.run(deadline, &mut said, &mut warned).await?;
        // What the command has made must be a database system.
        control::read(&self.places).await.map(|_| ())
    }

    /// The settings for the first start of a database system that came from elsewhere: its
    /// superuser may have another password, so for this once its own host is trusted.
    ///
    /// # Errors
    /// When `pg_hba.conf` can't be read.
    pub fn trusting(&self, settings: &Effective) -> Result<(Effective, Option<String>), Error> {
        let before = files::read(&self.places.data(conf::HBA))?;
        let user = self.places.superuser().username.replace('"', "\"\"");
        // Not the address that is connected to: the kernel may choose another one of this host's
        // as the source.
        let lines = vec![
            format!("local all \"{user}\" trust"),
            format!("host all \"{user}\" samehost trust"),
        ];
        Ok((Effective { pg_hba: Some(lines), ..settings.clone() }, before))
    }

    /// Back to the configured `pg_hba.conf`, or to the one that was there.
    ///
    /// # Errors
    /// When a file can't be written, or PostgreSQL does not accept a setting.
    pub async fn distrust(
        &self,
        settings: &Effective,
        before: Option<String>,
    ) -> Result<(), Error> {
        if settings.pg_hba.is_none() {
            files::write(&self.places.data(conf::HBA), before.unwrap_or_default()).await?;
            self.append_hba().await?;
        }
        self.apply_settings(settings).await.map(|_| ())
    }

    /// Runs `post_bootstrap` once, with a connection string as its argument.
    ///
    /// # Errors
    /// When it fails or takes longer than `deadline`.
    pub async fn post_bootstrap(
        &self,
        command: &[String],
        deadline: Duration,
    ) -> Result<(), Error> {
        let target = self.local_target("")?;
        let pgpass = &self.places.pgpass;
        passfile::write(&self.places, &[(target.host.clone(), target.port)]).await?;
        let conninfo = format!(
            "host={} port={} user={} dbname={}",
            conninfo_value(&target.host),
            target.port,
            conninfo_value(&target.user),
            conninfo_value(&target.database)
        );
        let name = command.first().cloned().unwrap_or_default();
        let mut said = |line: &str| tracing::info!(command = name, "{line}");
        let mut warned = |line: &str| tracing::info!(command = name, "{line}");
        Tool::configured(command)
            .arg(conninfo)
            .env("PGPASSFILE", pgpass)
            .env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0")
            .run(deadline, &mut said, &mut warned)
            .await
    }

    async fn append_hba(&self) -> Result<(), Error> {
        if self.places.own_hba || self.places.bootstrap_hba.is_empty() {
            return Ok(());
        }
        let path = self.places.config_dir.join(conf::HBA);
        let mut text = files::read(&path)?.unwrap_or_default();
        for line in &self.places.bootstrap_hba {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        files::write(&path, text).await?;
        Ok(())
    }

    /// The replication user and the user of pg_rewind, on the primary; the superuser as well
    /// (`superuser`), where the database system came from elsewhere. Idempotent: passwords are set
    /// again, rights are added.
    ///
    /// # Errors
    /// When no replication user is configured, or the server refuses.
    pub async fn create_users(&self, superuser: bool) -> Result<(), Error> {
        let target = self.local_target(NO_TRACE)?;
        let mut session = Session::connect(&target, QUERY_DEADLINE, QUERY_DEADLINE).await?;
        if superuser {
            ensure_role(&mut session, &self.places.superuser(), "SUPERUSER LOGIN").await?;
        }
        let replication = self.places.replication()?;
        ensure_role(&mut session, &replication, "LOGIN REPLICATION").await?;
        if let Some(rewind) = self.places.rewind_user() {
            ensure_role(&mut session, &rewind, "LOGIN").await?;
            for function in REWIND_FUNCTIONS {
                let sql = "SELECT format('GRANT EXECUTE ON FUNCTION pg_catalog.%s TO %I',
                           $1::text, $2::text)";
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
                    [&function, &rewind.username];
                let action = format!("grant {function} to {}", rewind.username);
                run_built(&mut session, &action, sql, &parameters).await?;
            }
        }
        Ok(())
    }
}

/// Runs the statement that `sql` puts together: the server itself quotes names and passwords.
async fn run_built(
    session: &mut Session,
    action: &str,
    sql: &'static str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<(), Error> {
    let built = session.text(action, sql, parameters, QUERY_DEADLINE).await?;
    session.execute(action, &built.unwrap_or_default(), QUERY_DEADLINE).await
}

async fn ensure_role(
    session: &mut Session,
    user: &Credentials,
    rights: &'static str,
) -> Result<(), Error> {
    let action = format!("create the user {}", user.username);
    let name = &user.username;
    let sql = "SELECT format('%s ROLE %I WITH %s', CASE WHEN EXISTS
                 (SELECT FROM pg_roles WHERE rolname = $1::text) THEN 'ALTER' ELSE 'CREATE' END,
               $1::text, $2::text)";
    run_built(session, &action, sql, &[name, &rights]).await?;
    let Some(password) = &user.password else { return Ok(()) };
    let action = format!("set the password of {name}");
    let sql = "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)";
    run_built(session, &action, sql, &[name, password]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn initdb_options_in_each_form() {
        let options =
            [json!("data-checksums"), json!({"encoding": "UTF8"}), json!({"wal-segsize": 1})];
        assert_eq!(
            initdb_arguments(&options).expect("options"),
            ["--data-checksums", "--encoding=UTF8", "--wal-segsize=1"]
        );
    }

    #[test]
    fn impossible_options_are_named() {
        for (option, named) in [
            (json!("nosync"), "nosync"),
            (json!({"pgdata": "/x"}), "pgdata"),
            (json!("--pwfile"), "pwfile"),
            (json!(["x"]), "[\"x\"]"),
            (json!({"encoding": null}), "encoding"),
        ] {
            let problem = initdb_arguments(&[option]).expect_err("accepted").to_string();
            assert!(
                problem.starts_with("bootstrap.initdb") && problem.contains(named),
                "{problem}"
            );
        }
    }
}
