//! Signalling and STUN servers: clients started and restarted, names looked up, reports taken.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use punch_api::{ApiError, Ipv4Range, MetView, PeerId, ServerAddress};
use punch_engine::{Channel, Nat64, Path, PeerHandle, ServerId};
use punch_platform::clock;
use punch_signal_protocol::Identity;
use punch_state::State;
use tokio::sync::{mpsc, watch};

use super::announcer::Said;
use super::channels::{Attached, LanChannel};
use super::dht::{self, Dht};
use super::handles::Handles;
use super::meetings::{Meetings, Start};
use super::questions;
use crate::config::Config;
use crate::driver::command::Command;
use crate::interface::reach::is_overlay;
use crate::overlay::Places;
use crate::proxy::{Proxies, Proxy, ProxySetting};
use crate::resolver::Resolver;
use crate::signalling::pairing::Side;
use crate::signalling::server::{self, Access, Goal, Report};
use crate::tasks::{Spawner, Task};
use crate::views::events;
use crate::views::facts::{OtherChannels, ServerFacts};
use crate::views::met;

/// All servers in use.
pub(super) struct Servers {
    list: Vec<Server>,
    /// The number of the newest server.
    last: u32,
    access: Access,
    reports: mpsc::Receiver<Report>,
    resolver: Resolver,
    meetings: Meetings,
    lan: LanChannel,
    pub(super) dht: Dht,
    /// The addresses of STUN servers that the engine knows.
    told: Vec<SocketAddr>,
    spawner: Spawner,
}

struct Server {
    id: ServerId,
    address: ServerAddress,
    /// Whether punchd.toml names the server.
    fixed: bool,
    /// Whether the signalling connection stands.
    connected: bool,
    /// Where the signalling connection leads, or led last.
    reached: Option<SocketAddr>,
    /// Why the signalling connection does not stand.
    trouble: Option<String>,
    /// Since when an answer is awaited: the server was added then, or the network changed.
    since: Instant,
    /// The signalling client.
    task: Option<Task>,
}

impl Servers {
    /// No servers yet.
    pub(super) fn new(
        identity: &Identity,
        proxy: &ProxySetting,
        driver: &mpsc::Sender<Command>,
        spawner: &Spawner,
        nat64: watch::Receiver<Option<Nat64>>,
    ) -> Result<Self> {
        let (report_sender, reports) = mpsc::channel(64);
        Ok(Self {
            list: Vec::new(),
            last: 0,
            access: Access {
                identity: identity.clone(),
                tls: server::tls()?,
                proxies: Arc::new(Proxies::new(proxy, |name| std::env::var_os(name))),
                driver: driver.clone(),
                reports: report_sender,
                nat64: nat64.clone(),
            },
            reports,
            resolver: Resolver::behind(spawner.clone(), nat64),
            meetings: Meetings::default(),
            lan: LanChannel::default(),
            dht: Dht::new(identity, driver, spawner),
            told: Vec::new(),
            spawner: spawner.clone(),
        })
    }

    /// Whether there are channels that are no servers.
    pub(super) fn has_sides(&self) -> bool {
        self.lan.server().is_some() || self.dht.standing().is_some()
    }

    /// Attaches a temporary identity, which is to find the other one, to the channels that are no servers.
    pub(super) fn attach(&self, us: &Identity, them: PeerId) -> Vec<Side> {
        let lan = self.lan.attach(us.clone(), [them].into());
        let dht = self.dht.attach(us.clone(), [them].into());
        let side = |(channel, attached): (_, Option<Attached>)| {
            let Attached { frames, brings } = attached?;
            Some(Side {
                channel,
                frames,
                brings,
            })
        };
        let sides = [(Channel::Lan, lan), (Channel::Dht, dht)].into_iter();
        sides.filter_map(side).collect()
    }

    /// How signalling servers are reached.
    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Starts those of punchd.toml, and those that users have added, and calls in the networks of this machine.
    pub(super) fn start_all(&mut self, config: &Config, state: &State) {
        self.last += 1;
        let number = (ServerId(self.last), config.channels.lan);
        let access = &self.access;
        self.lan
            .start(number, &access.identity, &access.driver, &self.spawner);
        let fixed = &config.channels.servers;
        for address in fixed {
            self.start(address.clone(), true);
        }
        let added = state.servers.iter();
        for address in added.filter(|known| !fixed.contains(known)) {
            self.start(address.clone(), false);
        }
    }

    /// Connects to a signalling server, or looks up the names of others.
    pub(super) fn start(&mut self, address: ServerAddress, fixed: bool) {
        self.last += 1;
        let mut server = Server {
            id: ServerId(self.last),
            address,
            fixed,
            connected: false,
            reached: None,
            trouble: None,
            since: clock::now(),
            task: None,
        };
        match &server.address {
            ServerAddress::Signal(_) => self.connect(&mut server),
            other => dht::names(other).for_each(|name| self.resolver.add(name.to_owned())),
        }
        self.list.push(server);
        self.follow_dht();
    }

    /// The DHT runs as the servers want it; returns the channel that is no longer there.
    fn follow_dht(&mut self) -> Option<ServerId> {
        let servers = self.list.iter().map(|server| &server.address);
        let names = servers.clone().flat_map(dht::node_names);
        let resolved = names.flat_map(|name| self.resolver.addresses(name));
        let (resolved, last) = (resolved.collect(), &mut self.last);
        self.dht.follow(servers, resolved, || {
            *last += 1;
            ServerId(*last)
        })
    }

    fn connect(&self, server: &mut Server) {
        let url = server.address.as_str().to_owned();
        let goal = Goal {
            server: server.id,
            url,
            host: None,
        };
        let client = server::stay_connected(goal, self.access.clone());
        server.task = Some(self.spawner.spawn("signalling", client));
    }

    /// Leaves a server; tells which signalling server is no longer there.
    fn stop(&mut self, address: &ServerAddress) -> Option<ServerId> {
        let index = self.list.iter().position(|s| s.address == *address)?;
        let server = self.list.remove(index);
        for name in dht::names(address) {
            let mut others = self.list.iter();
            if !others.any(|other| dht::names(&other.address).any(|known| known == name)) {
                self.resolver.remove(name);
            }
        }
        matches!(address, ServerAddress::Signal(_)).then_some(server.id)
    }

    /// Leaves servers; returns the signalling servers that are no longer there.
    pub(super) fn stop_all(&mut self, addresses: &[ServerAddress]) -> Vec<ServerId> {
        let stopped = addresses.iter().filter_map(|address| self.stop(address));
        let mut stopped: Vec<_> = stopped.collect();
        stopped.extend(self.follow_dht());
        stopped
    }

    /// The network has changed. Connections that began on another one are dead, and would notice only after a while.
    pub(super) fn restart(&mut self) {
        let mut list = std::mem::take(&mut self.list);
        for server in &mut list {
            server.since = clock::now();
            if matches!(server.address, ServerAddress::Signal(_)) {
                self.connect(server);
            }
        }
        self.list = list;
        self.dht.network_changed();
        self.resolver.refresh();
    }

    /// The address of the server, or the name of the peer, that relays on this path, if one does.
    pub(super) fn relay(&self, path: Path, handles: &Handles) -> Option<String> {
        let Path::Relayed(by) = path else { return None };
        if let Some(host) = self.meetings.host(by.server) {
            return Some(handles.name(host)?.to_string());
        }
        let server = self.list.iter().find(|server| server.id == by.server)?;
        Some(server.address.to_string())
    }

    // --- meeting places of peers ---

    fn meetings(&mut self) -> (&mut Meetings, Start<'_>) {
        let start = Start {
            access: &self.access,
            spawner: &self.spawner,
            last: &mut self.last,
        };
        (&mut self.meetings, start)
    }

    /// A peer invites this machine to its meeting place.
    pub(super) fn handle_invitation(&mut self, peer: PeerHandle, id: PeerId) {
        let (meetings, start) = self.meetings();
        meetings.invite(peer, id, start);
    }

    /// The tunnel to a peer stands, or does not.
    pub(super) async fn handle_connected(&mut self, peer: PeerHandle, connected: bool) {
        let (meetings, start) = self.meetings();
        let gone = meetings.set_connected(peer, connected, start);
        self.part(gone).await;
    }

    /// Packets to a peer take this path now.
    pub(super) async fn handle_path(&mut self, peer: PeerHandle, path: Path) {
        let by_peer = match path {
            Path::Relayed(by) => self.meetings.host(by.server).is_some(),
            Path::Direct(_) | Path::Tcp(_) => false,
        };
        let (meetings, start) = self.meetings();
        let gone = meetings.set_relayed(peer, by_peer, start);
        self.part(gone).await;
    }

    /// The channels that are no servers.
    pub(super) fn lan(&self) -> &LanChannel {
        &self.lan
    }

    /// The state is another one: these peers are gone, and their meeting places with them, and others may be there.
    pub(super) async fn follow(&mut self, peers: &[PeerHandle], state: &State) {
        self.lan.follow(state);
        let gone = peers.iter().filter_map(|peer| self.meetings.remove(*peer));
        let gone: Vec<_> = gone.collect();
        self.part(gone).await;
    }

    /// The clients of these servers are gone.
    async fn part(&self, gone: impl IntoIterator<Item = ServerId>) {
        for server in gone {
            let _ = self.access.driver.send(Command::ServerDown(server)).await;
        }
    }

    /// Waits until a connection or an address of a server has changed, and tells what is to be said of it. Nothing is lost if
    /// the wait is given up.
    pub(super) async fn changed(&mut self) -> Option<Said> {
        tokio::select! {
            Some(report) = self.reports.recv() => self.handle_report(report),
            () = self.resolver.changed() => {
                self.follow_dht();
                None
            }
            changed = self.dht.changed() => changed.and_then(|up| self.dht_changed(up)),
        }
    }

    /// The DHT has come up or gone down.
    fn dht_changed(&mut self, up: bool) -> Option<Said> {
        let mut list = self.list.iter();
        let server = list.find(|server| !dht::node_names(&server.address).is_empty())?;
        let trouble = self.dht.standing()?.trouble(clock::now());
        let event = events::server(server.address.to_string(), up, trouble.as_deref());
        Some(Said::Event(event))
    }

    fn handle_report(&mut self, report: Report) -> Option<Said> {
        let (meetings, start) = self.meetings();
        if let Some(said) = meetings.handle_report(&report, start) {
            return said;
        }
        let mut list = self.list.iter_mut();
        let server = list.find(|server| server.id == report.server)?;
        let changed = server.connected != report.connected;
        server.connected = report.connected;
        server.trouble = report.trouble;
        server.reached = report.address.or(server.reached);
        let (address, trouble) = (server.address.to_string(), server.trouble.as_deref());
        if changed {
            let event = events::server(address, report.connected, trouble);
            return Some(Said::Event(event));
        }
        trouble.map(|trouble| Said::Trouble(format!("not connected to {address}: {trouble}")))
    }

    /// The addresses of all STUN servers, if they differ from those that the engine knows; it is told them then.
    pub(super) fn stun_change(&mut self) -> Option<Vec<SocketAddr>> {
        let mut addresses = Vec::new();
        for server in &self.list {
            let names = dht::stun_names(&server.address).into_iter();
            for address in names.flat_map(|name| self.resolver.addresses(name)) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        (addresses != self.told).then(|| {
            self.told.clone_from(&addresses);
            addresses
        })
    }

    /// Where all servers are, as far as that is known; `range` is that of overlay IPv4 addresses.
    pub(super) fn places(&self, range: Option<Ipv4Range>) -> Places {
        let list = self.list.iter();
        let literal = list
            .clone()
            .filter_map(|server| signal_host(&server.address));
        let reached = list.clone().filter_map(|server| server.reached);
        let reached = reached.map(|at| at.ip());
        let mut places = Places {
            needed: literal.chain(reached).collect(),
            ..Places::default()
        };
        for server in list {
            for place in dht::names(&server.address) {
                let is_name = place.parse::<SocketAddr>().is_err();
                for address in self.resolver.addresses(place) {
                    places.add_stun(address.ip(), is_name, range);
                }
            }
        }
        places
    }

    /// The proxy that leads to a signalling server, if one does.
    fn proxy(&self, address: &ServerAddress) -> Option<&Proxy> {
        let ServerAddress::Signal(url) = address else {
            return None;
        };
        self.access.proxies.of(url).ok().flatten()
    }

    /// Why there is no netcheck, if there is neither a STUN server to ask nor nodes of the DHT.
    pub(super) fn nobody_to_ask(&self) -> Option<ApiError> {
        let mut list = self.list.iter();
        let has_stun = list.any(|server| !dht::stun_names(&server.address).is_empty());
        match self.dht.standing() {
            _ if has_stun => None,
            None => Some(questions::nobody_to_ask()),
            Some(dht) if dht.report.vantage.is_empty() => Some(questions::nobody_yet()),
            Some(_) => None,
        }
    }

    /// What views show of what is no server.
    pub(super) fn other_facts(&self) -> OtherChannels {
        OtherChannels {
            meetings: self.meetings.facts(),
            lan: self.lan.facts(),
            dht: self.dht.server(),
        }
    }

    /// By which kind of channel envelopes are carried under this number, and the address of the server, or the name of the peer.
    pub(super) fn met_over(&self, server: ServerId, handles: &Handles) -> Option<MetView> {
        let facts = self.list.iter().map(|server| (server.id, &server.address));
        met::view(server, &self.other_facts(), facts, |peer| {
            handles.name(peer)
        })
    }

    /// What views show of the servers.
    pub(super) fn facts(&self) -> Vec<ServerFacts<'_>> {
        let mut facts = Vec::new();
        let now = clock::now();
        for server in &self.list {
            let standing = self.dht.standing();
            let standing = standing.filter(|_| !dht::node_names(&server.address).is_empty());
            let silent = standing.as_ref().and_then(|dht| dht.trouble(now));
            let up = standing.as_ref().is_some_and(|dht| dht.up);
            let mut names = dht::names(&server.address);
            let unknown = names.find_map(|name| self.resolver.trouble(name));
            let unknown = unknown.filter(|_| !up).map(str::to_owned);
            facts.push(ServerFacts {
                id: server.id,
                reached: server.reached,
                address: &server.address,
                proxy: self.proxy(&server.address),
                fixed: server.fixed,
                connected: server.connected || up,
                trouble: server.trouble.clone().or(silent).or(unknown),
                since: server.since,
                resolved: dht::names(&server.address)
                    .flat_map(|name| self.resolver.addresses(name))
                    .collect(),
                dht: standing,
            });
        }
        facts
    }
}

impl Places {
    /// A STUN server is there, or a name has led there.
    fn add_stun(&mut self, ip: IpAddr, is_name: bool, range: Option<Ipv4Range>) {
        let set = match is_name && is_overlay(range, ip) {
            true => &mut self.said,
            false => &mut self.needed,
        };
        set.insert(ip);
    }
}

/// The IP address of a signalling server, unless a name stands for it.
fn signal_host(address: &ServerAddress) -> Option<IpAddr> {
    let (_, rest) = address.as_str().split_once("://")?;
    let place: SocketAddr = rest.split('/').next()?.parse().ok()?;
    Some(place.ip())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use std::collections::BTreeSet;

    use punch_api::ServerKind;
    use tokio::runtime::Handle;

    use super::*;

    /// No servers yet, and what they tell the driver.
    fn none() -> (Servers, mpsc::Receiver<Command>) {
        let (driver, commands) = mpsc::channel(64);
        let servers = Servers::new(
            &Identity::from_seed(&[1; 32]),
            &ProxySetting::None,
            &driver,
            &Spawner::new(Handle::current()),
            watch::Sender::new(None).subscribe(),
        );
        (servers.unwrap(), commands)
    }

    /// What stands in a URL, and what a name has led to, also when the connection is lost again.
    #[tokio::test]
    async fn a_server_is_needed_where_it_is_reached() {
        let (mut servers, _commands) = none();
        for (kind, text) in [
            (ServerKind::Signal, "ws://[2001:db8::7]:8080"),
            (ServerKind::Signal, "wss://signal.invalid"),
            (ServerKind::Stun, "192.0.2.9"),
        ] {
            servers.start(ServerAddress::parse(kind, text).unwrap(), false);
        }
        let addresses = |texts: &[&str]| -> BTreeSet<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let known = ["2001:db8::7", "192.0.2.9"];
        let range = Some(Ipv4Range::DEFAULT);
        assert_eq!(servers.places(range).needed, addresses(&known));
        for connected in [true, false] {
            servers.handle_report(Report {
                server: ServerId(2),
                connected,
                address: connected.then(|| "100.64.0.9:443".parse().unwrap()),
                trouble: None,
                refused: false,
            });
            let right = ["2001:db8::7", "192.0.2.9", "100.64.0.9"];
            assert_eq!(servers.places(range).needed, addresses(&right));
        }
        assert_eq!(servers.places(range).said, BTreeSet::new());
    }

    /// An invitation is answered when it comes, and so is not said again: a refusal that was on its way meanwhile must not undo it.
    #[tokio::test]
    async fn an_invitation_that_overtakes_a_refusal_is_not_lost() {
        let (mut servers, _commands) = none();
        let (peer, id) = (PeerHandle(1), Identity::from_seed(&[2; 32]).id());
        servers.handle_connected(peer, true).await;
        servers.handle_invitation(peer, id);
        let place =
            |servers: &Servers| servers.other_facts().meetings.first().map(|place| place.id);
        let refused = |server| Report {
            server,
            connected: false,
            address: None,
            trouble: None,
            refused: true,
        };
        let first = place(&servers).unwrap();
        servers.handle_invitation(peer, id);
        servers.handle_report(refused(first));
        let second = place(&servers).unwrap();
        assert_ne!(first, second);
        servers.handle_report(refused(second));
        assert_eq!(place(&servers), None, "once more for each invitation");
        servers.handle_invitation(peer, id);
        assert!(place(&servers).is_some());
    }

    #[test]
    fn an_overlay_address_that_a_stun_servers_name_leads_to_is_not_needed() {
        for (ip, is_name, needed) in [
            ("100.64.0.9", true, false),
            ("fd70:756e:6368::9", true, false),
            ("100.64.0.9", false, true),
            ("192.0.2.9", true, true),
            ("10.9.0.7", true, true),
            ("2001:db8::9", true, true),
        ] {
            let mut places = Places::default();
            let ip: IpAddr = ip.parse().unwrap();
            places.add_stun(ip, is_name, Some(Ipv4Range::DEFAULT));
            let found = (places.needed.contains(&ip), places.said.contains(&ip));
            assert_eq!(found, (needed, !needed), "{ip} {is_name}");
        }
    }
}
