//! One router asked once: by PCP, by NAT-PMP, or by UPnP IGD. What it answers is not trusted: answers are bounded in time and
//! size, and what makes no sense counts as a refusal.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMappingOptions, TimeoutConfig, natpmp, pcp};
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{
    AddAnyPortError, AddPortError, GatewayIpVersion, PortMappingProtocol, SearchOptions,
};
use punch_api::MappingProtocol;
use punch_platform::netlink::Gateway;
use punch_signal_protocol::Identity;
use tokio::time::timeout;

pub(super) use crab_nat::pcp::Nonce;

/// Asked for, in seconds (RFC 6886 §3.3).
pub(super) const LIFETIME: u32 = 7200;
/// A request of PCP or NAT-PMP is sent three times, and takes 1.25 s at most.
const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_millis(500)),
};
/// For the router to answer the search that is sent to it, and that which is sent to all.
const SEARCH_ONE: Duration = Duration::from_secs(1);
const SEARCH_ALL: Duration = Duration::from_millis(1500);
/// For search, descriptions and requests together.
const UPNP: Duration = Duration::from_secs(4);
const SSDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);
/// The name that routers show in their lists.
const NAME: &str = "punch";
/// Longest text of a router that is passed on.
const MAX_TEXT: usize = 120;

type Igd = igd_next::aio::Gateway<Tokio>;

/// What a port is mapped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// The transport as PCP and NAT-PMP call it.
    fn internet(self) -> InternetProtocol {
        match self {
            Self::Udp => InternetProtocol::Udp,
            Self::Tcp => InternetProtocol::Tcp,
        }
    }

    /// The transport as UPnP IGD calls it.
    fn upnp(self) -> PortMappingProtocol {
        match self {
            Self::Udp => PortMappingProtocol::UDP,
            Self::Tcp => PortMappingProtocol::TCP,
        }
    }
}

/// What every request for a mapped port is made from: the router, the port of this machine, and the nonce.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub(super) transport: Transport,
    /// How long it is asked to keep a mapping, in seconds.
    pub(super) lifetime: u32,
    pub(super) gateway: Gateway,
    pub(super) port: NonZeroU16,
    pub(super) nonce: Nonce,
}

impl Client {
    /// The same client, for this port over TCP.
    pub(super) fn for_tcp(self, port: NonZeroU16) -> Self {
        Self {
            transport: Transport::Tcp,
            port,
            ..self
        }
    }
}

/// A mapping.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) external: SocketAddrV4,
    pub(super) lifetime: Duration,
    way: Way,
}

#[derive(Debug, Clone)]
enum Way {
    Pcp,
    NatPmp,
    /// Boxed, as it holds the router's description of itself.
    Upnp(Box<Igd>),
}

impl Held {
    pub(super) fn protocol(&self) -> MappingProtocol {
        match self.way {
            Way::Pcp => MappingProtocol::Pcp,
            Way::NatPmp => MappingProtocol::NatPmp,
            Way::Upnp(_) => MappingProtocol::Upnp,
        }
    }
}

/// Why there is no mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The router does not speak any of the protocols.
    Silence,
    /// It does, and refuses or talks nonsense.
    Refused(String),
}

impl Trouble {
    fn refused(protocol: &str, why: impl Display) -> Self {
        // A router's words go to logs and terminals.
        let text = format!("{protocol}: {why}");
        let plain = text.chars().filter(|letter| !letter.is_control());
        Self::Refused(plain.take(MAX_TEXT).collect())
    }

    pub(super) fn explain(self, router: Ipv4Addr) -> String {
        match self {
            Self::Silence => {
                format!("the router {router} answers neither PCP nor NAT-PMP nor UPnP")
            }
            Self::Refused(why) => format!("the router {router} refuses: {why}"),
        }
    }
}

/// The number that shows a PCP router that it is still us (RFC 6887 §11.1): the same after a crash, or it would keep the port
/// from us for as long as the old mapping lives. Nobody without the key can tell it.
pub(super) fn nonce(identity: &Identity) -> Nonce {
    let signature = identity.sign(b"punch port mapping nonce");
    let word = |at: usize| {
        let bytes = signature
            .get(at..at + 4)
            .and_then(|word| word.try_into().ok());
        u32::from_be_bytes(bytes.unwrap_or_default())
    };
    [word(0), word(4), word(8)]
}

/// Asks by every protocol in turn.
pub(super) async fn obtain(client: &Client) -> Result<Held, Trouble> {
    let mut refusal = Trouble::Silence;
    let mut note = |trouble| {
        if refusal == Trouble::Silence {
            refusal = trouble;
        }
    };
    match by_pcp(client, None).await {
        Ok(held) => return Ok(held),
        Err(trouble) => note(trouble),
    }
    match by_nat_pmp(client, client.port).await {
        Ok(held) => return Ok(held),
        Err(trouble) => note(trouble),
    }
    match timeout(UPNP, by_upnp(client)).await {
        Ok(Ok(held)) => return Ok(held),
        Ok(Err(trouble)) => note(trouble),
        Err(_) => note(Trouble::Silence),
    }
    Err(refusal)
}

/// Asks for the same again.
pub(super) async fn renew(client: &Client, held: &Held) -> Result<Held, Trouble> {
    match &held.way {
        Way::Pcp => by_pcp(client, Some(held.external)).await,
        Way::NatPmp => {
            let port = NonZeroU16::new(held.external.port()).unwrap_or(client.port);
            by_nat_pmp(client, port).await
        }
        Way::Upnp(igd) => {
            let again = map_by_upnp(client, igd, held.external.port());
            timeout(UPNP, again).await.unwrap_or(Err(Trouble::Silence))
        }
    }
}

/// Takes the mapping back.
pub(super) async fn release(client: &Client, held: &Held) {
    let gateway = client.gateway.address.into();
    let result = match &held.way {
        Way::Pcp => {
            let range = pcp::DropMappingRange::Single {
                protocol: client.transport.internet(),
                internal_port: client.port,
            };
            let local = client.gateway.local.into();
            pcp::try_drop_mapping(gateway, local, client.nonce, range, Some(TIMING))
                .await
                .map_err(|failure| Trouble::refused("PCP", failure))
        }
        Way::NatPmp => {
            let protocol = client.transport.internet();
            natpmp::try_drop_mapping(gateway, protocol, Some(client.port), Some(TIMING))
                .await
                .map_err(|failure| Trouble::refused("NAT-PMP", failure))
        }
        Way::Upnp(igd) => igd
            .remove_port(client.transport.upnp(), held.external.port())
            .await
            .map_err(|error| Trouble::refused("UPnP", error)),
    };
    match result {
        Ok(()) => tracing::debug!(external = %held.external, "the port mapping is removed"),
        Err(trouble) => tracing::debug!(?trouble, "the port mapping was not removed"),
    }
}

fn options(client: &Client, external: NonZeroU16) -> PortMappingOptions {
    PortMappingOptions {
        external_port: Some(external),
        lifetime_seconds: Some(client.lifetime),
        timeout_config: Some(TIMING),
    }
}

async fn by_pcp(client: &Client, before: Option<SocketAddrV4>) -> Result<Held, Trouble> {
    let base = pcp::BaseMapRequest::new(
        client.gateway.address.into(),
        client.gateway.local.into(),
        client.transport.internet(),
        client.port,
    );
    let port = before.and_then(|before| NonZeroU16::new(before.port()));
    let options = options(client, port.unwrap_or(client.port));
    let suggested = before.map(|before| IpAddr::V4(*before.ip()));
    let mapping = pcp::port_mapping(base, Some(client.nonce), suggested, options)
        .await
        .map_err(|failure| match failure {
            // Another service on that port, an older router, or none.
            pcp::Failure::UnsupportedVersion(_)
            | pcp::Failure::Timeout
            | pcp::Failure::Socket(_) => Trouble::Silence,
            failure => Trouble::refused("PCP", failure),
        })?;
    let crab_nat::PortMappingType::Pcp { external_ip, .. } = mapping.mapping_type() else {
        return Err(Trouble::Silence);
    };
    let port = mapping.external_port().get();
    let held = held("PCP", external_ip, port, mapping.lifetime(), Way::Pcp);
    if held.is_err() {
        // Whatever it is, it is of no use.
        let range = pcp::DropMappingRange::Single {
            protocol: client.transport.internet(),
            internal_port: client.port,
        };
        let gateway = client.gateway.address.into();
        let local = client.gateway.local.into();
        let _ = pcp::try_drop_mapping(gateway, local, client.nonce, range, Some(TIMING)).await;
    }
    held
}

async fn by_nat_pmp(client: &Client, external: NonZeroU16) -> Result<Held, Trouble> {
    let gateway = client.gateway.address.into();
    let explain = |failure| match failure {
        natpmp::Failure::Timeout | natpmp::Failure::Socket(_) => Trouble::Silence,
        failure => Trouble::refused("NAT-PMP", failure),
    };
    let address = natpmp::external_address(gateway, Some(TIMING))
        .await
        .map_err(explain)?;
    // Before anything is mapped: is it of use?
    held(
        "NAT-PMP",
        address.into(),
        external.get(),
        client.lifetime,
        Way::NatPmp,
    )?;
    let protocol = client.transport.internet();
    let mapping = natpmp::port_mapping(gateway, protocol, client.port, options(client, external))
        .await
        .map_err(explain)?;
    let port = mapping.external_port().get();
    held(
        "NAT-PMP",
        address.into(),
        port,
        mapping.lifetime(),
        Way::NatPmp,
    )
}

async fn by_upnp(client: &Client) -> Result<Held, Trouble> {
    // Some routers answer only what is sent to them, others only what is sent to all; the first keeps strangers out.
    let router = SocketAddr::new(client.gateway.address.into(), SSDP.port());
    let igd = match search(client, router, SEARCH_ONE).await {
        Some(igd) => igd,
        None => search(client, SSDP, SEARCH_ALL)
            .await
            .ok_or(Trouble::Silence)?,
    };
    map_by_upnp(client, &igd, client.port.get()).await
}

async fn search(client: &Client, to: SocketAddr, time: Duration) -> Option<Igd> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::new(client.gateway.local.into(), 0);
    options.broadcast_address = to;
    options.timeout = Some(time);
    options.gateway_ip_version = GatewayIpVersion::V4;
    match search_gateway(options).await {
        // Other machines of the LAN have no say in this.
        Ok(igd) if igd.addr.ip() == client.gateway.address => Some(igd),
        Ok(igd) => {
            tracing::debug!(address = %igd.addr, "a UPnP gateway that is not the router is passed over");
            None
        }
        Err(_) => None,
    }
}

async fn map_by_upnp(client: &Client, igd: &Igd, external: u16) -> Result<Held, Trouble> {
    let way = Way::Upnp(Box::new(igd.clone()));
    let address = igd
        .get_external_ip()
        .await
        .map_err(|error| Trouble::refused("UPnP", error))?;
    // Before anything is mapped: is it of use?
    held("UPnP", address, external, client.lifetime, way.clone())?;
    let local = SocketAddr::new(client.gateway.local.into(), client.port.get());
    let add = |lease| igd.add_port(client.transport.upnp(), external, local, lease, NAME);
    let result = match add(client.lifetime).await {
        // It stays until it is removed, at exit; it is looked after as if it had been lent.
        Err(AddPortError::OnlyPermanentLeasesSupported) => add(0).await,
        result => result,
    };
    let port = match result {
        Ok(()) => external,
        Err(AddPortError::PortInUse) => {
            let add = |lease| igd.add_any_port(client.transport.upnp(), local, lease, NAME);
            match add(client.lifetime).await {
                Err(AddAnyPortError::OnlyPermanentLeasesSupported) => add(0).await,
                result => result,
            }
            .map_err(|error| Trouble::refused("UPnP", error))?
        }
        Err(error) => return Err(Trouble::refused("UPnP", error)),
    };
    held("UPnP", address, port, client.lifetime, way)
}

/// A mapping, if what the router says can be true.
fn held(
    protocol: &str,
    address: IpAddr,
    port: u16,
    lifetime: u32,
    way: Way,
) -> Result<Held, Trouble> {
    let IpAddr::V4(ip) = address else {
        return Err(Trouble::refused(
            protocol,
            format!("{address} is not an IPv4 address"),
        ));
    };
    let nobody = ip.octets()[0] == 0
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.octets()[0] >= 240;
    if nobody {
        return Err(Trouble::refused(
            protocol,
            format!("it names {ip} as its address, which nobody can send to"),
        ));
    }
    if port == 0 || lifetime == 0 {
        return Err(Trouble::refused(protocol, "it maps nothing"));
    }
    Ok(Held {
        external: SocketAddrV4::new(ip, port),
        lifetime: Duration::from_secs(lifetime.into()),
        way,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str, port: u16, lifetime: u32) -> Result<SocketAddrV4, Trouble> {
        let address = address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        held("PCP", address, port, lifetime, Way::Pcp).map(|held| held.external)
    }

    #[test]
    fn an_address_that_nobody_can_send_to_is_refused() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "2001:db8::1",
        ] {
            assert!(
                matches!(of(address, 1, 1), Err(Trouble::Refused(_))),
                "{address}"
            );
        }
        for address in ["203.0.113.1", "10.0.0.1", "100.64.0.1"] {
            assert!(of(address, 1, 1).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_mapping_of_nothing_is_none() {
        assert!(of("203.0.113.1", 0, 1).is_err());
        assert!(of("203.0.113.1", 1, 0).is_err());
    }

    #[test]
    fn what_a_router_says_is_passed_on_short_and_plain() {
        let text = format!("\u{1b}[2Jgo away\n{}", "x".repeat(1 << 20));
        let Trouble::Refused(words) = Trouble::refused("UPnP", text) else {
            panic!("it is a refusal");
        };
        assert!(words.starts_with("UPnP: [2Jgo away") && words.chars().count() == MAX_TEXT);
    }

    #[test]
    fn the_nonce_is_the_same_for_the_same_identity_only() {
        let (one, other) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        assert_eq!(nonce(&one), nonce(&one));
        assert_ne!(nonce(&one), nonce(&other));
    }
}
