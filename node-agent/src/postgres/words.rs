//! The words of a configured command, split as a shell would without running one: blanks separate,
//! quotes and backslashes join.

/// Splits; `None` where a quote or a backslash has no end.
pub(super) fn split(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = command.chars();
    while let Some(c) = letters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"'), '\\') => {
                let next = letters.next()?;
                let word = word.get_or_insert_default();
                if !matches!(next, '"' | '\\' | '$' | '`') {
                    word.push('\\');
                }
                word.push(next);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().push(letters.next()?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_a_shell_has_them() {
        for (command, words) in [
            (
                "/usr/bin/pgbackrest --stanza=demo --delta restore",
                vec!["/usr/bin/pgbackrest", "--stanza=demo", "--delta", "restore"],
            ),
            ("  a\tb\n", vec!["a", "b"]),
            (r#"a 'b c' "d e" f\ g"#, vec!["a", "b c", "d e", "f g"]),
            (r#"--x='it'\''s' """#, vec!["--x=it's", ""]),
            (r#""a\"b\n" '\'"#, vec!["a\"b\\n", "\\"]),
            ("", vec![]),
        ] {
            let expected: Vec<String> = words.into_iter().map(ToOwned::to_owned).collect();
            assert_eq!(split(command), Some(expected), "{command}");
        }
        for open in ["'a", "\"a", "a\\", "\"a\\"] {
            assert_eq!(split(open), None, "{open}");
        }
    }
}
