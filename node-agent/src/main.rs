//! `node-agent CONFIG.yml`

use clap::Parser;
use node_agent::dcs::etcd::{Etcd, Login};
use node_agent::view::Ask;
use node_agent::{grpc, namesake, rest, run::Agent, settings, telemetry};
use node_agent_wire::MemberName;
use node_agent_wire::keys::ClusterPath;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Sender;

/// The agent beside one PostgreSQL.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file, Patroni's YAML.
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    telemetry::init();
    let settings = match settings::read(&arguments.config) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("node-agent: {error}");
            return ExitCode::from(1);
        }
    };
    if !settings.unknown.is_empty() {
        tracing::warn!(keys = settings.unknown.join(", "), "these keys have no effect here");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(serve(settings, arguments.config)),
        Err(error) => Err(format!("no runtime: {error}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node-agent: {error}");
            ExitCode::from(1)
        }
    }
}

async fn serve(settings: settings::Settings, file: PathBuf) -> Result<(), String> {
    // One crypto provider for every TLS connection of the process.
    let _set_already_is_fine = rustls::crypto::ring::default_provider().install_default();
    let config = settings.config;
    let login = Login {
        username: config.etcd3.username.clone().unwrap_or_default(),
        password: config.etcd3.password.clone().unwrap_or_default(),
    };
    let dcs = Etcd::new(&config.etcd3.endpoints(), login);
    let path = ClusterPath::new(&config.namespace, &config.scope);
    namesake::check(&dcs, &path, &MemberName::new(&config.name)).await?;
    drop(dcs);
    let rest_listener = bind(&config.restapi.listen).await?;
    let grpc_server = match &config.grpc {
        Some(grpc) => {
            let listener = bind(&grpc.listen).await?;
            Some(grpc::prepare(listener, grpc).map_err(|e| e.to_string())?)
        }
        None => None,
    };
    let (agent, handle) = Agent::new(config, file).await.map_err(|e| e.to_string())?;
    let stop = stop_signal(handle.asks.clone())?;
    let (down, _) = tokio::sync::watch::channel(false);
    let downed = || {
        let mut down = down.subscribe();
        async move {
            let _dropped_is_down_too = down.wait_for(|d| *d).await;
        }
    };
    let rest = tokio::spawn(rest::serve(rest_listener, handle.clone(), downed()));
    let grpc = grpc_server.map(|ready| tokio::spawn(grpc::serve(ready, handle.clone(), downed())));
    let ended = Box::pin(agent.run(stop)).await;
    down.send_replace(true);
    drop(rest);
    drop(grpc);
    ended
}

async fn bind(address: &str) -> Result<tokio::net::TcpListener, String> {
    tokio::net::TcpListener::bind(address).await.map_err(|e| {
        format!(
            "can't listen on {address}: {e}; is another agent running, or is the address not this \
             host's?"
        )
    })
}

/// Resolves on SIGTERM or SIGINT. SIGHUP has the configuration file read again.
fn stop_signal(asks: Sender<Ask>) -> Result<impl Future<Output = ()>, String> {
    let listen = |kind: SignalKind| signal(kind).map_err(|e| format!("no signal handler: {e}"));
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    let mut hup = listen(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = term.recv() => return,
                _ = int.recv() => return,
                // A full queue can only be full of requests that wake the loop as well.
                _ = hup.recv() => if asks.try_send(Ask::Reload).is_err() {
                    tracing::warn!("SIGHUP: the loop is busy; send it again");
                },
            }
        }
    })
}
