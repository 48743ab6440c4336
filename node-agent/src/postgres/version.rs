//! Which PostgreSQL this is: by its programs, so that it is known before there is a data directory.

use super::command::Tool;
use super::{Error, Server};
use std::time::Duration;

/// The program only prints.
const DEADLINE: Duration = Duration::from_secs(5);

/// pg_rewind takes a standby for its source.
const FIRST_WITH_STANDBYS: u32 = 14;

/// The major version in `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`; also of `18beta1`.
fn major_in(text: &str) -> Option<u32> {
    let version = text.split_once(") ")?.1;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version.get(..digits)?.parse().ok()
}

impl Server {
    /// The major version of the programs in `bin_dir`.
    pub(super) async fn major(&self) -> Result<u32, Error> {
        if let Some(major) = self.memory().major {
            return Ok(major);
        }
        let tool = Tool::new(&self.places.program("postgres")).arg("--version");
        let text = tool.output(DEADLINE).await?;
        let major = major_in(text.trim()).ok_or_else(|| Error::Answer {
            what: "postgres --version".to_owned(),
            answer: text.trim().to_owned(),
        })?;
        self.memory().major = Some(major);
        Ok(major)
    }

    /// Whether pg_rewind refuses a standby as its source (release notes of PostgreSQL 14). Of
    /// programs that can't be asked, it is said that it does.
    pub async fn rewinds_to_primary_only(&self) -> bool {
        self.major().await.map_or(true, |major| major < FIRST_WITH_STANDBYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_distributions_print_them() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18.4", Some(18)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) devel", None),
            ("bash", None),
        ] {
            assert_eq!(major_in(text), major, "{text}");
        }
    }
}
