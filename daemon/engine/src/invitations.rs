//! Telling peers that they may meet others at this machine, and hearing it of them.
//!
//! An invitation is an echo request with a payload of its own, so that a peer of an older version answers it and does nothing else. Its
//! reply says that it was heard. After each handshake of WireGuard it is said again: the peer may be another process by then. That
//! somebody is no longer a guest is not said: its connection ends, and a new one is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use punch_packet::PeerHandle;

use crate::pings::Pong;

/// An invitation that was not answered is repeated after this, then at doubled intervals up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// Invitations that go out at once.
const AT_ONCE: usize = 16;
/// A peer's invitations are listened to so often.
const HEARD: Duration = Duration::from_secs(1);

/// A peer that may meet others here.
#[derive(Debug)]
struct Guest {
    /// The handshake after which it is invited.
    keys: Option<Instant>,
    /// Whether it has answered.
    heard: bool,
    next: Instant,
    pause: Duration,
    /// The number of the last echo request.
    id: Option<u16>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Invitations {
    guests: BTreeMap<PeerHandle, Guest>,
    /// When each peer that invites this machine has last done so.
    hosts: BTreeMap<PeerHandle, Instant>,
}

impl Invitations {
    /// The peers that may meet here are now these.
    pub(crate) fn set_guests(&mut self, guests: impl Iterator<Item = PeerHandle>, now: Instant) {
        let guests: BTreeSet<_> = guests.collect();
        self.guests.retain(|handle, _| guests.contains(handle));
        for handle in guests {
            self.guests.entry(handle).or_insert(Guest {
                keys: None,
                heard: false,
                next: now,
                pause: FIRST_PAUSE,
                id: None,
            });
        }
    }

    /// Forgets peers that are gone.
    pub(crate) fn retain(&mut self, is_peer: impl Fn(PeerHandle) -> bool) {
        self.guests.retain(|handle, _| is_peer(*handle));
        self.hosts.retain(|handle, _| is_peer(*handle));
    }

    /// The guests that are to be invited now; `keys` tells when the last handshake was with one that is connected.
    pub(crate) fn due(
        &mut self,
        keys: impl Fn(PeerHandle) -> Option<Instant>,
        now: Instant,
    ) -> Vec<PeerHandle> {
        let mut due = Vec::new();
        for (handle, guest) in &mut self.guests {
            let Some(keys) = keys(*handle) else { continue };
            if guest.keys != Some(keys) {
                (guest.keys, guest.heard) = (Some(keys), false);
                (guest.next, guest.pause) = (now, FIRST_PAUSE);
            }
            if guest.heard || guest.next > now || due.len() >= AT_ONCE {
                continue;
            }
            guest.next = now + guest.pause;
            guest.pause = (2 * guest.pause).min(LONGEST_PAUSE);
            due.push(*handle);
        }
        due
    }

    /// An invitation has gone out, as the echo request with this number.
    pub(crate) fn handle_sent(&mut self, handle: PeerHandle, id: Option<u16>) {
        if let Some(guest) = self.guests.get_mut(&handle) {
            guest.id = id;
        }
    }

    /// An echo request was answered; returns whether it was an invitation.
    pub(crate) fn handle_pong(&mut self, pong: &Pong) -> bool {
        let Some(guest) = self.guests.get_mut(&pong.peer) else {
            return false;
        };
        let is_ours = guest.id == Some(pong.id);
        if is_ours {
            (guest.heard, guest.id) = (true, None);
        }
        is_ours
    }

    /// A peer invites this machine; returns whether that is to be told.
    pub(crate) fn hear(&mut self, handle: PeerHandle, now: Instant) -> bool {
        let lately = |at: &Instant| now.saturating_duration_since(*at) < HEARD;
        let is_news = !self.hosts.get(&handle).is_some_and(lately);
        if is_news {
            self.hosts.insert(handle, now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    const GUEST: PeerHandle = PeerHandle(7);

    fn pong(id: u16) -> Pong {
        Pong {
            peer: GUEST,
            id,
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            rtt: Duration::ZERO,
        }
    }

    /// The seconds at which an invitation goes out within ten minutes.
    fn seconds(invitations: &mut Invitations, keys: Option<Instant>, answer_at: u64) -> Vec<u64> {
        let mut sent = Vec::new();
        for second in 0..600 {
            let now = start() + Duration::from_secs(second);
            for handle in invitations.due(|_| keys, now) {
                sent.push(second);
                invitations.handle_sent(handle, Some(9));
            }
            if second == answer_at {
                assert!(!invitations.handle_pong(&pong(8)));
                invitations.handle_pong(&pong(9));
            }
        }
        sent
    }

    #[test]
    fn an_invitation_is_repeated_until_it_is_answered_and_said_again_in_the_next_session() {
        let mut invitations = Invitations::default();
        invitations.set_guests([GUEST].into_iter(), start());
        let (first, second) = (start(), start() + Duration::from_secs(1));
        assert_eq!(seconds(&mut invitations, None, 600), [0; 0]);
        assert_eq!(seconds(&mut invitations, Some(first), 5), [0, 1, 3]);
        assert_eq!(seconds(&mut invitations, Some(first), 600), [0; 0]);
        let all = [
            0, 1, 3, 7, 15, 31, 63, 127, 191, 255, 319, 383, 447, 511, 575,
        ];
        assert_eq!(seconds(&mut invitations, Some(second), 600), all);
        invitations.set_guests([].into_iter(), start());
        assert!(!invitations.handle_pong(&pong(9)));
        assert_eq!(seconds(&mut invitations, Some(first), 600), [0; 0]);
    }

    #[test]
    fn a_host_that_repeats_itself_is_heard_once_a_second() {
        let mut invitations = Invitations::default();
        let start = start();
        let told =
            (0..10_000).filter(|ms| invitations.hear(GUEST, start + Duration::from_millis(*ms)));
        assert_eq!(told.count(), 10);
        invitations.retain(|_| false);
        assert!(invitations.hosts.is_empty());
    }
}
