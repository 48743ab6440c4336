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
        let built = modified(&program)
            .map_err(|error| format!("no program {}: {error}", program.display()))?;
        if check_age {
            check_sources(&program, built)?;
        }
    }
    let federator = directory.join("federator");
    let bytes = fs::read(&federator).map_err(|e| format!("{}: {e}", federator.display()))?;
    let can_crash = bytes.windows(CRASH_VARIABLE.len()).any(|window| window == CRASH_VARIABLE);
    let fault = || format!("{} was built without crash points", federator.display());
    if can_crash { Ok(()) } else { Err(fault()) }
}

/// Cargo lists the sources of a program beside it.
fn check_sources(program: &Path, built: SystemTime) -> Result<(), String> {
    let list = program.with_extension("d");
    let text = fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    for source in listed(&text) {
        let changed = modified(&source).map_err(|error| {
            format!("{} needs {}: {error}", program.display(), source.display())
        })?;
        if changed > built {
            return Err(format!("{} is older than {}", program.display(), source.display()));
        }
    }
    Ok(())
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// The paths after the colon of `target: path path`; a blank in a path has a backslash before it.
fn listed(text: &str) -> Vec<PathBuf> {
    let Some((_, sources)) = text.trim_end().split_once(": ") else { return Vec::new() };
    let hidden = sources.replace("\\ ", "\0");
    hidden.split(' ').map(|path| PathBuf::from(path.replace('\0', " "))).collect()
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
    fn the_list_of_sources_is_taken_apart() {
        let paths = listed("/t/a: /src/a.rs /my\\ src/b.rs\n");
        assert_eq!(paths, [Path::new("/src/a.rs"), Path::new("/my src/b.rs")]);
        assert_eq!(listed("/t/a:\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_program_that_is_older_than_its_source_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (program, source) = (dir.path().join("a"), dir.path().join("a.rs"));
        fs::write(&source, "").unwrap();
        fs::write(dir.path().join("a.d"), format!("a: {}\n", source.display())).unwrap();
        check_sources(&program, modified(&source).unwrap()).unwrap();
        let fault = check_sources(&program, SystemTime::UNIX_EPOCH).unwrap_err();
        assert!(fault.ends_with("a.rs") && fault.contains(" is older than "), "{fault}");
        fs::remove_file(&source).unwrap();
        assert!(check_sources(&program, SystemTime::now()).is_err(), "a source that is gone");
    }
}
