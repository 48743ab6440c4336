//! Dynamic configuration that a topology may set, and single values of server parameters and tags.
//!
//! Names and meaning are Patroni's; what the file does not say gets a default fit for a lab, where
//! a failover is to be watched rather than waited for.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// Lowest leader lease in seconds that the agent accepts.
const MIN_TTL: u64 = 3;

macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// Settings of the dynamic configuration; `None` where the file is silent.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")]
            pub $field: Option<$type>,)*
        }

        impl Settings {
            /// These settings, completed by those of `base`.
            #[must_use]
            pub fn over(&self, base: &Self) -> Self {
                Self { $($field: self.$field.or(base.$field),)* }
            }
        }
    };
}

settings! {
    /// Leader lease, seconds.
    ttl: u64,
    /// Longest pause between two passes of an agent, seconds.
    loop_wait: u64,
    /// How long an agent retries a request to etcd, seconds.
    retry_timeout: u64,
    /// A replica further behind (bytes) does not take over.
    maximum_lag_on_failover: u64,
    /// A replica further behind (bytes) does not become synchronous; -1 switches this off.
    maximum_lag_on_syncnode: i64,
    /// Rows of timeline history kept; 0 keeps all.
    max_timelines_history: u64,
    /// Seconds that a crashed primary may take to come back before another one takes over.
    primary_start_timeout: u64,
    /// Seconds after which a primary that is silent is lost, where that is less than the lease.
    primary_lost_timeout: u64,
    /// Seconds that a stop of the primary may take in synchronous mode; 0 is without limit.
    primary_stop_timeout: u64,
    /// Whether a commit waits for a standby of the same datacenter.
    synchronous_mode: bool,
    /// Whether commits wait even when there is no standby.
    synchronous_mode_strict: bool,
    /// Number of synchronous standbys.
    synchronous_node_count: u64,
    /// Whether a primary that lost etcd may go on as long as it reaches every member.
    failsafe_mode: bool,
    /// Whether a candidate's timeline is compared with the history.
    check_timeline: bool,
    /// Seconds for which the slot of a vanished member is kept.
    member_slots_ttl: u64,
}

impl Settings {
    /// What holds when the file is silent.
    #[must_use]
    pub fn defaults() -> Self {
        Self {
            ttl: Some(5),
            loop_wait: Some(1),
            retry_timeout: Some(1),
            maximum_lag_on_failover: Some(1024 * 1024),
            synchronous_mode: Some(false),
            ..Self::default()
        }
    }

    /// Checks values that depend on each other; call it on complete settings.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (ttl, wait) = (self.ttl.unwrap_or_default(), self.loop_wait.unwrap_or_default());
        let retry = self.retry_timeout.unwrap_or_default();
        if ttl < MIN_TTL {
            return Err(format!("ttl is {ttl} s, the least is {MIN_TTL} s (example: ttl: 5)"));
        }
        if wait < 1 || retry < 1 {
            return Err(
                "loop_wait and retry_timeout are 1 s or more (example: loop_wait: 1)".into()
            );
        }
        let needed = wait.saturating_add(retry.saturating_mul(2));
        if needed > ttl {
            return Err(format!(
                "loop_wait + 2 * retry_timeout is {needed} s, more than ttl, {ttl} s \
                 (example: ttl: 5, loop_wait: 1, retry_timeout: 1)"
            ));
        }
        Ok(())
    }
}

/// A single value of a server parameter or a tag, kept as written.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// Anything else.
    Text(String),
}

impl Scalar {
    /// Why a server parameter cannot be set by a topology, if so.
    pub(crate) fn refused_parameter(name: &str) -> Option<&'static str> {
        match name {
            "listen_addresses"
            | "port"
            | "unix_socket_directories"
            | "cluster_name"
            | "data_directory"
            | "hba_file"
            | "ident_file"
            | "config_file" => Some("the lab sets this parameter itself; remove it"),
            "primary_conninfo"
            | "primary_slot_name"
            | "synchronous_standby_names"
            | "hot_standby"
            | "recovery_target_timeline" => Some("the agent sets this parameter itself; remove it"),
            "fsync" | "full_page_writes" => {
                Some("a lab that may lose data on a power cut proves nothing; remove it")
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Single;
        impl Visitor<'_> for Single {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value (example: 64MB)")
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
                i64::try_from(value).map(Scalar::Integer).map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Single)
    }
}
