//! The DHT: whether it runs, where it begins, what it has told. It runs if a user has said `server add public`, or if there are nodes of
//! one's own.

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};

use punch_api::ServerAddress;
use punch_dht::Scope;
use punch_engine::ServerId;
use punch_signal_protocol::{Identity, PeerId};
use tokio::sync::{mpsc, watch};

use super::channels::Attached;
use crate::driver::command::Command;
use crate::signalling::dht::{self, Order, Parts, Standing};
use crate::tasks::{Spawner, Task};

/// Where everybody finds a way into the public DHT. daemon/docs/administration.md lists them.
const PUBLIC_NODES: [&str; 5] = [
    "router.bittorrent.com:6881",
    "dht.transmissionbt.com:6881",
    "router.utorrent.com:6881",
    "dht.libtorrent.org:25401",
    "relay.pkarr.org:6881",
];
/// STUN servers that answer everybody. daemon/docs/administration.md lists them.
const PUBLIC_STUN: [&str; 4] = [
    "stun.cloudflare.com:3478",
    "stun.l.google.com:19302",
    "stun.nextcloud.com:3478",
    "stun.sipgate.net:3478",
];
/// Orders that may wait for the task.
const ORDERS: usize = 64;

/// The names of STUN servers that a configured server stands for.
pub(super) fn stun_names(server: &ServerAddress) -> Vec<&str> {
    match server {
        ServerAddress::Stun(name) => vec![name],
        ServerAddress::Public => PUBLIC_STUN.to_vec(),
        ServerAddress::Signal(_) | ServerAddress::Dht(_) => Vec::new(),
    }
}

/// The names of nodes that a configured server stands for.
pub(super) fn node_names(server: &ServerAddress) -> Vec<&str> {
    match server {
        ServerAddress::Dht(name) => vec![name],
        ServerAddress::Public => PUBLIC_NODES.to_vec(),
        ServerAddress::Signal(_) | ServerAddress::Stun(_) => Vec::new(),
    }
}

/// All names that are looked up for it.
pub(super) fn names(server: &ServerAddress) -> impl Iterator<Item = &str> {
    stun_names(server).into_iter().chain(node_names(server))
}

struct Running {
    server: ServerId,
    scope: Scope,
    orders: mpsc::Sender<Order>,
    standing: watch::Receiver<Standing>,
    /// Where it was told that nodes may be.
    told: Vec<SocketAddr>,
    /// Whether it was up when that was last told.
    was_up: bool,
    _task: Task,
}

/// See the module.
pub(super) struct Dht {
    identity: Identity,
    driver: mpsc::Sender<Command>,
    spawner: Spawner,
    running: Option<Running>,
    /// The peers, which the task follows.
    peers: watch::Sender<Vec<PeerId>>,
    /// Nodes of the public DHT that have answered before.
    remembered: Vec<SocketAddrV4>,
    /// Whether they are others than those on the disk.
    changed: bool,
    nodes: (
        mpsc::Sender<Vec<SocketAddrV4>>,
        mpsc::Receiver<Vec<SocketAddrV4>>,
    ),
}

impl Dht {
    pub(super) fn new(
        identity: &Identity,
        driver: &mpsc::Sender<Command>,
        spawner: &Spawner,
    ) -> Self {
        Self {
            identity: identity.clone(),
            driver: driver.clone(),
            spawner: spawner.clone(),
            running: None,
            peers: watch::Sender::default(),
            remembered: Vec::new(),
            changed: false,
            nodes: mpsc::channel(4),
        }
    }

    /// These nodes have answered before the start.
    pub(super) fn remember(&mut self, nodes: &[SocketAddrV4]) {
        self.remembered = nodes.to_vec();
    }

    /// The nodes that are to be remembered, if they are others than before.
    pub(super) fn take_nodes(&mut self) -> Option<Vec<SocketAddrV4>> {
        std::mem::take(&mut self.changed).then(|| self.remembered.clone())
    }

    /// Runs or does not, as these servers want it, and is told where they are. `number` gives the channel its own, which it keeps if it has
    /// to start anew among other nodes. Returns the channel that is no longer there.
    pub(super) fn follow<'a>(
        &mut self,
        servers: impl Iterator<Item = &'a ServerAddress> + Clone,
        resolved: Vec<SocketAddr>,
        number: impl FnOnce() -> ServerId,
    ) -> Option<ServerId> {
        let is_public = servers.clone().any(|s| *s == ServerAddress::Public);
        let mut own = servers.filter(|server| matches!(server, ServerAddress::Dht(_)));
        let scope = match (is_public, own.next()) {
            (true, _) => Some(Scope::Internet),
            (false, Some(_)) => Some(Scope::Own),
            (false, None) => None,
        };
        let stale = self.running.take_if(|running| Some(running.scope) != scope);
        let mut gone = stale.map(|running| running.server);
        if let (Some(scope), None) = (scope, &self.running) {
            // A task begins by telling the driver that its channel is down: what the one before it had ends there.
            self.start(scope, gone.take().unwrap_or_else(number));
        }
        if let Some(running) = &mut self.running
            && running.told != resolved
        {
            // A queue that is full is that of a task that has no socket, or much to do: it is told when names have been looked up again.
            let order = Order::Bootstrap(resolved.clone());
            if running.orders.try_send(order).is_ok() {
                running.told = resolved;
            }
        }
        gone
    }

    fn start(&mut self, scope: Scope, server: ServerId) {
        let (orders, orders_out) = mpsc::channel(ORDERS);
        let (standing, standing_out) = watch::channel(Standing::default());
        let task = dht::serve(Parts {
            server,
            identity: self.identity.clone(),
            scope,
            driver: self.driver.clone(),
            peers: self.peers.subscribe(),
            orders: orders_out,
            standing,
            nodes: self.nodes.0.clone(),
        });
        if scope == Scope::Internet && !self.remembered.is_empty() {
            let nodes = self.remembered.iter().map(|at| (*at).into());
            let _ = orders.try_send(Order::Bootstrap(nodes.collect()));
        }
        self.running = Some(Running {
            server,
            scope,
            orders,
            standing: standing_out,
            told: Vec::new(),
            was_up: false,
            _task: self.spawner.spawn("dht", task),
        });
    }

    /// These are the peers now.
    pub(super) fn set_peers(&self, peers: Vec<PeerId>) {
        self.peers.send_if_modified(|known| {
            let differs = *known != peers;
            *known = peers;
            differs
        });
    }

    /// The network has changed.
    pub(super) fn network_changed(&self) {
        self.order(Order::NetworkChanged);
    }

    fn order(&self, order: Order) {
        if let Some(running) = &self.running {
            let _ = running.orders.try_send(order);
        }
    }

    /// Lets another identity be found in the DHT, and look for these peers. `None` where the DHT is switched off, or too much is asked.
    pub(crate) fn attach(&self, identity: Identity, peers: BTreeSet<PeerId>) -> Option<Attached> {
        let (frames, frames_out) = mpsc::channel(dht::QUEUE);
        let (brings_in, brings) = mpsc::channel(dht::QUEUE);
        let order = Order::Attach {
            identity: Box::new(identity),
            peers: peers.into_iter().collect(),
            frames: frames_out,
            brings: brings_in,
        };
        self.running.as_ref()?.orders.try_send(order).ok()?;
        Some(Attached { frames, brings })
    }

    /// The number by which the driver knows it as a channel, if it runs.
    pub(super) fn server(&self) -> Option<ServerId> {
        Some(self.running.as_ref()?.server)
    }

    /// How it is, if it runs.
    pub(super) fn standing(&self) -> Option<Standing> {
        Some(self.running.as_ref()?.standing.borrow().clone())
    }

    /// Waits until it comes up or goes down (`Some`), or there are other nodes to remember. Nothing is lost if the wait is given up.
    pub(super) async fn changed(&mut self) -> Option<bool> {
        let scope = self.running.as_ref().map(|running| running.scope);
        let up = async {
            let Some(running) = &mut self.running else {
                return std::future::pending().await;
            };
            loop {
                let up = running.standing.borrow_and_update().up;
                if up != running.was_up {
                    running.was_up = up;
                    return up;
                }
                if running.standing.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            up = up => Some(up),
            Some(nodes) = self.nodes.1.recv() => {
                // Nodes of one's own are in punchd.toml.
                if scope == Some(Scope::Internet) && self.remembered != nodes {
                    self.remembered = nodes;
                    self.changed = true;
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;

    /// One that was told to nobody would keep its place in the driver, and what is sent there would be lost.
    #[tokio::test]
    async fn the_channel_keeps_its_number_when_it_begins_among_other_nodes() {
        let identity = Identity::from_seed(&[1; 32]);
        let (driver, mut commands) = mpsc::channel(4);
        let mut dht = Dht::new(&identity, &driver, &Spawner::new(Handle::current()));
        let mut last = 0;
        let mut follow = |dht: &mut Dht, servers: &[ServerAddress]| {
            dht.follow(servers.iter(), Vec::new(), || {
                last += 1;
                ServerId(last)
            })
        };
        assert_eq!(follow(&mut dht, &[]), None);
        assert!(dht.standing().is_none(), "nobody has asked for it");
        let own = ServerAddress::Dht("nodes.example.org:6881".into());
        for servers in [vec![own.clone()], vec![own, ServerAddress::Public]] {
            assert_eq!(follow(&mut dht, &servers), None);
            assert_eq!(dht.server(), Some(ServerId(1)));
            let begins = commands.recv().await;
            assert!(matches!(begins, Some(Command::ServerDown(ServerId(1)))));
        }
        assert_eq!(follow(&mut dht, &[]), Some(ServerId(1)));
        assert!(dht.standing().is_none());
    }
}
