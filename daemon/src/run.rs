//! Starts, connects and stops everything. No thread is started anywhere else: a task is either held by its owner and ends with
//! it, or detached because it ends by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::StreamExt;
use punch_engine::{Engine, EngineConfig, EngineEvent, SocketId};
use punch_platform::handover::{self, Named};
use punch_platform::{clock, netlink};
use punch_service::manager;
use punch_signal_protocol::Identity;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use crate::config::Config;
use crate::control::socket;
use crate::controller::saving::Kept;
use crate::controller::{Controller, Parts};
use crate::driver::Driver;
use crate::driver::command::Command;
use crate::driver::lane::Settings;
use crate::driver::workers::Workers;
use crate::handover::keeper::{Keeper, Last};
use crate::handover::takeover::{Asked, Ended, Predecessor, Successor};
use crate::handover::{CONTROL, Copies, Inheritance, Kept as Stored, Left};
use crate::interface::{Interface, Wanted};
use crate::meeting::MeetingPlace;
use crate::services::{CONTROLLER_STOP, FAREWELL, Services};
use crate::startup::{DataPath, Ground, Places, RemoveOnDrop};
use crate::store::Store;
use crate::store::writer::{Desk, Writer};
use crate::tasks::{Spawner, Task};
use crate::views::facts::Ports;

/// Peers wait so many seconds for a punchd that is started again.
const AWAY: u8 = 10;

/// Commands that may wait for the driver.
const COMMANDS: usize = 256;
/// Events of the engine that may wait for the controller.
const ENGINE_EVENTS: usize = 4096;
/// Events that a listener at the control socket may be behind.
const EVENTS: usize = 256;

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(32)
        .build()
        .context("cannot start")
}

/// Runs punchd until it is told to stop, or another process has taken over from it.
pub(crate) fn run(
    config: Config,
    places: Places,
    inheritance: Inheritance,
    mut predecessor: Option<Predecessor>,
) -> Result<()> {
    let state_dir = places.state_dir.clone();
    // Before any thread is started.
    let mut ground = Ground::prepare(&config, places, inheritance)?;
    loop {
        // The packet path has a thread and a runtime of its own; control and targets share this one.
        let control = runtime()?;
        // A start that fails gives its share up inside the other runtime, where this one must not end.
        let data = Arc::new(runtime()?);
        let serve = serve(config.clone(), ground, data.clone(), predecessor.take());
        let result = control.block_on(serve);
        // A name that is still being looked up must not hold up the end.
        control.shutdown_background();
        let Some(succession) = result? else {
            return Ok(());
        };
        let Succession {
            successor,
            named,
            socket_file,
        } = succession;
        match successor.instate(&named) {
            Ok(()) => {
                tracing::info!("another process has taken over");
                socket_file.leave();
                return Ok(());
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    "the process that was to take over does not serve: this one goes on"
                );
                let inheritance = Inheritance::of(named);
                let again = Ground::again(&config, &state_dir, socket_file, inheritance);
                match runtime()?.block_on(unless_told(again))? {
                    Some(again) => ground = again,
                    None => return Ok(()),
                }
            }
        }
    }
}

/// What comes of this, or nothing if a signal asks punchd to stop first.
async fn unless_told<T>(what: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    let mut end = Signals::new()?;
    tokio::select! {
        // What a signal has said while nobody waited for one counts.
        biased;
        () = end.wait() => Ok(None),
        done = what => done.map(Some),
    }
}

/// Everything is ready to be passed on: this process has stopped.
struct Succession {
    successor: Successor,
    named: Vec<Named>,
    socket_file: RemoveOnDrop,
}

/// Every forwarded connection is a descriptor, and the soft limit is often 1,024.
pub(crate) fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(65_536) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn file_limit() -> u64 {
    rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1024, |(soft, _)| soft)
}

async fn serve(
    config: Config,
    ground: Ground,
    data: Arc<Runtime>,
    predecessor: Option<Predecessor>,
) -> Result<Option<Succession>> {
    // From here on a signal is waited for; what is under way is not torn apart by it.
    let mut end = Signals::new()?;
    let (mut running, ports) = Running::start(config, ground, data).await?;
    if let Some(predecessor) = predecessor {
        let ended = predecessor.dismiss()?;
        running.socket_file.arm();
        if ended == Ended::ByItself {
            running.answer_anew()?;
        }
    }
    tracing::info!(port_v4 = ports.udp.0, port_v6 = ports.udp.1, "ready");
    manager::ready("started");
    let why = running.wait(&mut end).await;
    tracing::info!("stopping");
    manager::stopping();
    running.stop(why).await
}

/// Why punchd stops.
enum Why {
    /// By a signal.
    Told,
    /// Another process goes on, with these copies and what is not among them.
    Successor(Successor, Copies),
    /// The packet path has ended.
    Broken,
}

/// Everything that runs, and what is passed on when another process takes over.
struct Running {
    driver: DriverThread,
    services: Services,
    keeper: Option<Keeping>,
    writer: JoinHandle<()>,
    asked: mpsc::Receiver<Asked>,
    identity: [u8; 32],
    listeners: Vec<Named>,
    socket_file: RemoveOnDrop,
    _netlink: [Task; 2],
}

impl Running {
    /// Starts everything; also tells where packets come in.
    async fn start(config: Config, ground: Ground, data: Arc<Runtime>) -> Result<(Self, Ports)> {
        let spawner = Spawner::new(Handle::current());
        let Ground {
            mut store,
            device,
            listeners,
            socket_file,
            inheritance,
        } = ground;
        let identity = store.identity()?;
        let id = identity.id();
        let kept = Kept::read(&mut store)?;
        let (desk, writer) = start_writer(store)?;
        let mut data_path = {
            let _data = data.enter();
            DataPath::open(device, &config, &id, inheritance)?
        };
        let inherited = std::mem::take(&mut data_path.inherited);
        let stored = std::mem::take(&mut data_path.kept);
        let ports = data_path.ports();
        let (interface, netlink) = open_interface(&spawner, &config).await?;
        let relay = config.relay && !config.direct_only;
        let place = MeetingPlace::new(&id, relay, spawner.clone());
        let mut driver =
            DriverThread::start(&config, &identity, data_path, &place, spawner.clone(), data)?;
        let (broadcast, _) = broadcast::channel(EVENTS);
        let controller = Controller::open(Parts {
            config,
            kept,
            desk,
            identity,
            interface,
            nat64: inherited.nat64,
            ports,
            place,
            driver: driver.commands.clone(),
            broadcast: broadcast.clone(),
            spawner: spawner.clone(),
        })
        .await?;
        // The peers are known, and no server has been reached: who goes on with a path makes no offer first. Packets flow from here on.
        let _ = driver.commands.send(Command::Inherit(inherited)).await;
        let copies = listeners.copies()?;
        let events = std::mem::replace(&mut driver.events, mpsc::channel(1).1);
        let (asks, asked) = mpsc::channel(1);
        let services = Services::start(&spawner, controller, events, listeners, broadcast, asks)?;
        let keeper = Keeping::start(&spawner, *id.as_bytes(), stored, &driver.commands);
        let running = Self {
            driver,
            services,
            keeper,
            writer,
            asked,
            identity: *id.as_bytes(),
            listeners: copies,
            socket_file,
            _netlink: netlink,
        };
        Ok((running, ports))
    }

    /// The process that was taken over from has ended by itself, and may have removed the control socket's file: then there is another.
    fn answer_anew(&mut self) -> Result<()> {
        let place = self.socket_file.place();
        if place.exists() {
            return Ok(());
        }
        let listener = socket::bind(place)?;
        self.listeners.retain(|(name, _)| name != CONTROL);
        let copy = handover::copy(&listener)?;
        self.listeners.push((CONTROL.to_owned(), copy));
        self.services.answer_at(listener)
    }

    /// Waits until there is a reason to stop.
    async fn wait(&mut self, end: &mut Signals) -> Why {
        loop {
            tokio::select! {
                () = end.wait() => return Why::Told,
                Some(asked) = self.asked.recv() => match asked.successor().await {
                    // There may be no room for copies: that must show while this process can still go on.
                    Ok(successor) => match copies(&self.driver.commands).await {
                        Ok(copies) => return Why::Successor(successor, copies),
                        Err(error) => {
                            let error = format!("{error:#}");
                            tracing::warn!(error, "a process that was to take over is refused");
                            successor.refuse();
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%error, "a process that was to take over is gone");
                    }
                },
                _ = &mut self.driver.stopped => return Why::Broken,
            }
        }
    }

    /// Stops everything; what is to be passed on is in the answer.
    async fn stop(self, why: Why) -> Result<Option<Succession>> {
        let (services, commands) = (self.services, self.driver.commands);
        let succession = match (why, self.keeper) {
            (Why::Broken, _) => {
                services.stop(&commands).await;
                return Err(anyhow!(
                    "the packet path has ended: the interface was deleted, or see the log"
                ));
            }
            (Why::Told, None) => {
                services.stop(&commands).await;
                None
            }
            (Why::Told, Some(keeper)) => {
                // Nobody says whether it is started again: if not, the manager lets go of what it keeps, and the peers of us.
                let left = services
                    .step_aside(&commands, Some(AWAY), &Copies::new())
                    .await?;
                keeper.keep(left).await;
                None
            }
            (Why::Successor(successor, copies), _) => {
                let left = services.step_aside(&commands, None, &copies).await?;
                let mut named = left.into_named(self.identity, copies);
                named.extend(self.listeners);
                Some(Succession {
                    successor,
                    named,
                    socket_file: self.socket_file,
                })
            }
        };
        drop(commands);
        let _ = self.driver.thread.join();
        // The state directory is free when the thread that writes has ended.
        let until = clock::now() + CONTROLLER_STOP;
        while !self.writer.is_finished() && clock::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(succession)
    }
}

/// Copies of all that the packet path has open.
async fn copies(driver: &mpsc::Sender<Command>) -> Result<Copies> {
    let (answer, left) = oneshot::channel();
    let order = Command::Bequeath {
        flows: false,
        copied: BTreeSet::new(),
        answer,
    };
    let _ = driver.send(order).await;
    let left = left.await.context("the packet path has ended")?;
    let left = left.context("no descriptor can be copied (LimitNOFILE, ulimit -n)")?;
    Ok(left.into_copies())
}

/// The task that leaves things with the service manager, if there is one.
struct Keeping {
    task: Task,
    last: oneshot::Sender<Last>,
}

impl Keeping {
    fn start(
        spawner: &Spawner,
        identity: [u8; 32],
        stored: Stored,
        driver: &mpsc::Sender<Command>,
    ) -> Option<Self> {
        if !handover::is_kept() {
            return None;
        }
        let keeper = Keeper::new(identity, stored)
            .inspect_err(|error| tracing::warn!(%error, "a restart will end the tunnels"))
            .ok()?;
        let (last, last_out) = oneshot::channel();
        let driver = driver.clone();
        let ask = move |flows, copied| {
            let driver = driver.clone();
            async move {
                let (answer, left) = oneshot::channel();
                let order = Command::Bequeath {
                    flows,
                    copied,
                    answer,
                };
                driver.send(order).await.ok()?;
                left.await.ok()?.ok()
            }
        };
        let task = spawner.spawn("keeper", keeper.run(ask, last_out));
        Some(Self { task, last })
    }

    /// Leaves this last.
    async fn keep(self, left: Left) {
        let (done, kept) = oneshot::channel();
        if self.last.send((left, done)).is_ok() {
            let _ = timeout(FAREWELL, kept).await;
        }
        drop(self.task);
    }
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
        place: &MeetingPlace,
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
            tcp: config.tcp,
        };
        let engine = Engine::new(engine_config, clock::wall_ms(), clock::now());
        let (commands, commands_out) = mpsc::channel(COMMANDS);
        let (events_in, events) = mpsc::channel(ENGINE_EVENTS);
        let settings = Settings {
            files: file_limit(),
            offloads: config.offloads,
            seed: u64::from_ne_bytes(punch_platform::random()?),
            place: place.clone(),
        };
        let DataPath {
            tun,
            v4,
            v6,
            listeners,
            ..
        } = data_path;
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
        if !listeners.is_empty() {
            driver.add_listeners(listeners);
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
fn start_writer(store: Store) -> Result<(Desk, JoinHandle<()>)> {
    let (desk, writer) = Writer::new(store);
    let thread = thread::Builder::new()
        .name("disk".to_owned())
        .spawn(move || writer.run())
        .context("cannot start the thread that writes")?;
    Ok((desk, thread))
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
