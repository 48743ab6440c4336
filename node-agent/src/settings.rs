//! The configuration file: read, checked, with the file and the key path in every error.

use config::{Config, ConfigError, Map, Source, Value, ValueKind};
use node_agent_wire::config::{LocalConfig, unknown_keys};
use node_agent_wire::member::split_host_port;
use node_agent_wire::yaml;
use std::path::{Path, PathBuf};

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("{file}: can't be read: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not YAML.
    #[error("{file}: {source}")]
    Yaml {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: yaml::YamlError,
    },
    /// A value is missing or of the wrong kind.
    #[error("{file}: {source}")]
    Value {
        /// The file.
        file: PathBuf,
        /// Which and why.
        source: ConfigError,
    },
    /// A value can't be used.
    #[error("{file}: {key}: {problem}, for example `{example}`")]
    Refused {
        /// The file.
        file: PathBuf,
        /// The key path.
        key: &'static str,
        /// What is wrong.
        problem: String,
        /// What would be right.
        example: &'static str,
    },
}

/// What was read.
#[derive(Debug)]
pub struct Settings {
    /// The configuration.
    pub config: LocalConfig,
    /// Keys in the file that this agent does not read.
    pub unknown: Vec<String>,
}

/// Our YAML reader as a source of the `config` crate: one dialect in the whole program.
#[derive(Clone, Debug)]
struct Document(serde_json::Value, String);

impl Source for Document {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of another crate")]
    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        match value(&self.0, &self.1).kind {
            ValueKind::Table(table) => Ok(table),
            _ => Err(ConfigError::Message("the document is not a mapping".into())),
        }
    }
}

fn value(json: &serde_json::Value, origin: &String) -> Value {
    use serde_json::Value as J;
    let kind = match json {
        J::Null => ValueKind::Nil,
        J::Bool(b) => ValueKind::Boolean(*b),
        J::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), _, _) => ValueKind::I64(i),
            (None, Some(u), _) => ValueKind::U64(u),
            (None, None, Some(f)) => ValueKind::Float(f),
            (None, None, None) => ValueKind::String(n.to_string()),
        },
        J::String(s) => ValueKind::String(s.clone()),
        J::Array(items) => ValueKind::Array(items.iter().map(|i| value(i, origin)).collect()),
        J::Object(object) => {
            ValueKind::Table(object.iter().map(|(k, v)| (k.clone(), value(v, origin))).collect())
        }
    };
    Value::new(Some(origin), kind)
}

/// Reads and checks one file.
///
/// # Errors
/// The first thing that is wrong, with file and key path.
pub fn read(file: &Path) -> Result<Settings, SettingsError> {
    let at = || file.to_path_buf();
    let text = std::fs::read_to_string(file)
        .map_err(|source| SettingsError::File { file: at(), source })?;
    let document =
        yaml::parse(&text).map_err(|source| SettingsError::Yaml { file: at(), source })?;
    let unknown = unknown_keys(&document);
    let config: LocalConfig = Config::builder()
        .add_source(Document(document, file.display().to_string()))
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|source| SettingsError::Value { file: at(), source })?;
    check(&config, file)?;
    Ok(Settings { config, unknown })
}

fn check(config: &LocalConfig, file: &Path) -> Result<(), SettingsError> {
    let refuse = |key: &'static str, problem: String, example: &'static str| {
        Err(SettingsError::Refused { file: file.to_path_buf(), key, problem, example })
    };
    for (key, text) in [("scope", &config.scope), ("name", &config.name)] {
        if text.is_empty() || text.contains('/') {
            return refuse(key, format!("\"{text}\" is empty or has a slash"), "shop-dc1");
        }
    }
    if config.etcd3.endpoints().is_empty() {
        return refuse("etcd3.hosts", "no endpoint is given".into(), "hosts: [10.0.0.1:2379]");
    }
    let addresses = [
        ("restapi.listen", Some(&config.restapi.listen)),
        ("restapi.connect_address", config.restapi.connect_address.as_ref()),
        ("postgresql.listen", Some(&config.postgresql.listen)),
        ("postgresql.connect_address", config.postgresql.connect_address.as_ref()),
        ("grpc.listen", config.grpc.as_ref().map(|g| &g.listen)),
    ];
    for (key, address) in addresses {
        if let Some(address) = address
            && address.split(',').any(|a| split_host_port(a, 0).is_none())
        {
            return refuse(key, format!("\"{address}\" is not host:port"), "10.0.0.11:5432");
        }
    }
    if !config.postgresql.data_dir.is_absolute() {
        let given = config.postgresql.data_dir.display();
        return refuse(
            "postgresql.data_dir",
            format!("\"{given}\" is not an absolute path"),
            "/var/lib/postgresql/15/main",
        );
    }
    if config.postgresql.authentication.superuser.username.is_empty() {
        return refuse(
            "postgresql.authentication.superuser.username",
            "it is missing".into(),
            "username: postgres",
        );
    }
    if config.postgresql.authentication.replication.username.is_empty() {
        return refuse(
            "postgresql.authentication.replication.username",
            "it is missing".into(),
            "username: replicator",
        );
    }
    Ok(())
}
