//! Keeps the main IPv4 port mapped at the router, so that peers reach it whatever the NAT is like otherwise; and where UDP is mapped, the
//! port on which TCP connections are taken as well, by the same protocol.

mod router;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use punch_api::{MappingProtocol, PortMappingView};
use punch_engine::is_private;
use punch_platform::clock;
use punch_platform::netlink::Gateway;
use punch_signal_protocol::Identity;
use tokio::net::UdpSocket;
use tokio::sync::{oneshot, watch};

use crate::tasks::{Spawner, Task, sleep_until};
use crate::views::facts::Ports;
use router::{Client, Held, Transport};

/// Never renewed more often, whatever lifetime a router grants.
const RENEWAL_MIN: Duration = Duration::from_secs(30);
/// Nor less often.
const RENEWAL_MAX: Duration = Duration::from_secs(3600);
/// A UPnP router does not say that it has restarted: the mapping is looked after more often.
const RENEWAL_UPNP: Duration = Duration::from_secs(1200);
/// A router that refused is asked again after this, and after twice as long each time.
const PAUSE: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(1800);
/// The router is not asked more often because of what is heard, from itself or from the kernel.
const HEARSAY: Duration = Duration::from_secs(10);
/// What is left to a process that may not come is kept so long, in seconds: no router has to take less (RFC 6887 §15).
const LEFT: u32 = 120;
/// Removing the mapping may take this long.
const FAREWELL: Duration = Duration::from_secs(1);
/// Where routers say that they have restarted (RFC 6886 §3.2.1, RFC 6887 §14.1.1), and how long at most a client waits then,
/// so that not all come at once (RFC 6887 §8.5).
const ANNOUNCEMENTS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)), 5350);
const ANNOUNCEMENT_DELAY: Duration = Duration::from_secs(5);

/// What the controller tells of the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Network {
    gateway: Option<Gateway>,
    /// How often addresses have changed or the machine has slept: the router may be another one with the same address.
    changes: u64,
}

/// What the router leads here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// What users are told, which is about UDP.
    pub(crate) view: PortMappingView,
    /// Where TCP connections to this machine are led from.
    pub(crate) tcp: Option<SocketAddr>,
}

/// The controller's end of the task.
pub(crate) struct PortMapping {
    network: watch::Sender<Network>,
    mapped: watch::Receiver<Mapped>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<Task>,
}

impl PortMapping {
    /// Starts the task, if it is `wanted` and there is a port for UDP over IPv4.
    pub(crate) fn start(
        spawner: &Spawner,
        identity: &Identity,
        ports: Ports,
        wanted: bool,
    ) -> Self {
        let (network, networks) = watch::channel(Network::default());
        let ports = [ports.udp.0, ports.tcp.0];
        let [port, tcp_port] = ports.map(|port| port.and_then(NonZeroU16::new));
        let trouble = match (wanted, port) {
            (false, _) => "switched off ([nat] port_mapping in punchd.toml)",
            (true, None) => "there is no IPv4 socket",
            (true, Some(_)) => "the router has not been asked yet",
        };
        let (view, tcp) = (failed(trouble.to_owned()), None);
        let (reports, mapped) = watch::channel(Mapped { view, tcp });
        let mut mapping = Self {
            network,
            mapped,
            stop: None,
            task: None,
        };
        if let (true, Some(port)) = (wanted, port) {
            let (stop, stopped) = oneshot::channel();
            let keeper = Keeper {
                port,
                nonce: router::nonce(identity),
                reports,
                network: Network::default(),
                held: None,
                tcp: tcp_port.map(Beside::new),
                failures: 0,
                next: None,
                asked: None,
            };
            mapping.stop = Some(stop);
            mapping.task = Some(spawner.spawn("port mapping", keeper.run(networks, stopped)));
        }
        mapping
    }

    /// The default route leads to this router now.
    pub(crate) fn set_gateway(&self, gateway: Option<Gateway>) {
        self.network.send_if_modified(|network| {
            let before = std::mem::replace(&mut network.gateway, gateway);
            before != gateway
        });
    }

    /// The addresses of this machine have changed, or it has slept.
    pub(crate) fn network_changed(&self) {
        self.network.send_modify(|network| network.changes += 1);
    }

    /// Waits until there is something new to [`Self::external`].
    pub(crate) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.mapped.changed().await
    }

    /// The addresses that lead here, for UDP and for TCP.
    pub(crate) fn external(&self) -> [Option<SocketAddr>; 2] {
        let mapped = self.mapped.borrow();
        [mapped.view.external, mapped.tcp]
    }

    /// For those who look later.
    pub(crate) fn mapped(&self) -> watch::Receiver<Mapped> {
        self.mapped.clone()
    }

    /// Removes the mappings at the router, or leaves them there for the next process for two minutes; takes a second at most.
    pub(crate) async fn stop(&mut self, leave: bool) {
        if let Some(stop) = self.stop.take().filter(|_| leave) {
            let _ = stop.send(());
        }
        if let Some(task) = self.task.take() {
            let _ = tokio::time::timeout(FAREWELL, task.join()).await;
        }
    }
}

/// The mapping for TCP, beside the one for UDP.
struct Beside {
    port: NonZeroU16,
    /// The mapping, and when it ends unless it is renewed.
    held: Option<(Held, Instant)>,
    failures: u32,
}

impl Beside {
    fn new(port: NonZeroU16) -> Self {
        Self {
            port,
            held: None,
            failures: 0,
        }
    }
}

/// The task itself.
struct Keeper {
    port: NonZeroU16,
    nonce: router::Nonce,
    reports: watch::Sender<Mapped>,
    network: Network,
    /// The mapping, and when it ends unless it is renewed.
    held: Option<(Held, Instant)>,
    tcp: Option<Beside>,
    failures: u32,
    next: Option<Instant>,
    asked: Option<Instant>,
}

impl Keeper {
    async fn run(
        mut self,
        mut networks: watch::Receiver<Network>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let announcements = listen()
            .inspect_err(|error| tracing::debug!(%error, "routers that restart are not heard"))
            .ok();
        let is_left = loop {
            let gateway = self.network.gateway.map(|gateway| gateway.address);
            let next = self.next;
            tokio::select! {
                left = &mut stop => break left.is_ok(),
                changed = networks.changed() => {
                    if changed.is_err() {
                        break false;
                    }
                    let network = *networks.borrow_and_update();
                    self.handle_network(network).await;
                }
                () = announced(announcements.as_ref(), gateway) => {
                    if self.held.is_some() {
                        self.hurry(jitter(ANNOUNCEMENT_DELAY));
                    }
                }
                () = sleep_until(next) => {
                    let mut asking = std::pin::pin!(self.ask());
                    let stopped = tokio::select! {
                        () = &mut asking => None,
                        left = &mut stop => Some(left.is_ok()),
                    };
                    if let Some(is_left) = stopped {
                        // A router that has just agreed would keep a mapping that nobody knows of.
                        let _ = tokio::time::timeout(FAREWELL / 2, asking).await;
                        break is_left;
                    }
                }
            }
        };
        match is_left {
            true => self.lend().await,
            false => self.release().await,
        }
    }

    async fn handle_network(&mut self, network: Network) {
        let before = std::mem::replace(&mut self.network, network);
        self.failures = 0;
        if let Some(tcp) = &mut self.tcp {
            tcp.failures = 0;
        }
        if network.gateway != before.gateway {
            self.release_at(before.gateway).await;
            self.asked = None;
            self.next = Some(clock::now());
        } else if network.gateway.is_some() {
            self.hurry(Duration::ZERO);
        }
    }

    /// Asks soon, but not too often.
    fn hurry(&mut self, delay: Duration) {
        let now = clock::now();
        let at = self.asked.map_or(now, |asked| now.max(asked + HEARSAY)) + delay;
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Renews the mapping, or gets one.
    async fn ask(&mut self) {
        self.next = None;
        let Some(gateway) = self.network.gateway else {
            self.report(failed("there is no IPv4 router".to_owned()));
            return;
        };
        self.asked = Some(clock::now());
        let client = self.client(gateway);
        let renewed = match &self.held {
            Some((held, _)) => router::renew(&client, held).await,
            None => Err(router::Trouble::Silence),
        };
        let result = match renewed {
            Ok(held) => Ok(held),
            Err(_) => router::obtain(&client).await,
        };
        let now = clock::now();
        match result {
            Ok(held) => {
                self.failures = 0;
                self.next = Some(now + renewal(held.protocol(), held.lifetime));
                self.report(mapped(&held, None));
                let ends = now + held.lifetime;
                let before = self.held.replace((held.clone(), ends));
                if let Some((before, _)) = before
                    && before.protocol() != held.protocol()
                {
                    let _ = tokio::time::timeout(FAREWELL, router::release(&client, &before)).await;
                }
                self.ask_for_tcp(&client, &held).await;
            }
            Err(trouble) => {
                let pause = pause(self.failures);
                self.failures += 1;
                let trouble = trouble.explain(gateway.address);
                match self.held.take_if(|(_, ends)| *ends > now) {
                    // It may well go on working: what failed is only asking.
                    Some((held, ends)) => {
                        self.next = Some((now + pause).min(ends));
                        self.report(mapped(&held, Some(trouble)));
                        self.held = Some((held, ends));
                    }
                    None => {
                        self.held = None;
                        self.next = Some(now + pause);
                        self.report(failed(trouble));
                    }
                }
            }
        }
    }

    /// Renews the mapping for TCP, or gets one, in the way in which the one for UDP was got.
    async fn ask_for_tcp(&mut self, client: &Client, udp: &Held) {
        let Some(tcp) = &mut self.tcp else {
            return;
        };
        let client = client.for_tcp(tcp.port);
        let before = tcp.held.as_ref().map(|(held, _)| held.clone());
        let (alike, other) = match before {
            Some(before) if before.protocol() == udp.protocol() => (before, None),
            before => (udp.clone(), before),
        };
        let result = router::renew(&client, &alike).await;
        let now = clock::now();
        let again = match result {
            Ok(held) => {
                let again = renewal(held.protocol(), held.lifetime);
                let ends = now + held.lifetime;
                (tcp.held, tcp.failures) = (Some((held, ends)), 0);
                if let Some(other) = other {
                    let _ = tokio::time::timeout(FAREWELL, router::release(&client, &other)).await;
                }
                again
            }
            Err(trouble) => {
                tracing::debug!(?trouble, "no port mapping for TCP");
                let pause = pause(tcp.failures);
                tcp.failures += 1;
                pause
            }
        };
        self.next = self.next.map(|at| at.min(now + again));
        let view = self.reports.borrow().view.clone();
        self.report(view);
    }

    fn client(&self, gateway: Gateway) -> Client {
        Client {
            gateway,
            transport: Transport::Udp,
            port: self.port,
            nonce: self.nonce,
            lifetime: router::LIFETIME,
        }
    }

    /// Takes out the mappings, each with what is asked of the router about it.
    fn take_held(&mut self, gateway: Gateway) -> impl Iterator<Item = (Client, Held)> {
        let client = self.client(gateway);
        let udp = self.held.take().map(|(held, _)| (client, held));
        let tcp = self.tcp.as_mut().and_then(|tcp| {
            let (held, _) = tcp.held.take()?;
            Some((client.for_tcp(tcp.port), held))
        });
        udp.into_iter().chain(tcp)
    }

    /// Leaves the mappings to the next process, which asks for the same; if there is none the router forgets them soon.
    async fn lend(&mut self) {
        let Some(gateway) = self.network.gateway else {
            return;
        };
        let asked = self.take_held(gateway).map(|(client, held)| async move {
            let lifetime = LEFT;
            router::renew(&Client { lifetime, ..client }, &held).await
        });
        let _ = tokio::time::timeout(FAREWELL, join_all(asked)).await;
    }

    async fn release(&mut self) {
        self.release_at(self.network.gateway).await;
    }

    /// Removes the mappings, as far as the router that made them can still be reached.
    async fn release_at(&mut self, gateway: Option<Gateway>) {
        let Some(gateway) = gateway else {
            return;
        };
        let held: Vec<_> = self.take_held(gateway).collect();
        if held.is_empty() {
            return;
        }
        self.report(failed("the network has changed".to_owned()));
        let asked = held
            .iter()
            .map(|(client, held)| router::release(client, held));
        let _ = tokio::time::timeout(FAREWELL, join_all(asked)).await;
    }

    /// Tells the controller, and the log once.
    fn report(&mut self, view: PortMappingView) {
        let now = clock::now();
        let tcp = self.tcp.as_mut().and_then(|tcp| {
            tcp.held.take_if(|(_, ends)| *ends <= now);
            let (held, _) = tcp.held.as_ref()?;
            Some(SocketAddr::from(held.external))
        });
        let mapped = Mapped { view, tcp };
        let before = self.reports.borrow().clone();
        if before == mapped {
            return;
        }
        let view = &mapped.view;
        match (view.external, &view.trouble) {
            _ if before.view == *view => {}
            (Some(external), None) => {
                tracing::info!(%external, protocol = view.protocol.as_ref().map(tracing::field::display), double_nat = view.double_nat, "the router maps a port");
            }
            (_, trouble) => tracing::debug!(trouble, "no port mapping"),
        }
        if let Some(external) = tcp.filter(|_| before.tcp != tcp) {
            tracing::info!(%external, "the router maps a port for TCP");
        }
        self.reports.send_replace(mapped);
    }
}

fn mapped(held: &Held, trouble: Option<String>) -> PortMappingView {
    PortMappingView {
        protocol: Some(held.protocol().into()),
        external: Some(held.external.into()),
        trouble,
        double_nat: is_private(*held.external.ip()),
    }
}

fn failed(trouble: String) -> PortMappingView {
    PortMappingView {
        trouble: Some(trouble),
        ..PortMappingView::default()
    }
}

/// RFC 6887 §11.2.1, within our bounds.
fn renewal(protocol: MappingProtocol, lifetime: Duration) -> Duration {
    let most = match protocol {
        MappingProtocol::Upnp => RENEWAL_UPNP,
        MappingProtocol::Pcp | MappingProtocol::NatPmp => RENEWAL_MAX,
    };
    (lifetime / 2).clamp(RENEWAL_MIN, most)
}

/// How long to wait after so many failures before the last one.
fn pause(failures: u32) -> Duration {
    PAUSE
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(PAUSE_MAX)
}

fn jitter(most: Duration) -> Duration {
    let random = punch_platform::random::<1>().map_or(128, |[byte]| byte);
    most.mul_f64(f64::from(random) / 255.0)
}

fn listen() -> std::io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // Others on this machine may listen as well.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&ANNOUNCEMENTS.into())?;
    UdpSocket::from_std(socket.into())
}

/// Waits until the router says that it has restarted. What exactly it says does not matter: it is asked.
async fn announced(announcements: Option<&UdpSocket>, gateway: Option<Ipv4Addr>) {
    let Some(socket) = announcements else {
        return std::future::pending().await;
    };
    loop {
        match socket.recv_from(&mut [0; 64]).await {
            Ok((_, from)) if gateway.is_some_and(|gateway| from.ip() == gateway) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "routers that restart are not heard any more");
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_renewed_at_half_its_lifetime_within_bounds() {
        let seconds =
            |protocol, lifetime| renewal(protocol, Duration::from_secs(lifetime)).as_secs();
        for protocol in [MappingProtocol::Pcp, MappingProtocol::NatPmp] {
            assert_eq!(seconds(protocol, 7200), 3600);
            assert_eq!(seconds(protocol, 600), 300);
            assert_eq!(seconds(protocol, 1), 30, "a router cannot keep us busy");
            assert_eq!(seconds(protocol, u64::from(u32::MAX)), 3600);
        }
        assert_eq!(seconds(MappingProtocol::Upnp, 7200), 1200);
        assert_eq!(seconds(MappingProtocol::Upnp, 600), 300);
    }

    #[test]
    fn pauses_grow_from_a_minute_to_half_an_hour() {
        let minutes = (0..7).map(|failures| pause(failures).as_secs() / 60);
        assert_eq!(minutes.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }

    #[test]
    fn a_router_with_a_private_address_is_behind_another_nat() {
        for address in [
            [10, 0, 0, 1],
            [172, 31, 0, 1],
            [192, 168, 0, 1],
            [100, 64, 0, 1],
            [100, 127, 0, 1],
        ] {
            assert!(is_private(address.into()), "{address:?}");
        }
        for address in [
            [100, 63, 0, 1],
            [100, 128, 0, 1],
            [203, 0, 113, 1],
            [172, 32, 0, 1],
        ] {
            assert!(!is_private(address.into()), "{address:?}");
        }
    }
}
