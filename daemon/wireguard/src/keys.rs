//! This machine's static keys, and what is to be known of the pair that a handshake has made. The keys themselves are
//! inside boringtun's tunnels.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::message::{OVERHEAD, slot_of};

/// Plaintexts are multiples of this, so that lengths tell less (§5.4.6).
const BLOCK: usize = 16;

/// Keys are not used for longer (§6.1).
pub(crate) const REJECT_AFTER: Duration = Duration::from_secs(180);
/// They seal for less long: what they have sealed must reach the peer, by whose clock they may be older, before it is refused there.
const SEAL_FOR: Duration = Duration::from_secs(175);
/// After so many messages there should be new keys, and after so many there must be (§6.1).
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// This machine's static keys, shared by all its sessions. The secret is erased when the last of them is dropped.
pub struct LocalKeys {
    pub(crate) secret: StaticSecret,
    pub(crate) public: PublicKey,
    /// Checks the first MAC of handshake messages and never asks for a cookie: the load is measured by the cookie checker.
    pub(crate) limiter: Arc<RateLimiter>,
}

impl LocalKeys {
    /// The keys that belong to an X25519 secret.
    pub fn new(secret: [u8; 32]) -> Arc<Self> {
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Arc::new(Self {
            limiter: Arc::new(RateLimiter::new(&public, u64::MAX)),
            secret,
            public,
        })
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        *self.public.as_bytes()
    }
}

impl fmt::Debug for LocalKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKeys")
            .field("public", &self.public.as_bytes())
            .finish_non_exhaustive()
    }
}

/// A pair of keys that a handshake has agreed on: which tunnel holds them, how old they are, what they have carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys {
    /// This end's index for them: what the peer writes into its messages.
    pub(crate) local: u32,
    /// Whether this end has begun the handshake.
    pub(crate) initiator: bool,
    pub(crate) since: Instant,
    pub(crate) sent: u64,
}

impl Keys {
    pub(crate) fn new(local: u32, initiator: bool, now: Instant) -> Self {
        Self {
            local,
            initiator,
            since: now,
            sent: 0,
        }
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Whether they may still seal.
    pub(crate) fn may_seal(&self, now: Instant) -> bool {
        self.age(now) < SEAL_FOR && self.sent < REJECT_AFTER_MESSAGES
    }

    /// Whether they have carried so much that there should be new ones.
    pub(crate) fn are_worn(&self) -> bool {
        self.sent >= REKEY_AFTER_MESSAGES
    }
}

/// The keys of one session.
#[derive(Debug, Default)]
pub(crate) struct KeyRing {
    /// Those that seal.
    pub(crate) current: Option<Keys>,
    /// Data on its way may still need them.
    pub(crate) previous: Option<Keys>,
    /// The peer has been sent the response that makes them, and has not used them.
    pub(crate) next: Option<Keys>,
    /// The keys of an earlier response, if the peer has asked again since: until it uses the later ones it may use these.
    pub(crate) superseded: Option<Keys>,
    /// The keys that this end has asked for before its newest, and has not heard the peer use: what confirms them may have reached the peer
    /// all the same, which seals with them until it hears of the newer ones.
    pub(crate) passed: Option<Keys>,
    /// This end's index of the keys that something authentic has come in with last: the peer seals with them.
    pub(crate) heard: Option<u32>,
}

impl KeyRing {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Keys> {
        [
            &self.current,
            &self.next,
            &self.superseded,
            &self.previous,
            &self.passed,
        ]
        .into_iter()
        .flatten()
    }

    fn all_mut(&mut self) -> [&mut Option<Keys>; 5] {
        [
            &mut self.current,
            &mut self.next,
            &mut self.superseded,
            &mut self.previous,
            &mut self.passed,
        ]
    }

    /// The keys with this end's index.
    pub(crate) fn find(&self, local: u32) -> Option<&Keys> {
        self.iter().find(|keys| keys.local == local)
    }

    /// Something authentic has come in with the keys with this index. If those that seal are in one tunnel with them, which seals with
    /// whatever has come in last, these are the ones that seal from now on.
    pub(crate) fn follow(&mut self, local: u32) {
        let shares = |keys: &Keys| slot_of(keys.local) == slot_of(local);
        if !self.current.as_ref().is_some_and(shares) {
            return;
        }
        for place in [&mut self.previous, &mut self.passed] {
            if place.is_some_and(|keys| keys.local == local) {
                std::mem::swap(place, &mut self.current);
                return;
            }
        }
    }

    /// All are older by this than the clock says, which has stood still.
    pub(crate) fn handle_sleep(&mut self, slept: Duration) {
        for keys in self.all_mut().into_iter().flatten() {
            keys.since = keys.since.checked_sub(slept).unwrap_or(keys.since);
        }
    }

    /// Drops what is too old to open anything; returns the indices of what was dropped.
    pub(crate) fn expire(&mut self, now: Instant) -> impl Iterator<Item = u32> + use<> {
        let dropped = self
            .all_mut()
            .map(|keys| keys.take_if(|keys| keys.age(now) >= REJECT_AFTER));
        dropped.into_iter().flatten().map(|keys| keys.local)
    }
}

/// The length of a plaintext after padding: a packet that fits the MTU is not made longer than the MTU.
pub(crate) fn padded_length(packet: usize, mtu: usize) -> usize {
    packet.next_multiple_of(BLOCK).min(mtu.max(packet))
}

/// The length of a data message.
pub(crate) fn sealed_length(packet: usize, mtu: usize) -> usize {
    padded_length(packet, mtu) + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_padded_up_to_the_mtu() {
        for (length, mtu, padded) in [
            (0, 1420, 0),
            (1, 1420, 16),
            (52, 1420, 64),
            (1408, 1420, 1408),
            (1410, 1420, 1420),
            (1420, 1420, 1420),
            (1500, 1420, 1500),
        ] {
            assert_eq!(padded_length(length, mtu), padded, "{length}");
            assert_eq!(sealed_length(length, mtu), padded + OVERHEAD, "{length}");
        }
    }
}
