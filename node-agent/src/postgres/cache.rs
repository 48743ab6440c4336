//! The copy of the dynamic configuration in the data directory (contract C.1): in force until the
//! DCS answers, and written into the DCS when the key is gone.

use super::{Error, Server, files};
use serde_json::{Map, Value};

/// Its name, Patroni's: a member can change over with its data directory.
const FILE: &str = "patroni.dynamic.json";

impl Server {
    /// The copy; `None` when there is none that can be read.
    #[must_use]
    pub fn cached_dynamic(&self) -> Option<Map<String, Value>> {
        let text = files::read(&self.places.data(FILE)).ok()??;
        match serde_json::from_str(&text) {
            Ok(Value::Object(object)) => Some(object),
            Ok(_) | Err(_) => {
                tracing::warn!(file = FILE, "it holds no configuration; it is passed over");
                None
            }
        }
    }

    /// Writes the copy, once there is a whole data directory.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn cache_dynamic(&self, object: &Map<String, Value>) -> Result<bool, Error> {
        if !self.places.data("PG_VERSION").exists() || self.places.incomplete.exists() {
            return Ok(false);
        }
        let text = Value::Object(object.clone()).to_string();
        files::write(&self.places.data(FILE), text).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::config;
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn only_a_data_directory_gets_a_copy() {
        let dir = tempfile::tempdir().expect("directory");
        let server = Server::new(&config(dir.path())).expect("server");
        let Value::Object(object) = json!({"ttl": 20}) else { panic!("an object") };
        assert!(!server.cache_dynamic(&object).await.expect("nothing to do"));
        std::fs::create_dir(server.data_dir()).expect("create");
        std::fs::write(server.data_dir().join("PG_VERSION"), "15").expect("write");
        assert_eq!(server.cached_dynamic(), None);
        assert!(server.cache_dynamic(&object).await.expect("written"));
        assert_eq!(server.cached_dynamic(), Some(object));
        std::fs::write(server.data_dir().join(FILE), "[1]").expect("write");
        assert_eq!(server.cached_dynamic(), None, "no object");
    }
}
