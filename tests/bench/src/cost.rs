//! What an idle cluster costs: requests to etcd by etcd's own counters, memory and processor time
//! of everything on a node that is not PostgreSQL.

use std::fs;
use std::time::{Duration, Instant};

use lab::Lab;
use lab::http;
use lab::layout::ETCD_CLIENT_PORT;
use lab::processes::Process;

use crate::scenario::Told;

/// Clock ticks a second of `/proc/PID/stat`; fixed on Linux.
const TICKS: f64 = 100.0;
/// How long etcd may take to tell its counters.
const ANSWER: Duration = Duration::from_secs(5);

/// Watches a cluster that nobody uses.
///
/// # Errors
/// When etcd does not tell its counters, or a node runs nothing.
pub async fn watch(lab: &Lab, time: Duration) -> Result<Told, String> {
    let (since, requests, cpu) = (Instant::now(), requests(lab)?, processors(lab)?);
    tokio::time::sleep(time).await;
    let (after, cpu_after) = (self::requests(lab)?, processors(lab)?);
    let seconds = since.elapsed().as_secs_f64();
    let used = cpu.iter().zip(&cpu_after).map(|(before, after)| (after - before) / seconds);
    let memory = nodes(lab).map(|processes| processes.iter().map(resident_mib).sum::<f64>());
    let told = [
        ("idle: etcd requests a minute", (after - requests) * 60.0 / seconds),
        ("idle: memory of the largest agent, MiB", memory.fold(0.0, f64::max)),
        ("idle: processor time of the busiest agent, % of a core", {
            100.0 * used.fold(0.0, f64::max)
        }),
    ];
    for (metric, value) in &told {
        println!("   {metric}: {value:.2}");
    }
    Ok(told.map(|(metric, value)| (metric.to_owned(), value)).to_vec())
}

/// Of every node, everything that runs there but PostgreSQL.
fn nodes(lab: &Lab) -> impl Iterator<Item = Vec<Process>> {
    lab.layout.nodes().map(|host| {
        let all = lab.processes(host).into_iter();
        all.filter(|process| !process.runs("postgres")).collect()
    })
}

/// Processor seconds used so far, by node.
fn processors(lab: &Lab) -> Result<Vec<f64>, String> {
    let used = nodes(lab).map(|processes| processes.iter().map(processor_s).sum::<f64>());
    let used: Vec<f64> = used.collect();
    if used.iter().all(|&s| s > 0.0) { Ok(used) } else { Err("a node runs no agent".to_owned()) }
}

/// Messages that etcd's gRPC servers have received: every request is one, and so is every renewal
/// on a stream that stays open.
fn requests(lab: &Lab) -> Result<f64, String> {
    let members = lab.layout.hosts.iter().filter(|host| !host.is_node());
    members
        .map(|host| {
            let answer = tokio::task::block_in_place(|| {
                http::get(host.at(ETCD_CLIENT_PORT), "/metrics", ANSWER)
            });
            Ok(received(&answer.map_err(|error| error.to_string())?.body))
        })
        .sum()
}

fn received(metrics: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with("grpc_server_msg_received_total"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn resident_mib(process: &Process) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.identity.pid));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn processor_s(process: &Process) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.identity.pid));
    ticks(&stat.unwrap_or_default()).unwrap_or(0.0) / TICKS
}

/// User and system time, fields 14 and 15 (proc(5)).
fn ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_methods() {
        let metrics = "# TYPE grpc_server_msg_received_total counter\n\
            grpc_server_msg_received_total{grpc_method=\"Range\",grpc_type=\"unary\"} 12\n\
            grpc_server_msg_received_total{grpc_method=\"LeaseKeepAlive\"} 1.5e+01\n\
            grpc_server_msg_sent_total{grpc_method=\"Range\"} 900\n";
        assert!((received(metrics) - 27.0).abs() < 1e-9);
    }

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "42 (a b) c) S 1 1 1 0 -1 4194560 1 2 3 4 50 7 9 9 20 0 1 0 4711";
        assert_eq!(ticks(stat), Some(57.0));
    }
}
