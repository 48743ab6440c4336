//! Settings of a running or stopped server: parameters, upstream, synchronous standbys.

use super::conf::{self, Receiver};
use super::process::Postmaster;
use super::{Effective, Error, POLL, QUERY_DEADLINE, Server, connection, files, passfile, pending};
use node_agent_core::postgres::Upstream;
use rustix::process::Signal;
use tokio::time::Instant;

/// Errors of the files as PostgreSQL reads them now; what waits for a restart is no error.
const FILE_ERRORS: &str = "
SELECT string_agg(format('%s line %s: %s: %s', sourcefile, sourceline, name, error), '; ')
FROM pg_file_settings WHERE error IS NOT NULL AND (name IS NULL OR name NOT IN
  (SELECT name FROM pg_settings WHERE context = 'postmaster'))";

impl Server {
    /// `postgresql.conf` (the original becomes `postgresql.base.conf` the first time),
    /// `pg_hba.conf` and `pg_ident.conf` when they are given and PostgreSQL reads them there, and
    /// no recovery parameter in `postgresql.auto.conf`. True when something differed.
    pub(super) async fn write_settings(&self, settings: &Effective) -> Result<bool, Error> {
        let places = &self.places;
        self.restore_copies().await?;
        let (main, base) = (places.main_conf(), places.base_conf());
        if settings.custom_conf.is_none()
            && let Some(found) = files::read(&main)?
            && !conf::is_made(&found)
        {
            files::write(&base, found).await?;
        }
        let settings = &self.known_only(settings).await?;
        let (hba, ident) = (places.config_dir.join(conf::HBA), places.config_dir.join(conf::IDENT));
        let apart = places.config_dir != places.data_dir;
        let around = conf::Around {
            base: settings.custom_conf.as_deref().unwrap_or(&base),
            data_dir: apart.then_some(places.data_dir.as_path()),
            access: apart.then_some((hba.as_path(), ident.as_path())),
        };
        let mut changed = files::write(&main, conf::postgresql_conf(settings, &around)).await?;
        if let Some(lines) = &settings.pg_hba
            && !settings.parameters.contains_key("hba_file")
        {
            changed |= files::write(&hba, conf::pg_hba(lines)).await?;
        }
        if let Some(lines) = &settings.pg_ident
            && !settings.parameters.contains_key("ident_file")
        {
            changed |= files::write(&ident, conf::pg_ident(lines)).await?;
        }
        let auto = places.data(conf::AUTO);
        if let Some(text) = files::read(&auto)? {
            let kept = conf::without_recovery(&text);
            if kept.lines().ne(text.lines()) {
                changed |= files::write(&auto, kept).await?;
            }
        }
        self.save_copies().await?;
        Ok(changed)
    }

    /// The files that are copied into the data directory, so that a clone brings them along where
    /// they are kept elsewhere.
    fn copied(&self) -> [std::path::PathBuf; 4] {
        let places = &self.places;
        let (hba, ident) = (places.config_dir.join(conf::HBA), places.config_dir.join(conf::IDENT));
        [places.main_conf(), places.base_conf(), hba, ident]
    }

    fn copy_of(&self, file: &std::path::Path) -> std::path::PathBuf {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        self.places.data(&format!("{name}.backup"))
    }

    async fn save_copies(&self) -> Result<(), Error> {
        for file in self.copied() {
            if let Some(text) = files::read(&file)? {
                files::write(&self.copy_of(&file), text).await?;
            }
        }
        Ok(())
    }

    /// A file that is missing comes back from its copy.
    async fn restore_copies(&self) -> Result<(), Error> {
        for file in self.copied() {
            if !file.exists()
                && let Some(text) = files::read(&self.copy_of(&file))?
            {
                tracing::info!(file = %file.display(), "restored from its copy");
                files::write(&file, text).await?;
            }
        }
        Ok(())
    }

    async fn receiver(&self, upstream: &Upstream) -> Result<Receiver<'_>, Error> {
        let user = self.places.replication()?;
        let user = match upstream {
            Upstream::Remote { .. } => user.across(),
            Upstream::Member { .. } | Upstream::Archive { .. } | Upstream::Nobody => user,
        };
        let krbsrvname = self.places.krbsrvname.as_deref();
        let major = self.major().await?;
        Ok(Receiver {
            name: &self.places.name,
            user: user.username.clone(),
            passfile: &self.places.pgpass,
            database: connection::names_database(major).then_some(&*self.places.database),
            connection: connection::pairs(&user, krbsrvname, major),
        })
    }

    /// True when the file differed.
    pub(super) async fn write_upstream(
        &self,
        upstream: &Upstream,
        settings: &Effective,
    ) -> Result<bool, Error> {
        passfile::write(&self.places, &conf::hosts_of(upstream)).await?;
        let settings = &self.known_only(settings).await?;
        let text = conf::upstream_conf(upstream, &self.receiver(upstream).await?, settings);
        files::write(&self.places.data(conf::UPSTREAM), text).await
    }

    /// Rewrites the files where they differ and reloads. True when something was changed. What
    /// needs a restart shows as `pending_restart` in the next observation.
    ///
    /// # Errors
    /// When a file can't be written, or PostgreSQL does not accept a value: the rest is in effect.
    pub async fn apply_settings(&self, settings: &Effective) -> Result<bool, Error> {
        let mut changed = self.write_settings(settings).await?;
        if let Some(upstream) = self.following() {
            changed |= self.write_upstream(&upstream, settings).await?;
        }
        let Some(postmaster) = Postmaster::find(&self.places)? else { return Ok(changed) };
        let wanted = conf::arguments(settings, None);
        let differ = pending::differing(&postmaster.arguments(), &wanted);
        self.memory().arguments_differ = differ;
        if !changed {
            return Ok(false);
        }
        postmaster.signal(Signal::HUP)?;
        if postmaster.file.status == "ready" {
            let mut session = self.borrow(QUERY_DEADLINE).await?;
            let action = "check its configuration files";
            if let Some(reason) = session.text(action, FILE_ERRORS, &[], QUERY_DEADLINE).await? {
                return Err(Error::Refused { action: "apply all settings".to_owned(), reason });
            }
            self.give_back(session);
        }
        Ok(true)
    }

    /// Reloads if need be and waits until sessions see the value.
    async fn bring_into_force(
        &self,
        parameter: &str,
        wanted: &str,
        file_changed: bool,
    ) -> Result<(), Error> {
        let Some(postmaster) = Postmaster::find(&self.places)? else { return Ok(()) };
        let mut reloaded = file_changed;
        if reloaded {
            postmaster.signal(Signal::HUP)?;
        }
        if postmaster.file.status != "ready" {
            return Ok(());
        }
        let end = Instant::now() + QUERY_DEADLINE;
        let mut session = self.borrow(QUERY_DEADLINE).await?;
        let sql = "SELECT current_setting($1)";
        let action = format!("show {parameter}");
        loop {
            let value = session.text(&action, sql, &[&parameter], QUERY_DEADLINE).await?;
            if value.as_deref() == Some(wanted) {
                self.give_back(session);
                return Ok(());
            }
            if !reloaded {
                // Written before, and the reload was lost with the agent that wrote it.
                postmaster.signal(Signal::HUP)?;
                reloaded = true;
            }
            if Instant::now() >= end {
                let errors = session.text(&action, FILE_ERRORS, &[], QUERY_DEADLINE).await?;
                let cause = errors.unwrap_or_else(|| {
                    "an ALTER SYSTEM value, or one of the command line, wins over the file"
                        .to_owned()
                });
                return Err(Error::Deadline {
                    what: format!("the new {parameter} to be in force ({cause})"),
                    waited: QUERY_DEADLINE,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Points the standby at another upstream, by reload when it runs.
    ///
    /// # Errors
    /// When a file can't be written or the reload does not take effect.
    pub async fn follow(&self, upstream: &Upstream, settings: &Effective) -> Result<(), Error> {
        let changed = self.write_upstream(upstream, settings).await?;
        let conninfo = conf::primary_conninfo(upstream, &self.receiver(upstream).await?);
        self.bring_into_force("primary_conninfo", &conninfo, changed).await?;
        let slot = conf::slot_name(upstream, &self.places.name, settings.use_slots);
        let slot = slot.as_ref().map_or("", |slot| slot.as_str());
        self.bring_into_force("primary_slot_name", slot, false).await
    }

    /// The upstream that `start` or `follow` applied last, by this agent or the one before it.
    #[must_use]
    pub fn following(&self) -> Option<Upstream> {
        let text = files::read(&self.places.data(conf::UPSTREAM)).ok()??;
        conf::read_upstream(&text)
    }

    /// Sets `synchronous_standby_names`; `None` leaves it to the configured value. Returns when
    /// sessions see it. It outlives a restart of agent and server.
    ///
    /// A walsender and the checkpointer read the file on their own: a standby counts as
    /// synchronous only once `pg_stat_replication` shows it so and it has passed a position
    /// written after this call.
    ///
    /// # Errors
    /// When the file can't be written, or another place of the configuration wins over it.
    pub async fn set_sync_names(&self, names: Option<&str>) -> Result<(), Error> {
        let path = self.places.data(conf::SYNC);
        let Some(names) = names else {
            files::remove(&path)?;
            if let Some(postmaster) = Postmaster::find(&self.places)? {
                postmaster.signal(Signal::HUP)?;
            }
            return Ok(());
        };
        let changed = files::write(&path, conf::sync_conf(names)).await?;
        self.bring_into_force("synchronous_standby_names", names, changed).await
    }

    /// Whether [`Self::set_sync_names`] is in force, and not a value of the user's.
    #[must_use]
    pub fn owns_sync_names(&self) -> bool {
        self.places.data(conf::SYNC).exists()
    }
}
