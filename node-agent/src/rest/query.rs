//! The query string of a request, and the units in it.

use std::collections::BTreeMap;

/// The parameters; of several with one name the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads `a=1&b=2`, percent signs and plus signs undone. A parameter without a value is left
    /// out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parameters = BTreeMap::new();
        for (key, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
            if !value.is_empty() {
                parameters.entry(decode(key)).or_insert_with(|| decode(value));
            }
        }
        Self(parameters)
    }

    /// A parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The `tag_…` parameters by the name of the tag.
    pub fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(k, v)| Some((k.strip_prefix("tag_")?, v.as_str())))
    }

    /// `lag` in bytes; `None` when absent or not a size (contract B.3: ignored then).
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        self.get("lag").and_then(bytes)
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.get(..2).and_then(hex_byte)).flatten();
        match (hex, first) {
            (Some(byte), _) => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or(&[]);
            }
            (None, b'+') => {
                out.push(b' ');
                rest = tail;
            }
            (None, byte) => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A size as PostgreSQL writes it (manual, section 20.1.1): a number of bytes, or with `B`, `kB`,
/// `MB`, `GB` or `TB`.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A time as PostgreSQL writes it: seconds, or with `ms`, `s`, `min`, `h` or `d`; in milliseconds.
#[must_use]
pub fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim_start() {
        "ms" => 1,
        "" | "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse("lag=16MB&tag_dc=a%20b+c&tag_x=&lag=1&broken&%=%&y=%4");
        assert_eq!(query.get("lag"), Some("16MB"));
        assert_eq!(query.lag(), Some(16 * 1024 * 1024));
        assert_eq!(query.tags().collect::<Vec<_>>(), [("dc", "a b c")]);
        assert_eq!(query.get("%"), Some("%"));
        assert_eq!(query.get("y"), Some("%4"));
        assert_eq!(Query::parse(""), Query::default());
    }

    #[test]
    fn sizes_and_times() {
        for (text, expected) in [
            ("0", Some(0)),
            ("100", Some(100)),
            ("1kB", Some(1024)),
            ("2 MB", Some(2 << 20)),
            ("1TB", Some(1 << 40)),
            ("1mb", None),
            ("-1", None),
            ("MB", None),
            ("", None),
            ("99999999999TB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for (text, expected) in
            [("10", Some(10_000)), ("2min", Some(120_000)), ("5 ms", Some(5)), ("1y", None)]
        {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }
}
