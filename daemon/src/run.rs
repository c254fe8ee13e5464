//! Starts, connects and stops everything. No thread is started anywhere else: a task is either held by its owner and ends with
//! it, or detached because it ends by itself.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::StreamExt;
use punch_api::Event;
use punch_engine::{Engine, EngineConfig, EngineEvent, SocketId};
use punch_platform::{clock, netlink};
use punch_service::manager;
use punch_signal_protocol::Identity;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::config::Config;
use crate::control::http;
use crate::controller::request::Request;
use crate::controller::saving::Kept;
use crate::controller::{Controller, Inlets, Parts};
use crate::driver::Driver;
use crate::driver::command::Command;
use crate::driver::lane::Settings;
use crate::driver::workers::Workers;
use crate::interface::{Interface, Wanted};
use crate::startup::{DataPath, Ground, Listeners, Places};
use crate::store::Store;
use crate::store::writer::{Desk, Writer};
use crate::tasks::{Spawner, Task};
use crate::{metrics, watchdog};

/// Frames that say goodbye take this long to leave.
const FAREWELL: Duration = Duration::from_millis(100);
/// The controller has this long to write what it knows and to give back the router's port.
const CONTROLLER_STOP: Duration = Duration::from_secs(2);

/// Commands that may wait for the driver.
const COMMANDS: usize = 256;
/// Events of the engine that may wait for the controller.
const ENGINE_EVENTS: usize = 4096;
/// Events that a listener at the control socket may be behind.
const EVENTS: usize = 256;
/// Requests that may wait for the controller.
const REQUESTS: usize = 64;

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(32)
        .build()
        .context("cannot start")
}

/// Runs punchd until it is told to stop.
pub(crate) fn run(config: Config, places: Places) -> Result<()> {
    // The packet path has a thread and a runtime of its own; control and targets share this one.
    raise_file_limit();
    // Before any thread is started.
    let ground = Ground::prepare(&config, places)?;
    let control = runtime()?;
    // A start that fails gives its share up inside the other runtime, where this one must not end.
    let data = Arc::new(runtime()?);
    let result = control.block_on(serve(config, ground, data.clone()));
    // A name that is still being looked up must not hold up the end.
    control.shutdown_background();
    result
}

/// Every forwarded connection is a descriptor, and the soft limit is often 1,024.
fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(65_536) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn file_limit() -> u64 {
    rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1024, |(soft, _)| soft)
}

async fn serve(config: Config, ground: Ground, data: Arc<Runtime>) -> Result<()> {
    let spawner = Spawner::new(Handle::current());
    // From here on a signal is waited for; what is under way is not torn apart by it.
    let mut end = Signals::new()?;
    let Ground {
        mut store,
        tun,
        listeners,
        socket_file: _socket_file,
    } = ground;
    let identity = store.identity()?;
    let kept = Kept::read(&mut store)?;
    let desk = start_writer(store)?;
    let data_path = {
        let _data = data.enter();
        DataPath::open(tun, &config)?
    };
    let ports = data_path.ports();
    let (interface, _netlink_tasks) = open_interface(&spawner, &config).await?;
    let driver = DriverThread::start(&config, &identity, data_path, spawner.clone(), data)?;
    let (broadcast, _) = broadcast::channel(EVENTS);
    let controller = Controller::open(Parts {
        config,
        kept,
        desk,
        identity,
        interface,
        ports,
        driver: driver.commands.clone(),
        broadcast: broadcast.clone(),
        spawner: spawner.clone(),
    })
    .await?;
    let services = Services::start(&spawner, controller, driver.events, listeners, broadcast)?;
    tracing::info!(port_v4 = ports.0, port_v6 = ports.1, "ready");
    manager::ready("started");

    let outcome = tokio::select! {
        () = end.wait() => Ok(()),
        _ = driver.stopped => Err(anyhow!("the packet path has ended: the interface was deleted, or see the log")),
    };
    tracing::info!("stopping");
    manager::stopping();
    services.stop(&driver.commands).await;
    if outcome.is_ok() {
        drop(driver.commands);
        let _ = driver.thread.join();
    }
    outcome
}

/// The signals that ask punchd to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Opens netlink and configures the TUN interface. Netlink works for as long as the tasks are held.
async fn open_interface(spawner: &Spawner, config: &Config) -> Result<(Interface, [Task; 2])> {
    let (netlink, connection, mut changes) = netlink::open().context("cannot open netlink")?;
    let connection = spawner.spawn("netlink", connection);
    let (sender, notices) = mpsc::channel(1);
    let watch = spawner.spawn("network", async move {
        while changes.next().await.is_some() {
            // One waiting notice says it all.
            let _ = sender.try_send(());
        }
    });
    let wanted = Wanted {
        name: &config.interface,
        mtu: config.mtu,
        range: config.ipv4,
    };
    let interface = Interface::configure(netlink, notices, wanted).await?;
    Ok((interface, [connection, watch]))
}

/// The thread of the packet path, and the channels to and from it.
struct DriverThread {
    thread: JoinHandle<()>,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<EngineEvent>,
    /// Resolves when the thread has ended.
    stopped: oneshot::Receiver<()>,
}

impl DriverThread {
    fn start(
        config: &Config,
        identity: &Identity,
        data_path: DataPath,
        spawner: Spawner,
        data: Arc<Runtime>,
    ) -> Result<Self> {
        let engine_config = EngineConfig {
            identity: identity.clone(),
            ipv4_range: config.ipv4,
            mtu: usize::from(config.mtu),
            seed: punch_platform::random()?,
            budget: config.budget,
            nat: config.nat.clone(),
            relay: config.relay && !config.direct_only,
        };
        let engine = Engine::new(engine_config, clock::wall_ms(), clock::now());
        let (commands, commands_out) = mpsc::channel(COMMANDS);
        let (events_in, events) = mpsc::channel(ENGINE_EVENTS);
        let settings = Settings {
            files: file_limit(),
            offloads: config.offloads,
            seed: u64::from_ne_bytes(punch_platform::random()?),
        };
        let DataPath { tun, v4, v6 } = data_path;
        let workers = start_workers()?;
        let mut driver = Driver::new(
            engine,
            tun,
            commands_out,
            events_in,
            spawner,
            workers,
            &settings,
        );
        for (id, socket) in [(SocketId::MAIN_V4, v4), (SocketId::MAIN_V6, v6)] {
            if let Some(socket) = socket {
                driver.add_socket(id, socket);
            }
        }
        let (stopped_in, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("driver".to_owned())
            .spawn(move || {
                data.block_on(driver.run());
                // Reached also when it panics its way out: the sender is dropped then.
                let _ = stopped_in.send(());
            })
            .context("cannot start the driver's thread")?;
        Ok(Self {
            thread,
            commands,
            events,
            stopped,
        })
    }
}

/// The thread that waits for the disk; it ends when nobody has anything to write any more.
fn start_writer(store: Store) -> Result<Desk> {
    let (desk, writer) = Writer::new(store);
    thread::Builder::new()
        .name("disk".to_owned())
        .spawn(move || writer.run())
        .context("cannot start the thread that writes")?;
    Ok(desk)
}

/// The threads for handshakes; each ends when the driver does.
fn start_workers() -> Result<Workers> {
    let (workers, threads) = Workers::new(thread::available_parallelism().ok());
    for worker in threads {
        thread::Builder::new()
            .name("handshakes".to_owned())
            .spawn(move || worker.run())
            .context("cannot start a thread for handshakes")?;
    }
    Ok(workers)
}

/// What serves the outside: the controller, and the tasks that ask it.
struct Services {
    controller: Task,
    stop_controller: oneshot::Sender<()>,
    /// Without it the controller would end with the last task that asks it; it is needed until the goodbyes are said.
    requests: mpsc::Sender<Request>,
    /// Control and metrics.
    askers: Vec<Task>,
    /// Gives a sign of life until the end.
    watchdog: Task,
}

impl Services {
    fn start(
        spawner: &Spawner,
        controller: Controller,
        events: mpsc::Receiver<EngineEvent>,
        listeners: Listeners,
        broadcast: broadcast::Sender<Event>,
    ) -> Result<Self> {
        let (control, metrics) = listeners.into_async()?;
        let (requests, requests_out) = mpsc::channel(REQUESTS);
        let (stop_controller, stop) = oneshot::channel();
        let inlets = Inlets {
            requests: requests_out,
            events,
            stop,
        };
        let controller = spawner.spawn("controller", controller.run(inlets));
        let watch = watchdog::beat(requests.clone(), broadcast.subscribe());
        let watchdog = spawner.spawn("watchdog", watch);
        let mut askers = Vec::new();
        if let Some(listener) = metrics {
            askers.push(spawner.spawn("metrics", metrics::serve(listener, requests.clone())));
        }
        let control = http::serve(control, requests.clone(), broadcast);
        askers.push(spawner.spawn("control", control));
        Ok(Self {
            controller,
            stop_controller,
            requests,
            askers,
            watchdog,
        })
    }

    /// First no more requests, then goodbye to the peers, for which the controller holds the signalling clients; the controller
    /// goes last.
    async fn stop(self, driver: &mpsc::Sender<Command>) {
        drop(self.askers);
        let _ = driver.send(Command::ShutDown).await;
        tokio::time::sleep(FAREWELL).await;
        let _ = self.stop_controller.send(());
        drop(self.requests);
        let _ = tokio::time::timeout(CONTROLLER_STOP, self.controller.join()).await;
        drop(self.watchdog);
    }
}
