//! The two keys that one handshake yields, and what they have carried (WireGuard, "WireGuard: Next Generation Kernel Network
//! Tunnel", §5.4.6; replays: RFC 6479).

use std::time::{Duration, Instant};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// WireGuard's overhead for a data packet: type, receiver, counter, tag.
pub(crate) const OVERHEAD: usize = HEADER + TAG;
const HEADER: usize = 16;
const TAG: usize = 16;
/// Plaintexts are multiples of this, so that lengths tell less.
const BLOCK: usize = 16;

/// Keys are not used for longer (§6.1).
pub(crate) const REJECT_AFTER: Duration = Duration::from_secs(180);
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// What a handshake has agreed on.
pub(crate) struct Secrets {
    /// Our index for the keys: what the peer writes into its messages.
    pub(crate) local: u32,
    /// The peer's.
    pub(crate) remote: u32,
    pub(crate) initiator: bool,
    pub(crate) seal: LessSafeKey,
    pub(crate) open: LessSafeKey,
}

/// A key for ChaCha20-Poly1305.
pub(crate) fn key(bytes: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, bytes)
        .ok()
        .map(LessSafeKey::new)
}

pub(crate) struct Keys {
    secrets: Secrets,
    since: Instant,
    sent: u64,
    received: Window,
}

impl Keys {
    pub(crate) fn new(secrets: Secrets, now: Instant) -> Self {
        Self {
            secrets,
            since: now,
            sent: 0,
            received: Window::default(),
        }
    }

    /// Whether they are those of this message (its receiver's index).
    pub(crate) fn are_for(&self, datagram: &[u8]) -> bool {
        let receiver: Option<&[u8; 8]> = datagram.first_chunk();
        receiver.is_some_and(|head| head[4..] == self.secrets.local.to_le_bytes())
    }

    pub(crate) fn is_initiator(&self) -> bool {
        self.secrets.initiator
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Whether they may still be used.
    pub(crate) fn are_valid(&self, now: Instant) -> bool {
        self.age(now) < REJECT_AFTER && self.sent < REJECT_AFTER_MESSAGES
    }

    /// Whether they have carried so much that there should be new ones.
    pub(crate) fn are_worn(&self) -> bool {
        self.sent >= REKEY_AFTER_MESSAGES
    }

    /// Writes the sealed `packet` to the start of `slot` and returns its length, which is [`sealed_length`]; 0 where the slot is
    /// too short.
    pub(crate) fn seal(&mut self, packet: &[u8], mtu: usize, slot: &mut [u8]) -> usize {
        let padded = padded_length(packet.len(), mtu);
        let Some((header, rest)) = slot.split_first_chunk_mut::<HEADER>() else {
            return 0;
        };
        let Some((text, rest)) = rest.split_at_mut_checked(padded) else {
            return 0;
        };
        let Some(end) = rest.first_chunk_mut::<TAG>() else {
            return 0;
        };
        header[..4].copy_from_slice(&[super::DATA, 0, 0, 0]);
        header[4..8].copy_from_slice(&self.secrets.remote.to_le_bytes());
        header[8..].copy_from_slice(&self.sent.to_le_bytes());
        text[..packet.len()].copy_from_slice(packet);
        text[packet.len()..].fill(0);
        let sealed =
            self.secrets
                .seal
                .seal_in_place_separate_tag(nonce(self.sent), Aad::empty(), text);
        let Ok(tag) = sealed else { return 0 };
        end.copy_from_slice(tag.as_ref());
        self.sent += 1;
        HEADER + padded + TAG
    }

    /// Writes what is in a data message of at least [`OVERHEAD`] bytes to the start of `slot`, which is as long as the message;
    /// returns its length. `None` where it is not authentic or has been here before.
    pub(crate) fn open(&mut self, datagram: &[u8], slot: &mut [u8]) -> Option<usize> {
        let (header, sealed) = datagram.split_first_chunk::<HEADER>()?;
        let [.., a, b, c, d, e, f, g, h] = *header;
        let counter = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if !self.received.is_new(counter) {
            return None;
        }
        let slot = slot.get_mut(..sealed.len())?;
        slot.copy_from_slice(sealed);
        let opened = self
            .secrets
            .open
            .open_in_place(nonce(counter), Aad::empty(), slot);
        let length = opened.ok()?.len();
        self.received.mark(counter);
        Some(length)
    }
}

/// How long a sealed packet is.
pub(crate) fn sealed_length(packet: usize, mtu: usize) -> usize {
    padded_length(packet, mtu) + OVERHEAD
}

/// A packet that fits the MTU is not made longer than the MTU.
fn padded_length(packet: usize, mtu: usize) -> usize {
    packet.next_multiple_of(BLOCK).min(mtu.max(packet))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Which counters have been here: a ring of bits behind the highest.
struct Window {
    /// One more than the highest.
    next: u64,
    words: [u64; WORDS],
}

const WORDS: usize = 128;
/// A message may be so many behind the newest. The word that the newest is in is not full.
const BEHIND: u64 = (WORDS as u64 - 1) * 64;

impl Default for Window {
    fn default() -> Self {
        Self {
            next: 0,
            words: [0; WORDS],
        }
    }
}

impl Window {
    fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < REJECT_AFTER_MESSAGES;
        }
        let (word, bit) = place(counter);
        self.next - counter <= BEHIND && self.words[word] & bit == 0
    }

    fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            let (last, new) = (self.next.saturating_sub(1) / 64, counter / 64);
            for passed in (last + 1..=new).take(WORDS) {
                self.words[place(passed * 64).0] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.words[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    let word = usize::try_from(counter / 64 % WORDS as u64).unwrap_or(0);
    (word, 1 << (counter % 64))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Keys, Keys) {
        let (one, other) = ([1; 32], [2; 32]);
        let keys = |local, remote, seal: &[u8; 32], open: &[u8; 32]| {
            let secrets = Secrets {
                local,
                remote,
                initiator: local == 7,
                seal: key(seal).unwrap(),
                open: key(open).unwrap(),
            };
            Keys::new(secrets, Instant::now())
        };
        (keys(7, 9, &one, &other), keys(9, 7, &other, &one))
    }

    fn sealed(keys: &mut Keys, packet: &[u8], mtu: usize) -> Vec<u8> {
        let mut slot = vec![0xEE; 2000];
        let length = keys.seal(packet, mtu, &mut slot);
        assert_eq!(length, sealed_length(packet.len(), mtu));
        slot.truncate(length);
        slot
    }

    #[test]
    fn a_packet_is_padded_up_to_the_mtu_and_comes_out_again() {
        for (length, mtu, padded) in [
            (0, 1420, 0),
            (1, 1420, 16),
            (52, 1420, 64),
            (1408, 1420, 1408),
            (1410, 1420, 1420),
            (1420, 1420, 1420),
            (1500, 1420, 1500),
        ] {
            let (mut one, mut other) = pair();
            let packet: Vec<u8> = (0..length).map(|at| at as u8).collect();

            let datagram = sealed(&mut one, &packet, mtu);

            assert_eq!(datagram.len(), padded + OVERHEAD, "{length}");
            assert!(other.are_for(&datagram) && !one.are_for(&datagram));
            let mut slot = vec![0; datagram.len()];
            assert_eq!(other.open(&datagram, &mut slot), Some(padded));
            assert_eq!(slot[..length], packet);
            assert!(slot[length..padded].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_slot_that_is_too_short_takes_nothing_and_costs_no_counter() {
        let (mut one, mut other) = pair();
        for room in 0..sealed_length(100, 1420) {
            assert_eq!(one.seal(&[7; 100], 1420, &mut vec![0; room]), 0);
        }
        let datagram = sealed(&mut one, &[7; 100], 1420);
        assert_eq!(datagram[8..16], [0; 8]);
        assert_eq!(other.open(&datagram, &mut []), None);
        assert!(other.open(&datagram, &mut [0; 200]).is_some());
    }

    #[test]
    fn what_is_changed_or_comes_again_is_refused() {
        let (mut one, mut other) = pair();
        let datagram = sealed(&mut one, b"hello", 1420);
        let mut slot = vec![0; 200];
        for at in 8..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            assert_eq!(other.open(&changed, &mut slot), None, "{at}");
        }
        for length in 0..datagram.len() {
            assert_eq!(other.open(&datagram[..length], &mut slot), None);
        }

        assert!(other.open(&datagram, &mut slot).is_some());
        assert_eq!(other.open(&datagram, &mut slot), None);
    }

    #[test]
    fn counters_end_before_they_repeat() {
        let (mut one, _) = pair();
        let now = Instant::now();
        one.sent = REKEY_AFTER_MESSAGES;
        assert!(one.are_worn() && one.are_valid(now));
        one.sent = REJECT_AFTER_MESSAGES;
        assert!(!one.are_valid(now));
        assert!(!Window::default().is_new(REJECT_AFTER_MESSAGES));
        assert!(!Window::default().is_new(u64::MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn each_counter_passes_once_and_only_near_the_newest(
            steps in proptest::collection::vec(
                prop_oneof![8 => -300_i64..300, 2 => -9000_i64..9000, 1 => 0_i64..100_000],
                1..300,
            ),
        ) {
            let (mut window, mut seen, mut newest) = (Window::default(), HashSet::new(), 0_u64);
            let mut at = 0_i64;
            for step in steps {
                at = (at + step).max(0);
                let counter = at as u64;
                let fresh = seen.is_empty() || counter > newest;
                let near = fresh || newest + 1 - counter <= BEHIND;
                prop_assert_eq!(window.is_new(counter), near && !seen.contains(&counter));
                if window.is_new(counter) {
                    window.mark(counter);
                    seen.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }
}
