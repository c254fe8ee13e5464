//! The scene of a seed: what stands between the machines, and who wants whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use punch_engine::{Access, PeerConfig, PeerKind, Rule, Rules};
use punch_signal_protocol::{Identity, Ipv4Range};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::arena::Arena;
use super::cast::{ALICE, BOB, HANDLES, MALLORY, MALLORY_IP, STUN_IPS, STUN_PORT, WALL, shares};
use super::mallory::Mallory;
use super::program::Dice;
use crate::machine::{Machine, Setup};
use crate::nat::{Allocation, NatSpec};
use crate::network::{Gateway, HostId, INTERNET, LinkSpec, Network};

const ALICE_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const BOB_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);

/// Sets the scene of a seed.
pub(super) fn set(seed: u64, start: Instant) -> Arena {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
    let mut network = Network::new(seed, start);
    let stun = [
        network.add_host(INTERNET, &[STUN_IPS[0].into(), STUN_IPS[1].into()]),
        network.add_host(INTERNET, &[STUN_IPS[2].into(), STUN_IPS[3].into()]),
    ];
    let alice = dice.below(4);
    let hosts = [
        attach(&mut network, alice, ALICE_IP, [10, 1, 10, 2]),
        // Behind the hardest NAT, the victim finds its honest peer in the open.
        attach(
            &mut network,
            if alice == 3 { 0 } else { dice.below(3) },
            BOB_IP,
            [10, 1, 20, 2],
        ),
        attach(&mut network, 0, MALLORY_IP, [0; 4]),
    ];
    for host in hosts {
        let link = LinkSpec {
            delay: Duration::from_millis(10),
            ..LinkSpec::default()
        };
        network.set_access_link(host, link);
    }
    let identities = [1, 2, 3].map(|_| Identity::from_seed(&draw(&mut dice)));
    let wants_mallory = dice.below(2) == 0;
    let servers: Vec<_> = [STUN_IPS[0], STUN_IPS[2]]
        .map(|ip| SocketAddr::new(IpAddr::from(ip), STUN_PORT))
        .to_vec();
    let machine = |dice: &mut Dice, index: usize| {
        let known = match index {
            ALICE => vec![(BOB, true, true), (MALLORY, wants_mallory, false)],
            BOB => vec![(ALICE, true, true)],
            _ => vec![(ALICE, false, true)],
        };
        let setup = Setup {
            identity: identities[index].clone(),
            seed: draw(dice),
            peers: known
                .iter()
                .map(|(peer, up, host)| knows(&identities[*peer], *peer, *up, *host))
                .collect(),
            rules: if index == ALICE {
                rules()
            } else {
                Rules::default()
            },
            stun: servers.clone(),
        };
        let mut machine = Machine::new(setup, hosts[index], WALL, start);
        let addresses = network.addresses(hosts[index]).iter();
        let addresses = addresses.map(|(_, ip)| (*ip).into());
        machine.engine.handle_addresses(addresses.collect(), start);
        machine
    };
    let machines = [
        machine(&mut dice, ALICE),
        machine(&mut dice, BOB),
        machine(&mut dice, MALLORY),
    ];
    let mallory = Mallory::new(identities[MALLORY].clone(), dice);
    Arena::new(network, stun, machines, mallory, start)
}

fn draw(dice: &mut Dice) -> [u8; 32] {
    let mut bytes = [0; 32];
    dice.0.fill_bytes(&mut bytes);
    bytes
}

/// What stands before a machine: nothing, a firewall, the usual NAT, or the hardest.
fn attach(network: &mut Network, kind: u32, public: Ipv4Addr, private: [u8; 4]) -> HostId {
    let (gateway, address) = match kind {
        0 => return network.add_host(INTERNET, &[public.into()]),
        1 => (Gateway::Firewall, public.into()),
        2 => (
            Gateway::Nat(NatSpec::port_restricted(public.into())),
            private.into(),
        ),
        _ => {
            let hard = NatSpec::symmetric(Allocation::Random, public.into());
            (Gateway::Nat(hard), private.into())
        }
    };
    let zone = network.add_zone(INTERNET, gateway, LinkSpec::default());
    network.add_host(zone, &[address])
}

fn knows(identity: &Identity, index: usize, up: bool, host: bool) -> PeerConfig {
    PeerConfig {
        handle: HANDLES[index],
        kind: PeerKind::Punch {
            id: identity.id(),
            ipv4: Some(identity.id().overlay_ipv4(Ipv4Range::DEFAULT)),
        },
        up,
        blocked: false,
        direct_only: false,
        host,
        stamps: (0, 0),
        memory: Vec::new(),
    }
}

fn rules() -> Rules {
    let rules = shares().into_iter().flatten().filter_map(|key| {
        Some(Rule {
            key,
            target: "127.0.0.1:80".parse().ok()?,
            access: Access::Peers([HANDLES[MALLORY]].into_iter().collect()),
        })
    });
    Rules::new(rules)
}
