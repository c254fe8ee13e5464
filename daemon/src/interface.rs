//! The one owner of netlink: addresses and routes of the TUN interface, and the network that this machine is in.

mod device;
mod links;
mod patience;
pub(crate) mod reach;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use punch_api::Ipv4Range;
use punch_engine::{AddressRank, OwnAddress, lan};
use punch_platform::clock;
use punch_platform::netlink::{
    Address, Gateway, Link, LinkKind, LocalAddress, MAIN_TABLE, Netlink, PolicyRule, Route,
};
use tokio::sync::mpsc;

use self::device::{Device, OwnRoutes};
use self::patience::Patience;
use self::reach::{Reach, Survey, Taken, name_servers};
use self::watch::Watch;

/// Where the machine's name servers are named; the second also where the first names systemd-resolved alone.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// What the kernel has refused is tried again after this, and then less and less often.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be set at the TUN interface.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    pub(crate) mtu: u16,
    /// The range of overlay IPv4 addresses.
    pub(crate) range: Option<Ipv4Range>,
}

/// The TUN interface as the kernel has it.
pub(crate) struct Interface {
    device: Device,
    range: Option<Ipv4Range>,
    /// This machine's addresses inside the tunnel.
    own: Vec<IpAddr>,
    /// The addresses of peers that should lead into the tunnel.
    wanted: BTreeSet<IpAddr>,
    /// How long packets for them may be, where that was found out.
    mtus: BTreeMap<IpAddr, u16>,
    /// What was there of all that when it was last looked at, and has been set since.
    there: OwnRoutes,
    found: Option<(Link, Vec<IpAddr>)>,
    /// Whether `wanted` is complete: what else bears our mark is from before a crash.
    settled: bool,
    reach: Reach,
    /// What else on this machine is in the overlay's way, in words.
    warnings: Vec<String>,
    /// What the kernel has refused, in words: of the interface itself, and of addresses and routes.
    trouble: Option<String>,
    troubles: BTreeMap<IpAddr, String>,
    patience: Patience,
    watch: Watch,
}

/// The network as it was found.
pub(crate) enum Network {
    /// The interface is gone, which a TUN's descriptor does not tell.
    Gone,
    /// The kernel has not told.
    Unknown(io::Error),
    /// The addresses of this machine, except those inside the tunnel, and the router of the default route.
    There {
        addresses: Vec<LocalAddress>,
        gateway: Option<Gateway>,
        /// The networks in which peers may be heard.
        lan: Vec<lan::Link>,
    },
}

/// What an address of this machine's is good for, by its link.
pub(crate) fn own_address(address: &LocalAddress) -> OwnAddress {
    let rank = match (address.kind, address.default_route) {
        (kind, _) if kind.is_tunnel() => AddressRank::Tunnel,
        (_, true) => AddressRank::Outward,
        (LinkKind::PointToPoint, false) => AddressRank::Tunnel,
        (LinkKind::Physical | LinkKind::Veth, false) => AddressRank::Network,
        (_, false) => AddressRank::Internal,
    };
    OwnAddress {
        rank,
        ip: address.ip,
    }
}

/// The kernel's tables at one moment, as far as they matter.
struct Tables {
    links: Vec<Link>,
    addresses: Vec<Address>,
    /// The routes to everything that no other route leads to, of the main table.
    defaults: Vec<Route>,
    /// The links by which packets leave for the internet, each with whether that is so for IPv4 or for IPv6.
    outward: HashSet<(u32, bool)>,
    there: OwnRoutes,
    reach: Reach,
    before_main: Vec<(u32, Option<String>)>,
}

impl Interface {
    /// Gives the TUN interface its MTU, and brings it up. It has no addresses yet.
    pub(crate) async fn configure(
        netlink: Netlink,
        notices: mpsc::Receiver<()>,
        wanted: Wanted<'_>,
    ) -> Result<Self> {
        let failed = || format!("cannot configure the interface {}", wanted.name);
        let index = netlink.index(wanted.name).await.with_context(failed)?;
        let device = Device {
            netlink,
            index,
            name: wanted.name.to_owned(),
            mtu: u32::from(wanted.mtu),
        };
        device.bring_up().await.with_context(failed)?;
        Ok(Self {
            device,
            range: wanted.range,
            own: Vec::new(),
            wanted: BTreeSet::new(),
            mtus: BTreeMap::new(),
            there: OwnRoutes::default(),
            found: None,
            settled: false,
            reach: Reach::default(),
            warnings: Vec::new(),
            trouble: None,
            troubles: BTreeMap::new(),
            patience: Patience::default(),
            watch: Watch::new(notices),
        })
    }

    // --- what is known ---

    /// How an address is reached otherwise than through the tunnel and by the default route.
    pub(crate) fn taken(&self, ip: IpAddr) -> Option<Taken> {
        self.reach.taken(ip)
    }

    /// What the user should know of the interface and of what else is on this machine, in words.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let own = self.own.iter();
        let own = own.filter_map(|ip| self.troubles.get(ip)).cloned();
        let trouble = self.trouble.iter().cloned();
        trouble
            .chain(own)
            .chain(self.warnings.iter().cloned())
            .collect()
    }

    /// Why packets for this address do not come into the tunnel, in words.
    pub(crate) fn trouble(&self, ip: IpAddr) -> Option<&str> {
        self.troubles.get(&ip).map(String::as_str)
    }

    // --- looking ---

    /// Waits until the network may have changed. Nothing is lost if the wait is given up.
    pub(crate) async fn changed(&mut self) {
        self.watch.changed().await;
    }

    /// The network is to be looked at by then, too.
    pub(crate) fn look_at(&mut self, at: Instant) {
        self.watch.also_at(at);
    }

    /// Looks at the network, and at how each of these addresses is reached, used or not.
    pub(crate) async fn look(&mut self, addresses: &BTreeSet<IpAddr>) -> Network {
        let began = clock::now();
        let tables = match self.read(addresses).await {
            Ok(tables) => tables,
            Err(error) => return Network::Unknown(error),
        };
        let index = self.device.index;
        let link = tables.links.iter().find(|link| link.index == index);
        let Some(link) = link.filter(|link| link.name == self.device.name).cloned() else {
            return Network::Gone;
        };
        self.warnings = self.in_the_way(&tables);
        let addresses = local_addresses(&tables, index);
        let lan = links::lan(&tables, index);
        let gateway = self.gateway(&tables.defaults).await;
        let own = tables.addresses.iter().filter(|own| own.link == index);
        let own: Vec<_> = own.map(|address| address.ip).collect();
        self.there = tables.there;
        self.reach = tables.reach;
        self.found = Some((link, own));
        self.watch.looked(began, clock::now());
        Network::There {
            addresses,
            gateway,
            lan,
        }
    }

    /// How an address is reached otherwise that nobody has asked for yet.
    ///
    /// # Errors
    /// Those of netlink.
    pub(crate) async fn ask(&self, ip: IpAddr) -> io::Result<Option<Taken>> {
        let tables = self.read(&BTreeSet::from([ip])).await?;
        Ok(tables.reach.taken(ip))
    }

    async fn read(&self, others: &BTreeSet<IpAddr>) -> io::Result<Tables> {
        let netlink = &self.device.netlink;
        let index = self.device.index;
        let links = netlink.links().await?;
        let addresses = netlink.addresses().await?;
        // A kernel without policy routing has no rules to tell.
        let rules: Vec<PolicyRule> = netlink.rules().await.unwrap_or_default();
        let names: HashMap<_, _> = links
            .iter()
            .map(|link| (link.index, link.name.clone()))
            .collect();
        let mut survey = Survey::new(index, &names, &rules, self.range, others);
        let (mut defaults, mut there) = (Vec::new(), OwnRoutes::default());
        let mut outward = HashSet::new();
        netlink
            .routes(|route| {
                there.add(&route, index);
                survey.add(&route);
                if survey.is_outward(&route) {
                    let is_v4 = route.to.is_ipv4();
                    outward.extend(route.hops.iter().map(|hop| (hop.link, is_v4)));
                }
                if route.prefix == 0 && route.table == MAIN_TABLE && route.carries {
                    defaults.push(route);
                }
            })
            .await?;
        let (mut reach, before_main) = survey.end();
        for file in RESOLVER_FILES {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            for ip in name_servers(&text) {
                reach.need(ip, Taken::NameServer);
            }
        }
        Ok(Tables {
            links,
            addresses,
            defaults,
            outward,
            there,
            reach,
            before_main,
        })
    }

    /// The IPv4 router of the default route with the lowest metric that does not lead into the tunnel.
    async fn gateway(&self, defaults: &[Route]) -> Option<Gateway> {
        let (address, source) = choose(defaults, self.device.index)?;
        let local = match source {
            Some(source) => source,
            // A router that cannot be reached at the moment is none.
            None => self.device.netlink.source_towards(address).await.ok()??,
        };
        Some(Gateway { address, local })
    }

    /// Whatever else on this machine takes packets of the overlay's range, or may drop them.
    fn in_the_way(&self, tables: &Tables) -> Vec<String> {
        let Some(range) = self.range else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for link in tables.links.iter().filter(|link| link.kind.is_tunnel()) {
            let mut addresses = tables.addresses.iter();
            let inside = addresses.find(|address| {
                address.link == link.index
                    && link.index != self.device.index
                    && reach::is_in(range, address.ip)
            });
            if let Some(address) = inside {
                found.push(format!(
                    "{} ({}) has the address {}, which lies in the overlay's IPv4 range {range}: its rules may drop what comes out of the tunnel. Choose another range on all machines: [overlay] ipv4 in punchd.toml",
                    link.name,
                    link.kind.in_words(),
                    address.ip
                ));
            }
        }
        for (table, link) in &tables.before_main {
            let link = link.as_deref().unwrap_or("nowhere");
            found.push(format!(
                "a policy rule leads to routing table {table} before Punch's routes, and that table has routes to {link} in the overlay's IPv4 range {range}. Choose another range on all machines: [overlay] ipv4 in punchd.toml"
            ));
        }
        found
    }

    // --- setting ---

    /// This machine's addresses inside the tunnel are now these.
    ///
    /// # Errors
    /// The kernel's refusal of an IPv4 address. Without IPv6 inside the tunnel there is only a warning.
    pub(crate) async fn set_own(&mut self, own: Vec<IpAddr>) -> Result<()> {
        let before = std::mem::replace(&mut self.own, own.clone());
        for ip in before.iter().filter(|ip| !own.contains(ip)) {
            self.troubles.remove(ip);
            if let Err(error) = self.device.remove_address(*ip).await {
                tracing::warn!(%ip, %error, "an overlay address was not removed");
            }
        }
        for ip in own.iter().filter(|ip| !before.contains(ip)) {
            match self.device.add_address(*ip).await {
                Ok(()) => {}
                Err(error) if ip.is_ipv4() => {
                    let name = &self.device.name;
                    return Err(error)
                        .with_context(|| format!("cannot configure the interface {name}"));
                }
                Err(error) => self.note_address(*ip, &error),
            }
        }
        Ok(())
    }

    /// Leads packets for the addresses `added` into the tunnel, and those for `removed` no longer.
    pub(crate) async fn change_routes(&mut self, removed: &[IpAddr], added: &[IpAddr]) {
        for to in removed.iter().filter(|to| !added.contains(to)) {
            self.wanted.remove(to);
            self.mtus.remove(to);
            self.remove(*to).await;
        }
        for to in added {
            self.wanted.insert(*to);
            self.set(*to).await;
        }
    }

    /// Packets for these addresses may be so long from now on.
    pub(crate) async fn resize(&mut self, addresses: &[IpAddr], mtu: u16) {
        for to in addresses {
            if self.mtus.insert(*to, mtu) == Some(mtu) || !self.there.leading.contains(to) {
                continue;
            }
            let Some(from) = self.source(*to) else {
                continue;
            };
            if let Err(error) = self.device.resize(*to, from, mtu).await {
                tracing::warn!(%to, mtu, %error, "the route's MTU was not set");
            }
        }
    }

    /// All peers have been told: what else bears our mark is from before a crash, and goes.
    pub(crate) async fn settle(&mut self) {
        self.settled = true;
        self.remove_leftovers().await;
        self.remove_strays().await;
    }

    async fn remove_leftovers(&mut self) {
        let there = self.there.leading.union(&self.there.refused);
        let leftovers: Vec<_> = there
            .filter(|to| !self.wanted.contains(to))
            .copied()
            .collect();
        for to in leftovers {
            self.remove(to).await;
        }
    }

    /// An interface that an earlier process has made may have that one's addresses; the kernel's own stay.
    async fn remove_strays(&self) {
        let Ok(there) = self.device.netlink.addresses().await else {
            return;
        };
        for address in there.iter().filter(|there| there.link == self.device.index) {
            let ip = address.ip;
            let is_kernels = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if !is_kernels
                && !self.own.contains(&ip)
                && let Err(error) = self.device.remove_address(ip).await
            {
                tracing::warn!(%ip, %error, "an overlay address was not removed");
            }
        }
    }

    /// The own address of the same family.
    fn source(&self, to: IpAddr) -> Option<IpAddr> {
        let mut own = self.own.iter().copied();
        own.find(|own| own.is_ipv4() == to.is_ipv4())
    }

    /// Sets what is missing of the two routes to an address. The one that refuses comes first: between the two nothing escapes.
    async fn set(&mut self, to: IpAddr) {
        let Some(from) = self.source(to) else { return };
        let mut outcome = Ok(());
        if !self.there.refused.contains(&to) {
            outcome = self.device.refuse(to).await;
            if outcome.is_ok() {
                self.there.refused.insert(to);
            }
        }
        if !self.there.leading.contains(&to) {
            let mtu = self.mtus.get(&to).copied();
            let lead = self.device.lead(to, from, mtu).await;
            if lead.is_ok() {
                self.there.leading.insert(to);
            }
            outcome = lead.and(outcome);
        }
        match outcome {
            Ok(()) => drop(self.troubles.remove(&to)),
            Err(error) => self.note(to, format!("the route to {to} was not set: {error}")),
        }
    }

    async fn remove(&mut self, to: IpAddr) {
        self.troubles.remove(&to);
        if self.there.leading.remove(&to)
            && let Err(error) = self.device.lead_no_longer(to).await
        {
            tracing::warn!(%to, %error, "a route was not removed");
        }
        if self.there.refused.remove(&to)
            && let Err(error) = self.device.refuse_no_longer(to).await
        {
            tracing::warn!(%to, %error, "a route was not removed");
        }
    }

    fn note(&mut self, ip: IpAddr, trouble: String) {
        if self.troubles.get(&ip) != Some(&trouble) {
            tracing::warn!("{trouble}");
            self.troubles.insert(ip, trouble);
        }
    }

    fn note_address(&mut self, ip: IpAddr, error: &io::Error) {
        let trouble = if ip.is_ipv6() {
            format!("no IPv6 inside the tunnel: the kernel refuses the address {ip}: {error}")
        } else {
            format!("no IPv4 inside the tunnel: the kernel refuses the address {ip}: {error}")
        };
        self.note(ip, trouble);
    }

    /// Compares what the kernel had at the last look with what is wanted, and sets again what is missing.
    pub(crate) async fn mend(&mut self, now: Instant) {
        let Some((link, own)) = self.found.take().filter(|_| self.settled) else {
            return;
        };
        self.remove_leftovers().await;
        let missing = |ip: &&IpAddr| !own.contains(ip);
        let addresses: Vec<_> = self.own.iter().filter(missing).copied().collect();
        let there = &self.there;
        let is_set = |to: &&IpAddr| there.leading.contains(to) && there.refused.contains(to);
        let reachable = |to: &&IpAddr| self.source(**to).is_some();
        let routes = self.wanted.iter().filter(reachable);
        let routes: Vec<_> = routes.filter(|to| !is_set(to)).copied().collect();
        let is_right = self.device.is_right(&link);
        if is_right && addresses.is_empty() && routes.is_empty() {
            self.trouble = None;
            self.troubles.clear();
            return;
        }
        if let Err(until) = self.patience.ask(now) {
            return self.watch.also_at(until);
        }
        tracing::info!(
            addresses = addresses.len(),
            routes = routes.len(),
            is_right,
            "the interface has lost something; it is set again"
        );
        self.trouble = match self.device.bring_up().await {
            Ok(()) => None,
            Err(error) => Some(format!("the interface cannot be brought up: {error}")),
        };
        for ip in addresses {
            match self.device.add_address(ip).await {
                Ok(()) => drop(self.troubles.remove(&ip)),
                Err(error) => self.note_address(ip, &error),
            }
        }
        for to in routes {
            self.set(to).await;
        }
        if self.trouble.is_some() || !self.troubles.is_empty() {
            // Without a notice nothing would try again.
            self.watch.also_at(now + AGAIN);
        }
    }
}

/// The kernel's own order: the lowest metric, and the first of equal ones; with the source address that the route names.
fn choose(
    defaults: &[Route],
    except: u32,
) -> Option<(std::net::Ipv4Addr, Option<std::net::Ipv4Addr>)> {
    let v4 = |ip: Option<IpAddr>| match ip {
        Some(IpAddr::V4(ip)) => Some(ip),
        _ => None,
    };
    let routers = defaults.iter().filter_map(|route| {
        let hops = route.hops.iter();
        let mut hops = hops.filter(|hop| hop.link != except && !hop.down);
        let router = hops.find_map(|hop| v4(hop.router))?;
        Some((route.metric, router, v4(route.source)))
    });
    let (_, router, source) = routers.min_by_key(|(metric, ..)| *metric)?;
    Some((router, source))
}

/// The addresses of this machine outside of the tunnel that others may send to.
fn local_addresses(tables: &Tables, except: u32) -> Vec<LocalAddress> {
    let up: HashMap<_, _> = tables
        .links
        .iter()
        .filter(|link| link.up && link.index != except)
        .map(|link| (link.index, link.kind))
        .collect();
    let usable = tables.addresses.iter().filter_map(|address| {
        let kind = *up.get(&address.link)?;
        (address.usable && !address.ip.is_loopback()).then(|| LocalAddress {
            ip: address.ip,
            kind,
            default_route: tables
                .outward
                .contains(&(address.link, address.ip.is_ipv4())),
            prefix: address.prefix,
        })
    });
    usable.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests;
