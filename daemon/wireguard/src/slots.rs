//! The three boringtun tunnels of a session, which have the same keys and the same beginning, and take turns:
//!
//! - the *carrier* seals the data and is never lent, so that no packet waits for a handshake;
//! - the *caller* makes this end's handshakes;
//! - the *answerer* answers those of the peer.
//!
//! Whichever of the latter two has made new keys becomes the carrier, and the tunnel with the keys before takes its place, where it
//! still opens what is under way. Three, since one boringtun tunnel moves its sending to whatever keys something has come in
//! with: keys that open beside those that seal must be in another tunnel. There is one exception. If this end completes two handshakes
//! before the peer is heard to use either, the second pair is in one tunnel with the keys that the peer still uses, and what comes in
//! with those moves the sending back to them, until the peer uses newer ones; the session's record of what seals follows.
//!
//! They are equal in age, since boringtun takes the timestamps of initiations from the moment that a tunnel was made and counts on: the
//! timestamps of three tunnels that were made at the same time increase even if the wall clock is set back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::Tunn;
use boringtun::x25519::PublicKey;
use zeroize::Zeroizing;

use crate::keys::LocalKeys;
use crate::message::tunnel_index;

pub(crate) const SLOTS: usize = 3;
/// The wall clock was set forward if it is ahead by more than this of what it was when the tunnels were made, plus the time since.
const SET_FORWARD: Duration = Duration::from_secs(1);

pub(crate) type Tunnels = [Option<Box<Tunn>>; SLOTS];

/// Everything that a session's tunnels are made from.
pub(crate) struct Recipe {
    pub(crate) own: Arc<LocalKeys>,
    pub(crate) remote: [u8; 32],
    pub(crate) preshared: Zeroizing<[u8; 32]>,
    pub(crate) session: u32,
}

impl Recipe {
    /// Costs several curve operations: a thing for another thread.
    fn make(&self) -> Tunnels {
        [0, 1, 2].map(|slot| {
            let tunnel = Tunn::new(
                self.own.secret.clone(),
                PublicKey::from(self.remote),
                Some(*self.preshared),
                None,
                tunnel_index(self.session, slot),
                Some(self.own.limiter.clone()),
            );
            Some(Box::new(tunnel))
        })
    }
}

/// What a job works on: one of the tunnels, and in the first job of a session all of them, which it makes.
pub(crate) struct Loan {
    recipe: Arc<Recipe>,
    slot: usize,
    tunnels: Tunnels,
    make: bool,
    /// The tunnel holds keys that nobody may use any more.
    wipe: bool,
}

impl Loan {
    /// The tunnel, without old keys.
    pub(crate) fn open(&mut self) -> Option<&mut Tunn> {
        if std::mem::take(&mut self.make) {
            self.tunnels = self.recipe.make();
        }
        let tunnel = self.tunnels.get_mut(self.slot)?.as_deref_mut()?;
        if std::mem::take(&mut self.wipe) {
            let own = &self.recipe.own;
            tunnel.set_static_private(own.secret.clone(), own.public, Some(own.limiter.clone()));
        }
        Some(tunnel)
    }
}

#[derive(Default)]
enum Place {
    /// The first job makes it.
    #[default]
    Empty,
    Here(Box<Tunn>),
    Lent,
}

/// See the module.
pub(crate) struct Slots {
    recipe: Arc<Recipe>,
    places: [Place; SLOTS],
    /// Whether the tunnel in a slot holds keys that are no longer used.
    stale: [bool; SLOTS],
    carrier: usize,
    caller: usize,
    answerer: usize,
    /// The time since 1970 when the tunnels were made, from which boringtun counts the timestamps of initiations.
    made: Option<(Duration, Instant)>,
}

impl Slots {
    pub(crate) fn new(recipe: Recipe) -> Self {
        Self {
            recipe: Arc::new(recipe),
            places: Default::default(),
            stale: [false; SLOTS],
            carrier: 0,
            caller: 1,
            answerer: 2,
            made: None,
        }
    }

    /// Whether this end's public key is smaller than the peer's.
    pub(crate) fn has_smaller_key(&self) -> bool {
        *self.recipe.own.public.as_bytes() < self.recipe.remote
    }

    /// Remembers the wall clock that tunnels which are not made yet will begin from.
    pub(crate) fn note_clock(&mut self, wall: Duration, now: Instant) {
        if matches!(self.places, [Place::Empty, Place::Empty, Place::Empty]) {
            self.made = Some((wall, now));
        }
    }

    /// Has the tunnels made anew if the wall clock has been set forward since they were made: a machine without a clock of its own
    /// starts with an old time, and a peer that has seen newer timestamps would take no initiation. Only for tunnels without keys in
    /// use. Returns whether it is so.
    pub(crate) fn renew(&mut self, wall: Duration, now: Instant) -> bool {
        let here = self
            .places
            .iter()
            .all(|place| matches!(place, Place::Here(_)));
        let ahead = self.made.is_some_and(|(made, at)| {
            wall > made + now.saturating_duration_since(at) + SET_FORWARD
        });
        if here && ahead {
            self.places = Default::default();
            self.stale = [false; SLOTS];
            self.made = Some((wall, now));
        }
        here && ahead
    }

    pub(crate) fn carrier(&mut self) -> Option<&mut Tunn> {
        self.at(self.carrier)
    }

    /// The tunnel in a slot, unless it is lent or not made yet.
    pub(crate) fn at(&mut self, slot: usize) -> Option<&mut Tunn> {
        match self.places.get_mut(slot)? {
            Place::Here(tunnel) => Some(tunnel),
            Place::Empty | Place::Lent => None,
        }
    }

    pub(crate) fn is_lent(&self, slot: usize) -> bool {
        matches!(self.places.get(slot), Some(Place::Lent))
    }

    pub(crate) fn caller(&self) -> usize {
        self.caller
    }

    pub(crate) fn answerer(&self) -> usize {
        self.answerer
    }

    /// The keys in this slot seal from now on.
    pub(crate) fn carry_from(&mut self, slot: usize) {
        if slot == self.caller {
            std::mem::swap(&mut self.carrier, &mut self.caller);
        } else if slot == self.answerer {
            std::mem::swap(&mut self.carrier, &mut self.answerer);
        }
    }

    /// Keys in this slot are no longer used.
    pub(crate) fn mark_stale(&mut self, slot: usize) {
        if let Some(stale) = self.stale.get_mut(slot) {
            *stale = true;
        }
    }

    /// Whether a slot holds keys that are no longer used and can be freed of them: it is here, and no keys in it are `live`.
    pub(crate) fn stale_slot(&self, live: impl Fn(usize) -> bool) -> Option<usize> {
        (0..SLOTS).find(|slot| {
            self.stale[*slot] && matches!(self.places[*slot], Place::Here(_)) && !live(*slot)
        })
    }

    /// Lends a tunnel to a job; old keys are taken out of it unless some of its keys are `live`.
    pub(crate) fn lend(&mut self, slot: usize, live: bool) -> Option<Loan> {
        let mut tunnels = Tunnels::default();
        let make = match std::mem::replace(self.places.get_mut(slot)?, Place::Lent) {
            Place::Here(tunnel) => {
                tunnels[slot] = Some(tunnel);
                false
            }
            Place::Empty => {
                self.places = [Place::Lent, Place::Lent, Place::Lent];
                true
            }
            Place::Lent => return None,
        };
        let wipe = self.stale[slot] && !live;
        self.stale[slot] &= !wipe;
        Some(Loan {
            recipe: self.recipe.clone(),
            slot,
            tunnels,
            make,
            wipe,
        })
    }

    /// Takes back what was lent.
    pub(crate) fn take_back(&mut self, loan: Loan) {
        for (place, tunnel) in self.places.iter_mut().zip(loan.tunnels) {
            if let Some(tunnel) = tunnel {
                *place = Place::Here(tunnel);
            }
        }
    }
}
