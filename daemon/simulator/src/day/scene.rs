//! What a seed decides beside the faults, and the machines, servers and networks of it.

use std::time::{Duration, Instant};

use punch_engine::{PeerConfig, PeerHandle, PeerKind, Rules};
use punch_signal_protocol::{Identity, Ipv4Range};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::homes::Home;
use super::lines::Server;
use super::program::{Dice, servers};
use super::stun;
use crate::machine::{Machine, Setup};
use crate::network::{HostId, INTERNET, Network};
use crate::scenario::Kind;

/// Each machine knows the other under this.
pub(super) const PEER: PeerHandle = PeerHandle(1);
/// 2026-01-01, in milliseconds.
pub(super) const WALL: u64 = 1_767_225_600_000;

/// How packets flow through the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// All the time, one after so long in each direction.
    Always(Duration),
    /// For some seconds, then nothing for up to two minutes.
    Now,
}

impl Traffic {
    /// From one packet to the next.
    pub(super) fn every(self) -> Duration {
        match self {
            Self::Always(every) => every,
            Self::Now => Duration::from_millis(100),
        }
    }
}

/// What a seed decides beside the faults.
#[derive(Debug)]
pub struct Scene {
    /// The networks of each machine.
    pub kinds: [Vec<Kind>; 2],
    /// How many signalling servers there are.
    pub servers: usize,
    /// Whether they relay.
    pub relays: bool,
    /// Whether a packet of a connection that a router has forgotten brings a reset.
    pub resets: bool,
    /// How packets flow.
    pub traffic: Traffic,
}

/// All that plays.
pub(super) struct Cast {
    pub(super) network: Network,
    pub(super) stun: HostId,
    pub(super) homes: [Home; 2],
    pub(super) machines: [Machine; 2],
    pub(super) servers: Vec<Server>,
    pub(super) dice: Dice,
    pub(super) scene: Scene,
}

/// Sets the scene of a seed.
pub(super) fn set(seed: u64, start: Instant) -> Cast {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
    let mut network = Network::new(seed, start);
    let stun_host = network.add_host(INTERNET, &stun::addresses());
    let homes = [0, 1].map(|side| Home::new(&mut network, side, &mut dice));
    let scene = Scene {
        kinds: [homes[0].kinds(), homes[1].kinds()],
        servers: servers(seed),
        relays: dice.below(4) > 0,
        resets: dice.below(4) > 0,
        traffic: match seed % 2 {
            0 => Traffic::Now,
            _ => Traffic::Always(Duration::from_millis(dice.one([50, 200, 500]))),
        },
    };
    let mut identity = || {
        let mut bytes = [0; 32];
        dice.0.fill_bytes(&mut bytes);
        Identity::from_seed(&bytes)
    };
    let identities = [identity(), identity()];
    let machines = [0, 1].map(|index: usize| {
        let mut seed = [0; 32];
        dice.0.fill_bytes(&mut seed);
        let setup = Setup {
            identity: identities[index].clone(),
            seed,
            peers: vec![knows(&identities[1 - index], index == 0)],
            rules: Rules::default(),
            stun: stun::servers(),
        };
        let mut machine = Machine::new(setup, homes[index].host, WALL, start);
        let addresses = vec![homes[index].address().into()];
        machine.engine.handle_addresses(addresses, start);
        machine
    });
    let servers = (0..scene.servers)
        .map(|number| {
            let dice = Dice(ChaCha8Rng::seed_from_u64(seed ^ (number as u64 + 7)));
            Server::new(scene.relays, scene.resets, dice, start)
        })
        .collect();
    Cast {
        network,
        stun: stun_host,
        homes,
        machines,
        servers,
        dice,
        scene,
    }
}

fn knows(identity: &Identity, up: bool) -> PeerConfig {
    PeerConfig {
        handle: PEER,
        kind: PeerKind::Punch {
            id: identity.id(),
            ipv4: Some(identity.id().overlay_ipv4(Ipv4Range::DEFAULT)),
        },
        up,
        blocked: false,
        host: true,
        direct_only: false,
        stamps: (0, 0),
        memory: Vec::new(),
    }
}
