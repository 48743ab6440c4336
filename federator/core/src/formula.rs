//! Which evidence a promotion needs, as a formula that the federation agreed on beforehand:
//! `acknowledged or lease-expired or (fenced-by-hook and attested)`.
//!
//! There is no `not` and no constant, so a formula can only grow true with more evidence, and none
//! is true without any. `and` binds tighter than `or`.

use node_agent_wire::federation::Evidence;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// The longest formula that is read, in bytes.
pub const LENGTH_MAX: usize = 1000;
/// How deep parentheses may be nested.
const DEPTH_MAX: u32 = 16;

/// The kinds of evidence, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceKind {
    /// The former primary's agents confirmed the demotion.
    Acknowledged,
    /// A majority of the site grants is held at the new epoch.
    LeaseExpired,
    /// The configured fencer exited with 0.
    FencedByHook,
    /// An operator states it.
    Attested,
}

impl EvidenceKind {
    /// All of them, best first.
    pub const ALL: [Self; 4] =
        [Self::Acknowledged, Self::LeaseExpired, Self::FencedByHook, Self::Attested];

    /// Of recorded evidence.
    #[must_use]
    pub fn of(evidence: &Evidence) -> Self {
        match evidence {
            Evidence::Acknowledged { .. } => Self::Acknowledged,
            Evidence::LeaseExpired { .. } => Self::LeaseExpired,
            Evidence::FencedByHook { .. } => Self::FencedByHook,
            Evidence::Attested { .. } => Self::Attested,
        }
    }

    /// The name in formulas, records and documents; that of [`Evidence::name`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::LeaseExpired => "lease-expired",
            Self::FencedByHook => "fenced-by-hook",
            Self::Attested => "attested",
        }
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Some kinds of evidence.
pub type Kinds = BTreeSet<EvidenceKind>;

/// The names of some kinds, best first, with `joint` between.
#[must_use]
pub fn names(kinds: &Kinds, joint: &str) -> String {
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(joint)
}

/// A text that is no formula: where it goes wrong, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {expected} is expected, {found} is there")]
pub struct FormulaError {
    /// The character, counted from 1.
    pub at: usize,
    /// What may stand there.
    pub expected: String,
    /// What does.
    pub found: String,
}

/// A formula.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formula {
    /// Evidence of this kind.
    Kind(EvidenceKind),
    /// Each of these.
    All(Vec<Formula>),
    /// One of these.
    Any(Vec<Formula>),
}

impl Formula {
    /// Reads a formula.
    ///
    /// # Errors
    /// Where it goes wrong.
    pub fn parse(text: &str) -> Result<Self, FormulaError> {
        if text.len() > LENGTH_MAX {
            return Err(FormulaError {
                at: LENGTH_MAX + 1,
                expected: format!("a formula of at most {LENGTH_MAX} bytes"),
                found: format!("one of {}", text.len()),
            });
        }
        let mut reader = Reader { tokens: tokens(text)?, next: 0, end: text.chars().count() + 1 };
        let formula = reader.any(0)?;
        match reader.peek() {
            None => Ok(formula),
            Some(_) => Err(reader.error("\"and\", \"or\" or the end")),
        }
    }

    /// Whether evidence of these kinds is enough.
    #[must_use]
    pub fn satisfied(&self, have: &Kinds) -> bool {
        match self {
            Self::Kind(kind) => have.contains(kind),
            Self::All(parts) => parts.iter().all(|part| part.satisfied(have)),
            Self::Any(parts) => parts.iter().any(|part| part.satisfied(have)),
        }
    }

    /// The smallest sets of kinds that are enough, those of fewest kinds first.
    #[must_use]
    pub fn ways(&self) -> Vec<Kinds> {
        let count = EvidenceKind::ALL.len();
        let mut sets: Vec<Kinds> = (0_u32..1 << count)
            .map(|bits| {
                let with = EvidenceKind::ALL.iter().enumerate();
                with.filter(|(index, _)| (bits >> index) & 1 == 1).map(|(_, kind)| *kind).collect()
            })
            .filter(|set| self.satisfied(set))
            .collect();
        sets.sort_by_key(|set| (set.len(), set.clone()));
        let mut ways: Vec<Kinds> = Vec::new();
        for set in sets {
            if !ways.iter().any(|way| way.is_subset(&set)) {
                ways.push(set);
            }
        }
        ways
    }

    /// What is missing beside `have`, each alternative that can't be had with less; empty when
    /// nothing is.
    #[must_use]
    pub fn missing(&self, have: &Kinds) -> Vec<Kinds> {
        if self.satisfied(have) {
            return Vec::new();
        }
        let mut rests: Vec<Kinds> =
            self.ways().iter().map(|way| way.difference(have).copied().collect()).collect();
        rests.sort_by_key(|rest: &Kinds| (rest.len(), rest.clone()));
        let mut least: Vec<Kinds> = Vec::new();
        for rest in rests {
            if !least.iter().any(|smaller| smaller.is_subset(&rest)) {
                least.push(rest);
            }
        }
        least
    }
}

impl fmt::Display for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, parts: &[Self], joint: &str| {
            for (index, part) in parts.iter().enumerate() {
                let before = if index > 0 { joint } else { "" };
                match part {
                    Self::Kind(_) => write!(f, "{before}{part}")?,
                    Self::All(_) | Self::Any(_) => write!(f, "{before}({part})")?,
                }
            }
            Ok(())
        };
        match self {
            Self::Kind(kind) => f.write_str(kind.name()),
            Self::All(parts) => joined(f, parts, " and "),
            Self::Any(parts) => joined(f, parts, " or "),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
}

/// The tokens with their places, counted from 1.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FormulaError> {
    let mut found: Vec<(usize, Token)> = Vec::new();
    let mut in_word = false;
    for (index, character) in text.chars().enumerate() {
        let part_of_word = character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
        match (character, found.last_mut()) {
            (_, Some((_, Token::Word(word)))) if part_of_word && in_word => word.push(character),
            _ if part_of_word => found.push((index + 1, Token::Word(character.to_string()))),
            ('(', _) => found.push((index + 1, Token::Open)),
            (')', _) => found.push((index + 1, Token::Close)),
            _ if character.is_whitespace() => {}
            _ => {
                return Err(FormulaError {
                    at: index + 1,
                    expected: "a word or a parenthesis".into(),
                    found: format!("{character:?}"),
                });
            }
        }
        in_word = part_of_word;
    }
    Ok(found)
}

struct Reader {
    tokens: Vec<(usize, Token)>,
    next: usize,
    /// The place behind the last character.
    end: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn error(&self, expected: &str) -> FormulaError {
        let (at, found) = match self.tokens.get(self.next) {
            None => (self.end, "the end".to_owned()),
            Some((at, Token::Word(word))) => (*at, format!("\"{word}\"")),
            Some((at, Token::Open)) => (*at, "\"(\"".to_owned()),
            Some((at, Token::Close)) => (*at, "\")\"".to_owned()),
        };
        FormulaError { at, expected: expected.to_owned(), found }
    }

    fn takes(&mut self, wanted: &Token) -> bool {
        let there = self.peek() == Some(wanted);
        self.next += usize::from(there);
        there
    }

    fn any(&mut self, depth: u32) -> Result<Formula, FormulaError> {
        let mut parts = vec![self.all(depth)?];
        while self.takes(&Token::Word("or".into())) {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Formula::Any(parts) })
    }

    fn all(&mut self, depth: u32) -> Result<Formula, FormulaError> {
        let mut parts = vec![self.one(depth)?];
        while self.takes(&Token::Word("and".into())) {
            parts.push(self.one(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Formula::All(parts) })
    }

    fn one(&mut self, depth: u32) -> Result<Formula, FormulaError> {
        let kind = match self.peek() {
            Some(Token::Word(word)) => EvidenceKind::ALL.iter().find(|kind| kind.name() == word),
            Some(Token::Open) if depth < DEPTH_MAX => {
                self.next += 1;
                let inner = self.any(depth + 1)?;
                return match self.takes(&Token::Close) {
                    true => Ok(inner),
                    false => Err(self.error("\"and\", \"or\" or \")\"")),
                };
            }
            Some(Token::Open) => return Err(self.error("less nesting")),
            Some(Token::Close) | None => None,
        };
        match kind {
            Some(kind) => {
                self.next += 1;
                Ok(Formula::Kind(*kind))
            }
            None => {
                let all: Kinds = EvidenceKind::ALL.into();
                Err(self.error(&format!("one of {}, or \"(\"", names(&all, ", "))))
            }
        }
    }
}

#[cfg(test)]
#[path = "formula_tests.rs"]
mod tests;
