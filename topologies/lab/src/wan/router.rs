//! The router process: it carries packets between the TUN devices of the gateways as the
//! [fabric](super::fabric) says, and does what it is asked over its socket.
//!
//! One loop owns the fabric; a task for each device and for each request sends it what happens.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::control::{Answer, MAX_BYTES, RouterConfig, State};
use super::fabric::{Fabric, Request};
use super::gateways::DEVICE;
use super::tun;
use crate::namespaces::{NamespaceError, within};

/// Largest packet of IPv4.
const PACKET_BYTES: usize = 65_536;
/// Events that may wait for the loop; a device that finds no place waits with its packets.
const EVENTS: usize = 1024;
/// How long somebody may take to say what they want.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// The router could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// A file of settings, a namespace or the socket.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RouterError {
    let path = path.to_owned();
    move |source| RouterError::File { action, path, source }
}

/// Something that the loop must know.
enum Event {
    Packet { from: usize, bytes: Vec<u8> },
    Asked { request: Request, answer: oneshot::Sender<Answer> },
}

/// What is held open, so that it outlives the lab's command that made it.
struct Held {
    hosts: BTreeMap<String, File>,
}

/// Runs until it is killed.
///
/// # Errors
/// When the settings can't be read, or the system refuses a device, a namespace or the socket.
pub async fn run(settings: &Path) -> Result<(), RouterError> {
    let text = fs::read(settings).map_err(failed("read", settings))?;
    let config: RouterConfig = serde_json::from_slice(&text)
        .map_err(io::Error::from)
        .map_err(failed("understand", settings))?;
    let open = |path: &PathBuf| File::open(path).map_err(failed("open", path));
    let hosts: Result<_, RouterError> =
        config.hosts.iter().map(|(name, path)| Ok((name.clone(), open(path)?))).collect();
    let held = Held { hosts: hosts? };
    let mut devices = Vec::new();
    for gateway in &config.gateways {
        let namespace = open(&gateway.namespace)?;
        let device = within(namespace.as_fd(), || tun::open(DEVICE))?
            .and_then(tun::watch)
            .map_err(failed("take charge of the TUN device in", &gateway.namespace))?;
        devices.push(Arc::new(device));
    }
    let listener = listen(&config.socket)?;
    let sides: Vec<_> = config.gateways.iter().map(|g| (g.place.clone(), g.network)).collect();
    let fabric = Fabric::new(&sides, config.shape, config.seed);
    let (sender, events) = mpsc::channel(EVENTS);
    for (from, device) in devices.iter().enumerate() {
        tokio::spawn(read(from, device.clone(), sender.clone()));
    }
    tokio::spawn(answer(listener, sender));
    eprintln!("lab: the WAN router joins {} places, {}", sides.len(), config.shape);
    carry(fabric, &devices, &held, events).await;
    Ok(())
}

/// The socket, for this user alone.
fn listen(socket: &Path) -> Result<UnixListener, RouterError> {
    match fs::remove_file(socket) {
        // Left from an earlier run.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("remove", socket)(error)),
    }
    let listener = UnixListener::bind(socket).map_err(failed("listen on", socket))?;
    let private = fs::set_permissions(socket, Permissions::from_mode(0o600));
    private.map_err(failed("make private", socket))?;
    Ok(listener)
}

/// The loop.
async fn carry(
    mut fabric: Fabric,
    devices: &[Arc<AsyncFd<File>>],
    held: &Held,
    mut events: mpsc::Receiver<Event>,
) {
    let began = Instant::now();
    let mut batch = Vec::with_capacity(EVENTS);
    loop {
        let next = fabric.next().map(|at| began + at);
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            count = events.recv_many(&mut batch, EVENTS) => if count == 0 { return },
            () = due => {}
        }
        let now = began.elapsed();
        for event in batch.drain(..) {
            match event {
                Event::Packet { from, bytes } => fabric.offer(now, from, bytes),
                Event::Asked { request, answer } => {
                    // Who asked may have gone meanwhile.
                    let _ = answer.send(answered(&mut fabric, held, &request));
                }
            }
        }
        while let Some((to, packet)) = fabric.take(began.elapsed()) {
            if let Some(device) = devices.get(to) {
                // The kernel may refuse a packet as any network may lose it.
                let _ = device.get_ref().write(&packet);
            }
        }
    }
}

fn answered(fabric: &mut Fabric, held: &Held, request: &Request) -> Answer {
    let own = PathBuf::from(format!("/proc/{}", std::process::id()));
    let path = |file: &File| own.join(format!("fd/{}", file.as_raw_fd()));
    match fabric.apply(request) {
        Ok(directions) => Answer::Done(State {
            directions,
            hub: own.join("ns/net"),
            hosts: held.hosts.iter().map(|(name, file)| (name.clone(), path(file))).collect(),
        }),
        Err(none) => Answer::Refused(none.to_string()),
    }
}

/// Sends every packet of a device to the loop.
async fn read(from: usize, device: Arc<AsyncFd<File>>, events: mpsc::Sender<Event>) {
    let mut buffer = vec![0; PACKET_BYTES];
    loop {
        let read = async {
            let mut ready = device.readable().await?;
            let read = ready.try_io(|device| device.get_ref().read(&mut buffer));
            read.unwrap_or(Ok(0))
        };
        match read.await {
            // Nothing there after all.
            Ok(0) => {}
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                if events.send(Event::Packet { from, bytes }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                eprintln!("lab: the TUN device of place {from} is lost: {error}");
                return;
            }
        }
    }
}

/// Takes requests, each on a connection of its own.
async fn answer(listener: UnixListener, events: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let events = events.clone();
                tokio::spawn(async move {
                    let served = timeout(REQUEST_LIMIT, serve(stream, events)).await;
                    if let Err(error) = served.unwrap_or_else(|late| Err(io::Error::other(late))) {
                        eprintln!("lab: a request to the WAN router failed: {error}");
                    }
                });
            }
            Err(error) => {
                eprintln!("lab: the WAN router takes no requests any more: {error}");
                return;
            }
        }
    }
}

async fn serve(stream: UnixStream, events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(MAX_BYTES).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let asked = events.send(Event::Asked { request, answer }).await;
            asked.map_err(|_| io::ErrorKind::BrokenPipe)?;
            answered.await.map_err(io::Error::other)?
        }
        Err(error) => Answer::Refused(format!("this is no request: {error}")),
    };
    let text = format!("{}\n", serde_json::to_string(&answer)?);
    stream.get_mut().write_all(text.as_bytes()).await
}
