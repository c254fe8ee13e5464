//! How IPv4 is reached where this machine has none and its network translates (NAT64): whatever goes to an IPv4 address, or comes from
//! one, passes an IPv6 socket, and nobody but this room sees it. To everybody else, the translator is a NAT.

use std::net::SocketAddr;

use punch_engine::{Family, Nat64, SocketId};

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Translator(Option<Nat64>);

impl Translator {
    /// Below this prefix IPv4 is reached; without one nothing is translated.
    pub(super) fn new(prefix: Option<Nat64>) -> Self {
        Self(prefix)
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

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
