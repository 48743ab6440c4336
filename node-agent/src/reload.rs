//! Reading the configuration file again (SIGHUP, `POST /reload`): what may change while the agent
//! runs takes effect, the rest is named and stays.

use crate::memory::me;
use crate::run::Agent;
use crate::settings;
use node_agent_wire::config::LocalConfig;
use std::sync::Arc;

impl Agent {
    /// Reads the file again. What it says of users holds for whatever connects from now on; what is
    /// connected stays so.
    pub(crate) async fn reload(&mut self) {
        let read = match settings::read(&self.file) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "the configuration file is not taken over");
                return;
            }
        };
        let Reloaded { config, held_back } = reload(&self.hands.config, read.config);
        for key in held_back {
            tracing::warn!(key, "this change needs a restart of the agent");
        }
        let before = &self.hands.config;
        if config.restapi.authentication != before.restapi.authentication {
            self.hands.password.set(config.restapi.authentication.clone());
            tracing::info!("the REST API has another password; the other members need it as well");
        }
        let users = &config.postgresql.authentication;
        if *users != before.postgresql.authentication {
            let taken = self.hands.tools.server.set_users(users.clone()).await;
            match taken {
                Ok(()) => tracing::info!("new connections are made as postgresql.authentication"),
                Err(error) => {
                    tracing::error!(%error, hint = error.hint(), "not in the password file");
                }
            }
        }
        // primary_conninfo depends on the replication user.
        self.hands.applied = None;
        self.memory.me = me(&config);
        self.hands.config = Arc::new(config);
        tracing::info!(file = %self.file.display(), "the configuration file is read again");
    }
}

/// The configuration that is in force after a reload.
#[derive(Debug)]
pub struct Reloaded {
    /// The new one, with the old values where a restart of the agent is needed.
    pub config: LocalConfig,
    /// Keys that have changed and need a restart of the agent.
    pub held_back: Vec<&'static str>,
}

/// Takes `new` over, except for what the running agent was built with.
#[must_use]
pub fn reload(old: &LocalConfig, new: LocalConfig) -> Reloaded {
    let mut config = new;
    let mut held_back = Vec::new();
    macro_rules! keep {
        ($key:literal, $($path:ident).+) => {
            if config.$($path).+ != old.$($path).+ {
                held_back.push($key);
                config.$($path).+.clone_from(&old.$($path).+);
            }
        };
    }
    keep!("scope", scope);
    keep!("namespace", namespace);
    keep!("name", name);
    let password = config.restapi.authentication.take();
    config.restapi.authentication.clone_from(&old.restapi.authentication);
    keep!("restapi", restapi);
    config.restapi.authentication = password;
    keep!("grpc", grpc);
    keep!("federation", federation);
    keep!("etcd3", etcd3);
    keep!("watchdog", watchdog);
    keep!("postgresql.listen", postgresql.listen);
    keep!("postgresql.data_dir", postgresql.data_dir);
    keep!("postgresql.bin_dir", postgresql.bin_dir);
    keep!("postgresql.pgpass", postgresql.pgpass);
    keep!("postgresql.database", postgresql.database);
    keep!("postgresql.use_unix_socket", postgresql.use_unix_socket);
    for (key, shown) in [
        ("config_dir", "postgresql.config_dir"),
        ("config_base_name", "postgresql.config_base_name"),
        ("krbsrvname", "postgresql.krbsrvname"),
    ] {
        let before = old.postgresql.other.get(key);
        if config.postgresql.other.get(key) != before {
            held_back.push(shown);
            match before {
                Some(value) => {
                    config.postgresql.other.insert(key.to_owned(), value.clone());
                }
                None => {
                    config.postgresql.other.remove(key);
                }
            }
        }
    }
    Reloaded { config, held_back }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(changes: &Value) -> LocalConfig {
        let mut config = json!({
            "scope": "demo", "name": "pg1",
            "restapi": {"listen": "127.0.0.1:8008"},
            "etcd3": {"host": "127.0.0.1:2379"},
            "postgresql": {"listen": "127.0.0.1:5432", "data_dir": "/d", "krbsrvname": "a"},
        });
        node_agent_wire::patch::apply(
            config.as_object_mut().expect("object"),
            changes.as_object().expect("object"),
        );
        serde_json::from_value(config).expect("configuration")
    }

    #[test]
    fn tags_and_parameters_change_and_addresses_stay() {
        let old = read(&json!({}));
        let changes = json!({
            "tags": {"nofailover": true}, "name": "pg2",
            "postgresql": {"listen": "127.0.0.1:1", "krbsrvname": null, "config_dir": "/x",
                "parameters": {"work_mem": "1MB"}, "pg_ident": ["x"]},
        });
        let Reloaded { config, held_back } = reload(&old, read(&changes));
        assert_eq!(
            held_back,
            ["name", "postgresql.listen", "postgresql.config_dir", "postgresql.krbsrvname"]
        );
        assert_eq!(
            (config.name.as_str(), config.postgresql.listen.as_str()),
            ("pg1", "127.0.0.1:5432")
        );
        assert_eq!(config.postgresql.other["krbsrvname"], "a");
        assert!(!config.postgresql.other.contains_key("config_dir"));
        assert!(config.tags.contains_key("nofailover"));
        assert_eq!(config.postgresql.parameters["work_mem"], "1MB");
        assert!(config.postgresql.other.contains_key("pg_ident"));
        assert!(reload(&old, read(&json!({}))).held_back.is_empty());
    }

    #[test]
    fn passwords_change_and_the_address_beside_them_stays() {
        let users = json!({"superuser": {"username": "postgres", "password": "new"}});
        let changes = json!({
            "restapi": {"listen": "127.0.0.1:1",
                "authentication": {"username": "api", "password": "new"}},
            "postgresql": {"authentication": users},
        });
        let Reloaded { config, held_back } = reload(&read(&json!({})), read(&changes));
        assert_eq!(held_back, ["restapi"]);
        assert_eq!(config.restapi.listen, "127.0.0.1:8008");
        let api = config.restapi.authentication.expect("credentials");
        assert_eq!((api.username.as_str(), api.password.as_deref()), ("api", Some("new")));
        let superuser = &config.postgresql.authentication.superuser;
        assert_eq!(superuser.password.as_deref(), Some("new"));
        let alone = json!({"restapi": {"authentication": {"username": "api"}}});
        assert!(reload(&read(&json!({})), read(&alone)).held_back.is_empty());
    }
}
