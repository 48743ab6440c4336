//! Which endpoint a request is for (contract B.1): the first path segment decides together with
//! the method; whatever no endpoint claims is a health check for GET, HEAD and OPTIONS, and an
//! unknown operation for the rest.

use axum::http::Method;

/// One endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A role check; HEAD and OPTIONS get a bare status.
    Health {
        /// Only the status line.
        bare: bool,
    },
    /// `GET /liveness`.
    Liveness,
    /// `GET /readiness`.
    Readiness,
    /// `GET /patroni`.
    Patroni,
    /// `GET /cluster`.
    Cluster,
    /// `GET /history`.
    History,
    /// `GET /config`.
    Config,
    /// `GET /metrics`.
    Metrics,
    /// `GET /failsafe`.
    Failsafe,
    /// `POST /failsafe`.
    FailsafePing,
    /// `POST /vote`, ours.
    Vote,
    /// `PATCH /config`.
    PatchConfig,
    /// `PUT /config`.
    PutConfig,
    /// `POST /reload`.
    Reload,
    /// `POST /restart`.
    Restart,
    /// `DELETE /restart`.
    CancelRestart,
    /// `POST /reinitialize`.
    Reinitialize,
    /// `POST /switchover`.
    Switchover,
    /// `DELETE /switchover`.
    CancelSwitchover,
    /// `POST /failover`.
    Failover,
    /// A method and path that this version does not serve: 501.
    Unknown,
}

impl Endpoint {
    /// Whether basic authentication is asked for when it is configured (contract B.2).
    #[must_use]
    pub fn guarded(self) -> bool {
        match self {
            Self::PatchConfig
            | Self::PutConfig
            | Self::Reload
            | Self::Restart
            | Self::CancelRestart
            | Self::Reinitialize
            | Self::Switchover
            | Self::CancelSwitchover
            | Self::FailsafePing
            | Self::Vote
            | Self::Failover => true,
            Self::Health { .. }
            | Self::Liveness
            | Self::Readiness
            | Self::Patroni
            | Self::Cluster
            | Self::History
            | Self::Config
            | Self::Metrics
            | Self::Failsafe
            | Self::Unknown => false,
        }
    }

    /// Whether a request without a body is understood.
    #[must_use]
    pub fn body(self) -> BodyRule {
        match self {
            Self::PatchConfig
            | Self::PutConfig
            | Self::Switchover
            | Self::Failover
            | Self::FailsafePing
            | Self::Vote => BodyRule::Required,
            Self::Restart | Self::Reinitialize => BodyRule::Optional,
            Self::Health { .. }
            | Self::Liveness
            | Self::Readiness
            | Self::Patroni
            | Self::Cluster
            | Self::History
            | Self::Config
            | Self::Metrics
            | Self::Failsafe
            | Self::Reload
            | Self::CancelRestart
            | Self::CancelSwitchover
            | Self::Unknown => BodyRule::Ignored,
        }
    }
}

/// What an endpoint does with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// A non-empty JSON object.
    Required,
    /// A JSON object, or nothing.
    Optional,
    /// Not read.
    Ignored,
}

/// The endpoint of a request; `path` without the query.
#[must_use]
pub fn route(method: &Method, path: &str) -> Endpoint {
    let segment = path.strip_prefix('/').unwrap_or(path).split('/').next().unwrap_or("");
    match (method.as_str(), segment) {
        ("GET", "liveness") => Endpoint::Liveness,
        ("GET", "readiness") => Endpoint::Readiness,
        ("GET", "patroni") => Endpoint::Patroni,
        ("GET", "cluster") => Endpoint::Cluster,
        ("GET", "history") => Endpoint::History,
        ("GET", "config") => Endpoint::Config,
        ("GET", "metrics") => Endpoint::Metrics,
        ("GET", "failsafe") => Endpoint::Failsafe,
        ("GET", _) => Endpoint::Health { bare: false },
        ("HEAD" | "OPTIONS", _) => Endpoint::Health { bare: true },
        ("PATCH", "config") => Endpoint::PatchConfig,
        ("PUT", "config") => Endpoint::PutConfig,
        ("POST", "reload") => Endpoint::Reload,
        ("POST", "restart") => Endpoint::Restart,
        ("DELETE", "restart") => Endpoint::CancelRestart,
        ("POST", "reinitialize") => Endpoint::Reinitialize,
        ("POST", "switchover") => Endpoint::Switchover,
        ("DELETE", "switchover") => Endpoint::CancelSwitchover,
        ("POST", "failover") => Endpoint::Failover,
        ("POST", "failsafe") => Endpoint::FailsafePing,
        ("POST", "vote") => Endpoint::Vote,
        _ => Endpoint::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_segment_decides() {
        for (method, path, endpoint) in [
            (Method::GET, "/", Endpoint::Health { bare: false }),
            (Method::GET, "/patroni", Endpoint::Patroni),
            (Method::GET, "/patroni/x/y", Endpoint::Patroni),
            (Method::GET, "/patronix", Endpoint::Health { bare: false }),
            (Method::GET, "/a/patroni", Endpoint::Health { bare: false }),
            (Method::HEAD, "/patroni", Endpoint::Health { bare: true }),
            (Method::OPTIONS, "/primary", Endpoint::Health { bare: true }),
            (Method::GET, "/switchover", Endpoint::Health { bare: false }),
            (Method::POST, "/switchover", Endpoint::Switchover),
            (Method::DELETE, "/switchover", Endpoint::CancelSwitchover),
            (Method::POST, "/config", Endpoint::Unknown),
            (Method::PATCH, "/config", Endpoint::PatchConfig),
            (Method::POST, "/reinitialize", Endpoint::Reinitialize),
            (Method::TRACE, "/patroni", Endpoint::Unknown),
        ] {
            assert_eq!(route(&method, path), endpoint, "{method} {path}");
        }
    }

    #[test]
    fn whatever_changes_something_is_guarded_and_nothing_else_is() {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            for path in [
                "/config",
                "/reload",
                "/restart",
                "/switchover",
                "/failover",
                "/failsafe",
                "/reinitialize",
            ] {
                let endpoint = route(&method, path);
                assert!(endpoint.guarded() || endpoint == Endpoint::Unknown, "{method} {path}");
            }
        }
        for path in ["/", "/patroni", "/cluster", "/history", "/config", "/metrics", "/failsafe"] {
            assert!(!route(&Method::GET, path).guarded(), "{path}");
        }
    }
}
