//! `node-agent CONFIG.yml`

use clap::Parser;
use node_agent::{grpc, rest, run::Agent, settings, telemetry};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

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
        Ok(runtime) => runtime.block_on(serve(settings)),
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

async fn serve(settings: settings::Settings) -> Result<(), String> {
    // One crypto provider for every TLS connection of the process.
    let _set_already_is_fine = rustls::crypto::ring::default_provider().install_default();
    let config = settings.config;
    let rest_listener = bind(&config.restapi.listen).await?;
    let grpc_server = match &config.grpc {
        Some(grpc) => {
            let listener = bind(&grpc.listen).await?;
            Some(grpc::prepare(listener, grpc).map_err(|e| e.to_string())?)
        }
        None => None,
    };
    let (agent, handle) = Agent::new(config).await.map_err(|e| e.to_string())?;
    let stop = stop_signal()?;
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

/// Resolves on SIGTERM or SIGINT. SIGHUP does not end the agent; a reload comes with
/// `POST /reload`.
fn stop_signal() -> Result<impl Future<Output = ()>, String> {
    let listen = |kind: SignalKind| signal(kind).map_err(|e| format!("no signal handler: {e}"));
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    let mut hup = listen(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = term.recv() => return,
                _ = int.recv() => return,
                _ = hup.recv() => tracing::info!("SIGHUP: the file is read at the next start"),
            }
        }
    })
}
