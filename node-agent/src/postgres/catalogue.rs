//! Which parameters this version of PostgreSQL knows. One unknown name in the file keeps every
//! reload from taking effect, also those that change the synchronous standbys, and keeps the
//! server from starting; so unknown ones are left out, with a warning.

use super::command::Tool;
use super::{Effective, Error, Server};
use std::collections::BTreeMap;
use std::time::Duration;

/// The program only prints.
const DEADLINE: Duration = Duration::from_secs(5);

/// The names in the output of `postgres --describe-config`, one a line before a tab.
fn described(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| line.split_once('\t')).map(|(name, _)| name.to_ascii_lowercase())
}

impl Server {
    /// The settings without parameters that this PostgreSQL does not know. Names with a dot belong
    /// to extensions, and are accepted whether they are loaded or not.
    pub(super) async fn known_only(&self, settings: &Effective) -> Result<Effective, Error> {
        let mut known = settings.clone();
        let mut left_out = Vec::new();
        for name in settings.parameters.keys().filter(|name| !name.contains('.')) {
            if !self.knows(name).await? {
                known.parameters.remove(name);
                left_out.push(name.clone());
            }
        }
        for name in settings.recovery_conf.keys() {
            if !self.knows(name).await? {
                known.recovery_conf.remove(name);
                left_out.push(name.clone());
            }
        }
        let mut memory = self.memory();
        for name in left_out.iter().filter(|name| !memory.left_out.contains(name)) {
            tracing::warn!(
                parameter = %name,
                "this PostgreSQL does not know the parameter; it is left out of postgresql.conf"
            );
        }
        memory.left_out = left_out;
        Ok(known)
    }

    async fn knows(&self, name: &str) -> Result<bool, Error> {
        if self.memory().parameters.is_empty() {
            let tool = Tool::new(&self.places.program("postgres")).arg("--describe-config");
            let text = tool.output(DEADLINE).await?;
            let all: BTreeMap<String, bool> = described(&text).map(|name| (name, true)).collect();
            self.memory().parameters = all;
        }
        if let Some(known) = self.memory().parameters.get(name) {
            return Ok(*known);
        }
        // The list lacks the developer options: those are asked for one by one.
        let (status, stderr) = Tool::new(&self.places.program("postgres"))
            .arg("-D")
            .arg(&self.places.data_dir)
            .arg("--config-file=/dev/null")
            .arg("-C")
            .arg(name)
            .run_leniently(DEADLINE, &mut |_| {}, &mut |_| {})
            .await?;
        let known = status.success() || !stderr.contains("unrecognized configuration parameter");
        self.memory().parameters.insert(name.to_owned(), known);
        Ok(known)
    }

    /// Parameters of the configuration that were left out because PostgreSQL does not know them.
    #[must_use]
    pub fn unknown_parameters(&self) -> Vec<String> {
        self.memory().left_out.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_before_the_first_tab() {
        let text = "DateStyle\tuser\tClient\nwork_mem\tuser\tResource\n\nno tab\n";
        assert_eq!(described(text).collect::<Vec<_>>(), ["datestyle", "work_mem"]);
    }
}
