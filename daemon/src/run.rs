//! Starts, connects and stops everything. Nothing is spawned anywhere else: a task is either held by its owner and ends with
//! it, or detached because it ends by itself.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::StreamExt;
use punch_engine::{Engine, EngineConfig, SocketId};
use punch_platform::{Offloads, Tun, Udp, clock, netlink};
use punch_service::manager;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc};

use crate::config::Config;
use crate::control::http;
use crate::controller::{Controller, Inlets, Kernel, Parts};
use crate::driver::command::Command;
use crate::driver::workers::Workers;
use crate::driver::{Driver, Settings};
use crate::startup::{Ground, Places};
use crate::tasks::Spawner;
use crate::{metrics, watchdog};

/// The TUN's transmit queue, in packets: a millisecond or two at full speed.
const TUN_QUEUE: u32 = 1000;

/// Frames that say goodbye take this long to leave.
const FAREWELL: std::time::Duration = std::time::Duration::from_millis(100);

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
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let Ground {
        store,
        tun,
        control,
        metrics,
        socket_file: _socket_file,
    } = ground;
    let identity = store.identity()?;
    let control = UnixListener::from_std(control).context("cannot use the control socket")?;
    let metrics = metrics
        .map(TcpListener::from_std)
        .transpose()
        .context("cannot use the socket for metrics")?;

    let (tun, v4, v6) = {
        let _data = data.enter();
        let tun = Tun::create(tun, &config.interface, config.offloads)?;
        let v4 = Udp::open(false, config.port);
        let v6 = Udp::open(true, config.port);
        (tun, v4, v6)
    };
    let Offloads {
        tun_tso,
        tun_uso,
        tun_gro,
        udp_gso,
        udp_gro,
    } = tun.offloads();
    tracing::info!(tun_tso, tun_uso, tun_gro, udp_gso, udp_gro, "offloads");
    if let (Err(v4), Err(v6)) = (&v4, &v6) {
        bail!("cannot open UDP port {}: {v4}; IPv6: {v6}", config.port);
    }
    // A port that was asked for and is taken must not be replaced in silence.
    for (socket, family) in [(&v4, "IPv4"), (&v6, "IPv6")] {
        if let Err(error) = socket {
            if error.kind() == std::io::ErrorKind::AddrInUse {
                bail!(
                    "UDP port {} is taken ({family}): choose another under [underlay] in punchd.toml",
                    config.port
                );
            }
            tracing::warn!(%error, family, "this address family is not used");
        }
    }
    let (v4, v6) = (v4.ok(), v6.ok());
    let ports = (v4.as_ref().map(Udp::port), v6.as_ref().map(Udp::port));

    let (netlink, connection, mut changes) = netlink::open().context("cannot open netlink")?;
    let _netlink_task = spawner.spawn("netlink", connection);
    let (network_sender, network) = mpsc::channel(1);
    let _watch_task = spawner.spawn("network", async move {
        while changes.next().await.is_some() {
            // One waiting notice says it all.
            let _ = network_sender.try_send(());
        }
    });
    let index = configure_tun(&netlink, &config, &identity.id()).await?;

    let engine_config = EngineConfig {
        identity: identity.clone(),
        ipv4_range: config.ipv4,
        mtu: usize::from(config.mtu),
        seed: punch_platform::random()?,
        budget: config.budget,
        nat: config.nat.clone(),
    };
    let engine = Engine::new(engine_config, clock::wall_ms(), clock::now());
    let (commands, commands_out) = mpsc::channel(256);
    let (events_in, events) = mpsc::channel(4096);
    let workers = start_workers()?;
    let mut driver = Driver::new(
        engine,
        tun,
        commands_out,
        events_in,
        spawner.clone(),
        workers,
        Settings {
            files: file_limit(),
            offloads: config.offloads,
            seed: u64::from_ne_bytes(punch_platform::random()?),
        },
    );
    for (id, socket) in [(SocketId::MAIN_V4, v4), (SocketId::MAIN_V6, v6)] {
        if let Some(socket) = socket {
            driver.add_socket(id, socket);
        }
    }
    let (stopped_in, stopped) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(move || {
            data.block_on(driver.run());
            // Reached also when it panics its way out: the sender is dropped then.
            let _ = stopped_in.send(());
        })
        .context("cannot start the driver's thread")?;

    let (broadcast, _) = broadcast::channel(256);
    let controller = Controller::open(Parts {
        config,
        store,
        identity,
        kernel: Kernel { netlink, index },
        ports,
        driver: commands.clone(),
        broadcast: broadcast.clone(),
        spawner: spawner.clone(),
    })
    .await?;
    let (requests_in, requests) = mpsc::channel(64);
    let (stop_controller, stop) = tokio::sync::oneshot::channel();
    let controller_task = spawner.spawn(
        "controller",
        controller.run(Inlets {
            requests,
            events,
            network,
            stop,
        }),
    );
    // The controller works for as long as somebody could ask it something; until the goodbyes are said, that is us.
    let controller_is_needed = requests_in.clone();
    let _watchdog_task = spawner.spawn(
        "watchdog",
        watchdog::beat(requests_in.clone(), broadcast.subscribe()),
    );
    let metrics_task = metrics
        .map(|listener| spawner.spawn("metrics", metrics::serve(listener, requests_in.clone())));
    let control_task = spawner.spawn("control", http::serve(control, requests_in, broadcast));
    tracing::info!(port_v4 = ports.0, port_v6 = ports.1, "ready");
    manager::ready("started");

    let outcome = tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = stopped => Err(anyhow!("the packet path has ended: the interface was deleted, or see the log")),
    };
    tracing::info!("stopping");
    manager::stopping();
    drop(metrics_task);
    // First no more requests, then goodbye to the peers, for which the controller holds the signalling clients; the controller goes last.
    drop(control_task);
    let _ = commands.send(Command::ShutDown).await;
    tokio::time::sleep(FAREWELL).await;
    let _ = stop_controller.send(());
    drop(controller_is_needed);
    let grace = std::time::Duration::from_secs(2);
    let _ = tokio::time::timeout(grace, controller_task.join()).await;
    if outcome.is_ok() {
        drop(commands);
        let _ = thread.join();
    }
    outcome
}

/// The threads for handshakes; each ends when the driver does.
fn start_workers() -> Result<Workers> {
    let (workers, threads) = Workers::new(std::thread::available_parallelism().ok());
    for worker in threads {
        std::thread::Builder::new()
            .name("handshakes".to_owned())
            .spawn(move || worker.run())
            .context("cannot start a thread for handshakes")?;
    }
    Ok(workers)
}

async fn configure_tun(
    netlink: &netlink::Netlink,
    config: &Config,
    id: &punch_signal_protocol::PeerId,
) -> Result<u32> {
    let name = &config.interface;
    let failed = || format!("cannot configure the interface {name}");
    let index = netlink.index(name).await.with_context(failed)?;
    netlink
        .bring_up(index, u32::from(config.mtu), TUN_QUEUE)
        .await
        .with_context(failed)?;
    if let Some(range) = config.ipv4 {
        let address = IpAddr::from(id.overlay_ipv4(range));
        netlink
            .add_address(index, address)
            .await
            .with_context(failed)?;
    }
    let address = IpAddr::from(id.overlay_ipv6());
    if netlink.add_address(index, address).await.is_err() {
        // Refused where IPv6 is switched off for new interfaces; the overlay's addresses concern nobody but us.
        let retried = match netlink::enable_ipv6(name) {
            Ok(()) => netlink.add_address(index, address).await,
            Err(error) => Err(error),
        };
        if let Err(error) = retried {
            tracing::warn!(%error, "no IPv6 inside the tunnel: the kernel refuses the address");
        }
    }
    Ok(index)
}
