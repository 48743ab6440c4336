//! The settings file of the federator. Unknown keys are refused with their path; secrets come from
//! files or the environment and are never printed.

use crate::fencer::{Fencer, RawFencer};
use crate::grant_settings::{RawGrants, RawWitness, grants};
use crate::known_keys::unknown_keys;
use crate::seed::{RawSeed, circles};
use crate::signing::is_public_key;
use config::{Config, Map, Source, Value as ConfigValue, ValueKind};
use federator_core::configuration::Seed;
use federator_core::formula::Formula;
use federator_core::sequences::GAP_MIN;
use node_agent_wire::federation::{Isolation, Policies, Retention};
use node_agent_wire::{DcName, SlotName, yaml};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[path = "units.rs"]
mod units;

pub use units::{bytes, duration};

/// Settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("could not read the settings file {file}: {source}")]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not YAML.
    #[error("settings file {file}: {source}")]
    Yaml {
        /// Which.
        file: PathBuf,
        /// Where and why.
        source: yaml::YamlError,
    },
    /// A key that nobody reads.
    #[error("settings file {file}: unknown key {path}; known here: {known}")]
    UnknownKey {
        /// Which file.
        file: PathBuf,
        /// The key with its path.
        path: String,
        /// What may stand there.
        known: String,
    },
    /// A value of the wrong kind, or a missing one.
    #[error("settings file {file}: {why}")]
    Shape {
        /// Which file.
        file: PathBuf,
        /// What is wrong where.
        why: String,
    },
    /// A value that makes no sense.
    #[error("settings file {file}: {path}: {why}")]
    Value {
        /// Which file.
        file: PathBuf,
        /// The key with its path.
        path: String,
        /// What is wrong, with an example.
        why: String,
    },
}

/// A password. Printing it shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The password itself, for the connection only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A user with a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub username: String,
    /// Their password.
    pub password: Secret,
}

/// Certificates for the agents' gRPC.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Tls {
    /// PEM: the authority that agents' certificates come from.
    pub cafile: PathBuf,
    /// PEM: our certificate.
    pub certfile: PathBuf,
    /// PEM: its key.
    pub keyfile: PathBuf,
}

/// One datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datacenter {
    /// Patroni's `scope`.
    pub scope: String,
    /// Patroni's `namespace`.
    pub namespace: String,
    /// etcd's client endpoints.
    pub etcd: Vec<String>,
    /// The slot that it uses on the datacenter that it follows.
    pub slot: SlotName,
    /// In a cascade, the standby datacenter that it follows.
    pub follows: Option<DcName>,
    /// What makes sure that it accepts no writes any more.
    pub fencer: Option<Fencer>,
    /// What it does when it is primary and cut off.
    pub isolation: Isolation,
    /// What gives way when that slot holds back too much WAL.
    pub retention: Retention,
    /// How it is filled.
    pub seed: Seed,
}

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The federation's name.
    pub federation: String,
    /// Its datacenters.
    pub datacenters: BTreeMap<DcName, Datacenter>,
    /// For SQL on the leaders.
    pub superuser: Login,
    /// For the test of the replication login.
    pub replication: Login,
    /// The role that takes over from it.
    pub replication_next: Option<Login>,
    /// What the federation agrees on.
    pub policies: Policies,
    /// For gRPC; plain on loopback without.
    pub tls: Option<Tls>,
    /// PKCS#8 in PEM form: signs the evidence of promotions.
    pub signing_key_file: Option<PathBuf>,
    /// The public keys whose signatures are trusted, beside that of the own key.
    pub trusted_keys: Vec<String>,
}

#[derive(Deserialize)]
struct Raw {
    federation: String,
    datacenters: BTreeMap<String, RawDatacenter>,
    credentials: RawCredentials,
    #[serde(default)]
    policies: RawPolicies,
    witness: Option<RawWitness>,
    tls: Option<Tls>,
    signing_key_file: Option<PathBuf>,
    #[serde(default)]
    trusted_keys: Vec<String>,
}

#[derive(Deserialize)]
struct RawDatacenter {
    scope: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    etcd: Vec<String>,
    follows: Option<String>,
    fencer: Option<RawFencer>,
    #[serde(default)]
    isolation: Isolation,
    #[serde(default)]
    retention: Retention,
    #[serde(default)]
    seed: RawSeed,
}

pub(crate) fn default_namespace() -> String {
    "/service".to_owned()
}

#[derive(Deserialize)]
struct RawCredentials {
    superuser: RawLogin,
    replication: RawLogin,
    replication_next: Option<RawLogin>,
}

#[derive(Deserialize)]
struct RawLogin {
    username: String,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
}

#[derive(Default, Deserialize)]
struct RawPolicies {
    cold_start_after: Option<String>,
    switchover_lag_max: Option<String>,
    keep_divergent_wal: Option<bool>,
    evidence: Option<String>,
    approvals: Option<u32>,
    sequence_gap: Option<u64>,
    vault_retention: Option<String>,
    runway_warning: Option<String>,
    #[serde(flatten)]
    grants: RawGrants,
}

/// More people than this are not there when they are needed.
const APPROVALS_MAX: u32 = 5;
/// Our YAML reader as a source of the `config` crate.
#[derive(Clone, Debug)]
struct Document {
    file: String,
    value: Value,
}

impl Source for Document {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, ConfigValue>, config::ConfigError> {
        let ValueKind::Table(table) = to_config(&self.file, &self.value).kind else {
            return Err(config::ConfigError::Message("a mapping is expected".into()));
        };
        Ok(table)
    }
}

fn to_config(file: &String, value: &Value) -> ConfigValue {
    let kind = match value {
        Value::Null => ValueKind::Nil,
        Value::Bool(b) => ValueKind::Boolean(*b),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => ValueKind::I64(i),
            (None, Some(f)) => ValueKind::Float(f),
            (None, None) => ValueKind::String(n.to_string()),
        },
        Value::String(s) => ValueKind::String(s.clone()),
        Value::Array(items) => {
            ValueKind::Array(items.iter().map(|item| to_config(file, item)).collect())
        }
        Value::Object(object) => ValueKind::Table(
            object.iter().map(|(key, item)| (key.clone(), to_config(file, item))).collect(),
        ),
    };
    ConfigValue::new(Some(file), kind)
}

impl Settings {
    /// Reads the file, and the passwords that it names.
    ///
    /// # Errors
    /// What is wrong, where, and what is expected there.
    pub fn read(file: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| SettingsError::Read { file: file.to_owned(), source })?;
        Self::parse(file, &text, |name| std::env::var(name).ok())
    }

    /// Reads the text; `environment` looks up variables.
    ///
    /// # Errors
    /// What is wrong, where, and what is expected there.
    pub fn parse(
        file: &Path,
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let value = yaml::parse(text)
            .map_err(|source| SettingsError::Yaml { file: file.to_owned(), source })?;
        unknown_keys(file, &value)?;
        let shape = |why: config::ConfigError| SettingsError::Shape {
            file: file.to_owned(),
            why: why.to_string(),
        };
        let raw: Raw = Config::builder()
            .add_source(Document { file: file.display().to_string(), value })
            .build()
            .and_then(Config::try_deserialize)
            .map_err(shape)?;
        let at = |path: &str, why: String| SettingsError::Value {
            file: file.to_owned(),
            path: path.to_owned(),
            why,
        };
        let name = |path: &str, name: &str| match name {
            "" => Err(at(path, "a name is expected".into())),
            name if name.contains(['/', ',', ' ']) => {
                Err(at(path, format!("\"{name}\" may not contain a slash, comma or blank")))
            }
            _ => Ok(()),
        };
        name("federation", &raw.federation)?;
        let mut datacenters = BTreeMap::new();
        for (dc, entry) in raw.datacenters {
            let path = format!("datacenters.{dc}");
            name(&path, &dc)?;
            name(&format!("{path}.scope"), &entry.scope)?;
            if entry.etcd.is_empty() || entry.etcd.iter().any(String::is_empty) {
                let why = "at least one endpoint is expected, as in [\"10.0.0.1:2379\"]";
                return Err(at(&format!("{path}.etcd"), why.into()));
            }
            let slot = SlotName::from_name(&dc);
            let RawDatacenter {
                scope,
                namespace,
                etcd,
                follows,
                fencer,
                isolation,
                retention,
                seed,
            } = entry;
            let follows = follows.map(DcName::new);
            let fencer = fencer
                .map(Fencer::new)
                .transpose()
                .map_err(|(key, why)| at(&format!("{path}.fencer.{key}"), why))?;
            let seed = seed.read().map_err(|(key, why)| at(&format!("{path}.seed.{key}"), why))?;
            let datacenter = Datacenter {
                scope,
                namespace,
                etcd,
                slot,
                follows,
                fencer,
                isolation,
                retention,
                seed,
            };
            datacenters.insert(DcName::new(dc), datacenter);
        }
        circles(&datacenters).map_err(|(dc, why)| at(&format!("datacenters.{dc}.follows"), why))?;
        if datacenters.is_empty() {
            return Err(at("datacenters", "at least one datacenter is expected".into()));
        }
        let grants = grants(&datacenters, raw.witness, &raw.policies.grants)
            .map_err(|(path, why)| at(&path, why))?;
        let login = |path: &str, raw: RawLogin| {
            login(raw, &environment).map_err(|why| at(&format!("credentials.{path}"), why))
        };
        Ok(Self {
            federation: raw.federation,
            datacenters,
            superuser: login("superuser", raw.credentials.superuser)?,
            replication: login("replication", raw.credentials.replication)?,
            replication_next: raw
                .credentials
                .replication_next
                .map(|next| login("replication_next", next))
                .transpose()?,
            policies: Policies {
                grants,
                ..policies(&raw.policies)
                    .map_err(|(key, why)| at(&format!("policies.{key}"), why))?
            },
            tls: raw.tls,
            signing_key_file: raw.signing_key_file,
            trusted_keys: trusted(raw.trusted_keys).map_err(|why| at("trusted_keys", why))?,
        })
    }
}

fn login(raw: RawLogin, environment: &impl Fn(&str) -> Option<String>) -> Result<Login, String> {
    let password = match (raw.password_file, raw.password_env) {
        (Some(file), None) => std::fs::read_to_string(&file)
            .map_err(|error| format!("password_file {}: {error}", file.display()))?
            .trim_end_matches(['\n', '\r'])
            .to_owned(),
        (None, Some(name)) => environment(&name)
            .ok_or_else(|| format!("password_env: the variable {name} is not set"))?,
        (Some(_), Some(_)) | (None, None) => {
            return Err("exactly one of password_file and password_env is expected".into());
        }
    };
    Ok(Login { username: raw.username, password: Secret(password) })
}

fn policies(raw: &RawPolicies) -> Result<Policies, (&'static str, String)> {
    let mut policies = Policies::default();
    if let Some(text) = &raw.cold_start_after {
        policies.cold_start_after_s =
            duration(text).map_err(|why| ("cold_start_after", why))?.as_secs();
    }
    if let Some(text) = &raw.switchover_lag_max {
        policies.switchover_lag_bytes_max =
            bytes(text).map_err(|why| ("switchover_lag_max", why))?;
    }
    if let Some(text) = &raw.runway_warning {
        policies.runway_warning_s =
            duration(text).map_err(|why| ("runway_warning", why))?.as_secs();
    }
    if let Some(keep) = raw.keep_divergent_wal {
        policies.keep_divergent_wal = keep;
    }
    if let Some(text) = &raw.evidence {
        let formula = Formula::parse(text).map_err(|why| ("evidence", why.to_string()))?;
        policies.evidence = formula.to_string();
    }
    if let Some(count) = raw.approvals {
        if count > APPROVALS_MAX {
            return Err(("approvals", format!("at most {APPROVALS_MAX} are expected")));
        }
        policies.approvals = count;
    }
    if let Some(gap) = raw.sequence_gap {
        if (1..GAP_MIN).contains(&gap) {
            let why = format!("0, or at least {GAP_MIN} is expected: PostgreSQL logs so far ahead");
            return Err(("sequence_gap", why));
        }
        policies.sequence_gap = gap;
    }
    if let Some(text) = &raw.vault_retention {
        policies.vault_retention_s =
            duration(text).map_err(|why| ("vault_retention", why))?.as_secs();
    }
    Ok(policies)
}

fn trusted(keys: Vec<String>) -> Result<Vec<String>, String> {
    match keys.iter().find(|key| !is_public_key(key)) {
        Some(key) => Err(format!("\"{key}\" is not a public key of 64 hexadecimal digits")),
        None => Ok(keys),
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
