//! Consent: a person says yes, or a flag does. A promotion that can lose data needs the
//! federation's name.

use super::{Exit, Session};
use std::io::{BufRead, IsTerminal, Write};

/// What has to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// y, or `--yes`.
    Yes,
    /// The federation's name, or `--confirm NAME`.
    Name,
}

/// How the flags answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Go on.
    Given,
    /// Ask the person.
    Ask,
    /// `--confirm` with another name.
    OtherName,
}

/// What the flags say.
pub(crate) fn by_flags(needed: Needed, yes: bool, confirm: Option<&str>, name: &str) -> Answer {
    match (needed, confirm, yes) {
        (_, Some(given), _) if given != name => Answer::OtherName,
        (_, Some(_), _) | (Needed::Yes, None, true) => Answer::Given,
        (Needed::Name, None, _) | (Needed::Yes, None, false) => Answer::Ask,
    }
}

/// Gets consent, or the exit code to end with.
pub(crate) fn ask(session: &Session, needed: Needed) -> Result<(), Exit> {
    let name = &session.federation.settings.federation;
    match by_flags(needed, session.common.yes, session.common.confirm.as_deref(), name) {
        Answer::Given => return Ok(()),
        Answer::OtherName => {
            eprintln!("error: --confirm must be the federation's name, {name}");
            return Err(Exit::Usage);
        }
        Answer::Ask => {}
    }
    if !std::io::stdin().is_terminal() {
        let flag = match needed {
            Needed::Yes => "--yes".to_owned(),
            Needed::Name => format!("--confirm {name}"),
        };
        eprintln!("refused: nobody can be asked, standard input is not a terminal");
        eprintln!("hint: add {flag}; nothing was changed");
        return Err(Exit::Refused);
    }
    match needed {
        Needed::Yes => print!("Go on? [y/N] "),
        Needed::Name => print!("This can lose data. Type the federation's name to go on: "),
    }
    let _ = std::io::stdout().flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let typed = line.trim();
    let agreed = read.is_ok()
        && match needed {
            Needed::Yes => matches!(typed, "y" | "Y" | "yes"),
            Needed::Name => typed == name,
        };
    if agreed {
        return Ok(());
    }
    println!("Nothing was changed.");
    Err(Exit::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        for (needed, yes, confirm, expected) in [
            (Needed::Yes, true, None, Answer::Given),
            (Needed::Yes, false, None, Answer::Ask),
            (Needed::Yes, false, Some("shop"), Answer::Given),
            (Needed::Name, true, None, Answer::Ask),
            (Needed::Name, false, Some("shop"), Answer::Given),
            (Needed::Name, true, Some("chop"), Answer::OtherName),
            (Needed::Yes, true, Some("chop"), Answer::OtherName),
        ] {
            assert_eq!(by_flags(needed, yes, confirm, "shop"), expected, "{needed:?} {yes}");
        }
    }
}
