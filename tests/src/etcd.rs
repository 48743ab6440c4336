//! The members of etcd, and which of them leads, by their own word.

use std::time::Duration;

use lab::http;
use lab::layout::{ETCD_CLIENT_PORT, Host};

use crate::patience::until;
use crate::rig::{ROWS, Rig};

/// The hosts of etcd, in all datacenters or in one.
pub fn members<'r>(rig: &'r Rig, dc: Option<&'r str>) -> impl Iterator<Item = &'r Host> {
    let hosts = rig.lab.layout.hosts.iter().filter(|host| !host.is_node());
    hosts.filter(move |host| dc.is_none_or(|dc| host.dc.as_str() == dc))
}

/// The host of the etcd member that leads, in all datacenters or in one, other than `former`.
///
/// # Panics
/// When none does for a minute.
pub async fn leader(rig: &Rig, dc: Option<&str>, former: Option<&str>) -> String {
    until("a leader of etcd", ROWS, async || {
        let mut seen = Vec::new();
        for host in members(rig, dc).filter(|host| former != Some(host.name.as_str())) {
            let metrics = tokio::task::block_in_place(|| {
                http::get(host.at(ETCD_CLIENT_PORT), "/metrics", Duration::from_secs(1))
            });
            match metrics {
                Ok(answer) if answer.body.contains("\netcd_server_is_leader 1") => {
                    return Ok(host.name.clone());
                }
                Ok(_) => seen.push(format!("{} follows", host.name)),
                Err(error) => seen.push(format!("{}: {error}", host.name)),
            }
        }
        Err(seen.join(", "))
    })
    .await
}
