//! Durations and sizes as people write them in settings and on the command line.

use std::time::Duration;

/// A duration as people write it.
///
/// # Errors
/// What is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("\"{text}\" is not a duration as in 60s or 1500ms ({error})"))
}

/// A number of bytes as PostgreSQL writes it: 1024 to the step, `B`, `kB`, `MB`, `GB`, `TB`; a bare
/// number counts bytes.
///
/// # Errors
/// What is expected.
pub fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("\"{text}\" is not a number of bytes as in 64MB or 8192");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let shift = match text[digits..].trim() {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}
