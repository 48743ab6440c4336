//! Our programs under test: found beside the running test, and as new as their sources.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

/// Set to a directory, this variable names the programs to be tested; their age is not checked.
pub const BIN_DIR: &str = "FEDERATOR_BIN_DIR";
/// What builds them.
const BUILD: &str = "cargo build --workspace --features federator/crash-points";
const NAMES: [&str; 4] = ["node-agent", "node-agent-guard", "federator", "lab"];
/// Only a federator with crash points contains the name of the variable.
const CRASH_VARIABLE: &[u8] = b"FEDERATOR_CRASH_AT";

/// The repository.
#[must_use]
pub fn repository() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// The directory of the programs; they have been checked.
///
/// # Panics
/// When one is missing, older than a source file, or cannot crash where a test asks for it. The
/// message has the command to run.
#[must_use]
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let chosen = env::var_os(BIN_DIR).map(PathBuf::from);
        let directory = chosen.clone().unwrap_or_else(profile_directory);
        if let Err(fault) = check(&directory, chosen.is_none()) {
            panic!("{fault}\nHINT: {BUILD}");
        }
        directory
    })
}

/// Where the logs of a failed test go.
#[must_use]
pub fn artifacts(test: &str) -> PathBuf {
    let profile = profile_directory();
    profile.parent().unwrap_or(&profile).join("test-artifacts").join(test)
}

/// Where things are kept that are expensive to make.
#[must_use]
pub fn cache(name: &str) -> PathBuf {
    let profile = profile_directory();
    profile.parent().unwrap_or(&profile).join("test-cache").join(name)
}

/// `target/<profile>`: a test runs in `deps` below it.
fn profile_directory() -> PathBuf {
    let own = env::current_exe().unwrap_or_else(|error| panic!("cannot find myself: {error}"));
    let above = own.ancestors().skip(1).find(|dir| !dir.ends_with("deps"));
    above.unwrap_or(Path::new(".")).to_owned()
}

fn check(directory: &Path, check_age: bool) -> Result<(), String> {
    for name in NAMES {
        let program = directory.join(name);
        let built = fs::metadata(&program).and_then(|meta| meta.modified());
        let built = built.map_err(|error| format!("no program {}: {error}", program.display()))?;
        if check_age && let Some(source) = newest_source(repository()).filter(|s| s.0 > built) {
            let source = source.1.display();
            return Err(format!("{} is older than {source}", program.display()));
        }
    }
    let federator = directory.join("federator");
    let bytes = fs::read(&federator).map_err(|e| format!("{}: {e}", federator.display()))?;
    let can_crash = bytes.windows(CRASH_VARIABLE.len()).any(|window| window == CRASH_VARIABLE);
    let fault = || format!("{} was built without crash points", federator.display());
    if can_crash { Ok(()) } else { Err(fault()) }
}

/// The source file of our programs that changed last. Tests and scenarios are none of them.
fn newest_source(root: &Path) -> Option<(SystemTime, PathBuf)> {
    let crates = ["node-agent", "federator", "topologies/lab"].map(|name| root.join(name));
    let files = crates.iter().flat_map(|dir| crate::repository::files_below(dir));
    let sources = files.filter(|path| {
        let code = path.extension().is_some_and(|e| e == "rs" || e == "proto" || e == "toml");
        let words = path.to_string_lossy();
        code && !words.contains("/tests/") && !words.contains("_tests.rs")
    });
    sources.filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path))).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let fault = check(Path::new("/nowhere"), false).unwrap_err();
        assert!(fault.starts_with("no program /nowhere/node-agent: "), "{fault}");
    }

    #[test]
    fn sources_are_looked_at() {
        let (_, newest) = newest_source(repository()).unwrap();
        assert!(newest.is_file() && newest.starts_with(repository()), "{}", newest.display());
    }
}
