//! How IPv4 is reached where this machine has none and its network translates (NAT64): whatever goes to an IPv4 address, or comes from
//! one, passes an IPv6 socket, and nobody but this room sees it. To everybody else, the translator is a NAT.

use std::net::SocketAddr;

use punch_engine::{Engine, Family, Nat64, SocketId};

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Translator(Option<Nat64>);

impl Translator {
    /// Below this prefix IPv4 is reached; without one nothing is translated.
    pub(super) fn new(prefix: Option<Nat64>) -> Self {
        Self(prefix)
    }

    /// The prefix, if there is a translator.
    pub(super) fn prefix(self) -> Option<Nat64> {
        self.0
    }

    /// Whether there is a translator, and was another one.
    pub(super) fn replaces(self, before: Self) -> bool {
        self != before && self != Self(None) && before != Self(None)
    }

    /// Of which family a socket must be that is to reach addresses of `family`.
    pub(super) fn family(self, family: Family) -> Family {
        match self.0 {
            Some(_) => Family::V6,
            None => family,
        }
    }

    /// The socket that a datagram leaves from, and the address that it goes to; `None` if nobody may be asked for that address.
    pub(super) fn outwards(
        self,
        socket: SocketId,
        to: SocketAddr,
    ) -> Option<(SocketId, SocketAddr)> {
        let Some(prefix) = self.0 else {
            return Some((socket, to));
        };
        let wire = prefix.outwards(to)?;
        let is_translated = wire.is_ipv6() && to.is_ipv4();
        let socket = match socket {
            SocketId::MAIN_V4 if is_translated => SocketId::MAIN_V6,
            socket => socket,
        };
        Some((socket, wire))
    }

    /// The socket that a datagram has come to, and the address that it has come from, for everybody else; `None` if that address
    /// stands for nobody.
    pub(super) fn inwards(
        self,
        socket: SocketId,
        from: SocketAddr,
    ) -> Option<(SocketId, SocketAddr)> {
        let Some(prefix) = self.0 else {
            return Some((socket, from));
        };
        let whose = prefix.inwards(from)?;
        let is_translated = whose.is_ipv4() && from.is_ipv6();
        let socket = match socket {
            SocketId::MAIN_V6 if is_translated => SocketId::MAIN_V4,
            socket => socket,
        };
        Some((socket, whose))
    }

    /// Whether the address `wire` that stands for `shown` is reached through a tunnel. A prefix with such addresses is not used, but a
    /// peer may have been added a moment ago.
    pub(super) fn leads_inside(engine: &Engine, shown: SocketAddr, wire: SocketAddr) -> bool {
        shown != wire && engine.is_inside(wire.ip())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    /// A machine that has nothing but its own addresses inside the tunnel, and the IPv6 one of them.
    fn alone() -> (Engine, SocketAddr) {
        let identity = punch_signal_protocol::Identity::from_seed(&[7; 32]);
        let inside = identity.id().overlay_ipv6();
        let config = punch_engine::EngineConfig {
            identity,
            ipv4_range: None,
            mtu: 1420,
            seed: [1; 32],
            budget: punch_engine::Budget::default(),
            nat: punch_engine::NatOverrides::default(),
            relay: false,
            tcp: false,
        };
        let engine = Engine::new(config, 0, std::time::Instant::now());
        (engine, SocketAddr::new(inside.into(), 41))
    }

    #[test]
    fn what_stands_for_an_ipv4_address_is_not_inside_the_tunnel() {
        let (engine, inside) = alone();
        let shown = at("203.0.113.9:41");
        assert!(Translator::leads_inside(&engine, shown, inside));
        let wire = at("[2001:db8:64::cb00:7109]:41");
        assert!(!Translator::leads_inside(&engine, shown, wire));
    }

    const OTHER: SocketId = SocketId(9);

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn without_a_translator_everything_stays_as_it_is() {
        let none = Translator::default();
        for (socket, address) in [
            (SocketId::MAIN_V4, at("203.0.113.9:41")),
            (SocketId::MAIN_V6, at("[2001:db8:64::cb00:7109]:41")),
        ] {
            assert_eq!(none.outwards(socket, address), Some((socket, address)));
            assert_eq!(none.inwards(socket, address), Some((socket, address)));
        }
        assert_eq!(none.family(Family::V4), Family::V4);
    }

    #[test]
    fn one_translator_takes_another_ones_place_only_if_there_was_one() {
        let [one, two] =
            ["64:ff9b::/96", "2001:db8::/32"].map(|text| Translator::new(text.parse().ok()));
        let none = Translator::default();
        assert!(two.replaces(one));
        for (now, before) in [(one, one), (one, none), (none, one), (none, none)] {
            assert!(!now.replaces(before));
        }
    }

    #[test]
    fn ipv4_passes_the_ipv6_socket() {
        let translator = Translator::new("2001:db8:64::/96".parse().ok());
        let (peer, wire) = (at("203.0.113.9:41"), at("[2001:db8:64::cb00:7109]:41"));
        for (ours, theirs) in [(SocketId::MAIN_V4, SocketId::MAIN_V6), (OTHER, OTHER)] {
            assert_eq!(translator.outwards(ours, peer), Some((theirs, wire)));
            assert_eq!(translator.inwards(theirs, wire), Some((ours, peer)));
        }
        assert_eq!(translator.family(Family::V4), Family::V6);
        let native = at("[2001:db8:1::9]:41");
        let same = Some((SocketId::MAIN_V6, native));
        assert_eq!(translator.outwards(SocketId::MAIN_V6, native), same);
        assert_eq!(translator.inwards(SocketId::MAIN_V6, native), same);
    }

    #[test]
    fn what_is_near_is_reached_over_ipv4_and_never_through_the_translator() {
        let translator = Translator::new("2001:db8:64::/96".parse().ok());
        let near = at("192.168.1.9:41");
        let same = Some((SocketId::MAIN_V4, near));
        assert_eq!(translator.outwards(SocketId::MAIN_V4, near), same);
        assert_eq!(translator.inwards(SocketId::MAIN_V4, near), same);
        let embedded = at("[2001:db8:64::c0a8:109]:41");
        assert_eq!(translator.outwards(SocketId::MAIN_V6, embedded), None);
        assert_eq!(translator.inwards(SocketId::MAIN_V6, embedded), None);
    }
}
