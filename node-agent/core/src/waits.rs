//! What PostgreSQL waits for at a commit: the value of `synchronous_standby_names`, read and
//! written (PostgreSQL manual, section 20.6.1).

use node_agent_wire::MemberName;
use std::collections::BTreeSet;

/// At least `num` standbys out of `set` have flushed whatever was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// How many.
    pub num: usize,
    /// Out of whom. Empty: nobody is sure to have it.
    pub set: BTreeSet<MemberName>,
}

/// How a value is written. All three say the same of the same set when `num` is its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `"a"` or `2 ("a","b")`: every one of them.
    Plain,
    /// `ANY 1 ("a","b")`.
    Quorum,
}

impl Waits {
    /// The value for the set; `strict`: without a standby, commits wait for any that comes.
    #[must_use]
    pub fn render(&self, form: Form, strict: bool) -> String {
        let quoted: Vec<String> = self.set.iter().map(quoted).collect();
        match (form, quoted.as_slice()) {
            (Form::Plain, []) if strict => "*".to_owned(),
            (Form::Quorum, []) if strict => "ANY 1 (*)".to_owned(),
            (Form::Plain | Form::Quorum, []) => String::new(),
            (Form::Plain, [one]) => one.clone(),
            (Form::Plain, several) => format!("{} ({})", several.len(), several.join(",")),
            (Form::Quorum, some) => format!("ANY {} ({})", self.num, some.join(",")),
        }
    }

    /// Reads a value. What it does not understand, and `*`, make nobody sure to have anything.
    #[must_use]
    pub fn read(text: &str) -> Self {
        Self::understand(text).unwrap_or_default()
    }

    fn understand(text: &str) -> Option<Self> {
        let text = text.trim();
        let Some((method, list)) = text.split_once('(') else {
            // A bare list waits for its first one.
            return Some(Self { num: 1, set: names(text)? });
        };
        let num = method.split_whitespace().last()?.parse().ok()?;
        let set = names(list.trim_end().strip_suffix(')')?)?;
        (num <= set.len()).then_some(Self { num, set })
    }
}

fn quoted(name: &MemberName) -> String {
    format!("\"{}\"", name.as_str().replace('"', "\"\""))
}

/// Names with commas between, in quotes or not. `None` for none, and for a `*` among them.
fn names(list: &str) -> Option<BTreeSet<MemberName>> {
    let mut found = BTreeSet::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('"') {
            Some(inside) => quoted_name(inside)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim().to_owned(), &rest[end..])
            }
        };
        if name.is_empty() || name == "*" {
            return None;
        }
        found.insert(MemberName::new(name));
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    (!found.is_empty()).then_some(found)
}

/// The name up to the closing quote, and what follows it.
fn quoted_name(inside: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = inside;
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(num: usize, names: &[&str]) -> Waits {
        Waits { num, set: names.iter().map(|n| MemberName::from(*n)).collect() }
    }

    #[test]
    fn values_are_written_and_read_back() {
        for (value, form, text) in [
            (waits(1, &["a"]), Form::Plain, r#""a""#),
            (waits(2, &["a", "b"]), Form::Plain, r#"2 ("a","b")"#),
            (waits(1, &["a", "b"]), Form::Quorum, r#"ANY 1 ("a","b")"#),
            (waits(1, &["a"]), Form::Quorum, r#"ANY 1 ("a")"#),
            (waits(2, &["a\"x", "b, c", "d(1)"]), Form::Quorum, r#"ANY 2 ("a""x","b, c","d(1)")"#),
            (waits(0, &[]), Form::Plain, ""),
            (waits(0, &[]), Form::Quorum, ""),
        ] {
            assert_eq!(value.render(form, false), text);
            assert_eq!(Waits::read(text), value, "{text}");
        }
    }

    #[test]
    fn strict_mode_waits_for_anybody_who_may_come() {
        assert_eq!(Waits::default().render(Form::Plain, true), "*");
        assert_eq!(Waits::default().render(Form::Quorum, true), "ANY 1 (*)");
        assert_eq!(waits(1, &["a"]).render(Form::Plain, true), r#""a""#);
    }

    #[test]
    fn a_users_own_value_is_read_carefully() {
        for (text, value) in [
            ("a, b", waits(1, &["a", "b"])),
            ("FIRST 1 (a, b)", waits(1, &["a", "b"])),
            ("any 1 (a)", waits(1, &["a"])),
            ("*", Waits::default()),
            ("ANY 1 (*)", Waits::default()),
            ("ANY 3 (a)", Waits::default()),
            ("ANY x (a)", Waits::default()),
            ("1 (a", Waits::default()),
            (r#""a"#, Waits::default()),
        ] {
            assert_eq!(Waits::read(text), value, "{text}");
        }
    }
}
