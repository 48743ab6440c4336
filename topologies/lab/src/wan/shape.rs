//! How a wide area network treats packets: its delay, jitter, loss and rate, as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Longest delay: beyond it every deadline of a lab has passed.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// All packets, in the unit of [`Loss`].
const ALL: u32 = 1_000_000;

/// Why a text is none of these values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no {what} (example: {example})")]
pub struct ShapeError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// A time between 0 and 10 s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delay(pub Duration);

/// A share of all packets, in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss(u32);

/// Bits a second; 0 is without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Loss {
    /// Whether a packet is lost whose number was drawn evenly from the first million.
    #[must_use]
    pub fn takes(self, drawn: u32) -> bool {
        drawn < self.0
    }

    /// The number of different draws.
    pub const DRAWS: u32 = ALL;
}

impl Rate {
    /// How long the line is busy with a packet.
    #[must_use]
    pub fn time_for(self, bytes: usize) -> Duration {
        if self.0 == 0 {
            return Duration::ZERO;
        }
        let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
        Duration::from_nanos(bits.saturating_mul(1_000_000_000) / self.0)
    }
}

impl FromStr for Delay {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let found = humantime::parse_duration(text).ok().filter(|delay| *delay <= MAX_DELAY);
        let fault = || ShapeError {
            text: text.to_owned(),
            what: "time from 0 to 10 s with its unit",
            example: "40ms",
        };
        found.map(Self).ok_or_else(fault)
    }
}

impl FromStr for Loss {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let parse = || {
            let number = text.strip_suffix('%')?;
            let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
            let digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
            if !digits(whole) || !digits(fraction) || fraction.len() > 4 {
                return None;
            }
            let whole: u32 = whole.parse().ok()?;
            let fraction: u32 = format!("{fraction:0<4}").parse().ok()?;
            let millionths = whole.checked_mul(ALL / 100)?.checked_add(fraction)?;
            (millionths <= ALL).then_some(Self(millionths))
        };
        parse().ok_or_else(|| ShapeError {
            text: text.to_owned(),
            what: "loss from 0% to 100% with four decimals at most",
            example: "0.5%",
        })
    }
}

impl FromStr for Rate {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        if text == "unlimited" {
            return Ok(Self(0));
        }
        let units = [("kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];
        let parse = || {
            let (number, unit) =
                units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)))?;
            let bits = number.trim().parse::<u64>().ok()?.checked_mul(unit)?;
            (bits > 0).then_some(Self(bits))
        };
        parse().ok_or_else(|| ShapeError {
            text: text.to_owned(),
            what: "rate in kbit, Mbit or Gbit a second, nor \"unlimited\"",
            example: "100Mbit",
        })
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / (ALL / 100), self.0 % (ALL / 100));
        let fraction = format!("{fraction:04}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            fraction => write!(f, "{whole}.{fraction}%"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("unlimited"),
            bits if bits % 1_000_000_000 == 0 => write!(f, "{}Gbit", bits / 1_000_000_000),
            bits if bits % 1_000_000 == 0 => write!(f, "{}Mbit", bits / 1_000_000),
            bits => write!(f, "{}kbit", bits / 1_000),
        }
    }
}

/// As text, in YAML and on the control socket; the fault is found where it stands.
macro_rules! as_text {
    ($name:ident, $expecting:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

as_text!(Delay, "a time with its unit (example: 40ms)");
as_text!(Loss, "a loss in percent (example: 0.5%)");
as_text!(Rate, "a rate in bits a second (example: 100Mbit)");

/// How packets fare in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Delay there and back; each direction has half of it.
    pub rtt: Delay,
    /// Each packet is up to so much later. The order is kept.
    pub jitter: Delay,
    /// The share of packets that is lost.
    pub loss: Loss,
    /// What the line carries.
    pub rate: Rate,
}

/// What changes of a shape; the rest stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// See [`Shape::rtt`].
    pub rtt: Option<Delay>,
    /// See [`Shape::jitter`].
    pub jitter: Option<Delay>,
    /// See [`Shape::loss`].
    pub loss: Option<Loss>,
    /// See [`Shape::rate`].
    pub rate: Option<Rate>,
}

impl Shape {
    /// The shape after a change.
    #[must_use]
    pub fn changed(self, change: &Change) -> Self {
        Self {
            rtt: change.rtt.unwrap_or(self.rtt),
            jitter: change.jitter.unwrap_or(self.jitter),
            loss: change.loss.unwrap_or(self.loss),
            rate: change.rate.unwrap_or(self.rate),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rtt, jitter, loss, rate } = self;
        write!(f, "rtt {rtt}, jitter {jitter}, loss {loss}, rate {rate}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_written_as_people_do() {
        let delay = |text: &str| text.parse::<Delay>().map(|value| value.to_string());
        let loss = |text: &str| text.parse::<Loss>().map(|value| value.to_string());
        let rate = |text: &str| text.parse::<Rate>().map(|value| value.to_string());
        for (seen, wanted) in [
            (delay("40ms"), "40ms"),
            (delay("10s"), "10s"),
            (loss("0.5%"), "0.5%"),
            (loss("0%"), "0%"),
            (loss("100%"), "100%"),
            (loss("0.0001%"), "0.0001%"),
            (rate("100Mbit"), "100Mbit"),
            (rate("64kbit"), "64kbit"),
            (rate("2000Mbit"), "2Gbit"),
            (rate("unlimited"), "unlimited"),
        ] {
            assert_eq!(seen.as_deref(), Ok(wanted));
        }
        for (refused, words) in [
            (delay("40"), "example: 40ms"),
            (delay("11s"), "from 0 to 10 s"),
            (loss("0.5"), "example: 0.5%"),
            (loss("101%"), "0% to 100%"),
            (loss("-1%"), "0% to 100%"),
            (loss(".5%"), "0% to 100%"),
            (loss("0.00001%"), "four decimals"),
            (rate("100"), "example: 100Mbit"),
            (rate("0kbit"), "example: 100Mbit"),
            (rate("99999999999999999999Gbit"), "example: 100Mbit"),
        ] {
            let fault = refused.unwrap_err().to_string();
            assert!(fault.contains(words), "{fault}");
        }
    }

    #[test]
    fn a_packet_takes_the_time_of_its_bits() {
        let rate: Rate = "12Mbit".parse().unwrap();
        assert_eq!(rate.time_for(1500), Duration::from_millis(1));
        assert_eq!(Rate::default().time_for(1500), Duration::ZERO);
    }
}
