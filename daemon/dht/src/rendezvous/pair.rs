//! This machine and another: what each writes, and when.

use std::time::{Duration, Instant};

use punch_signal_protocol::rendezvous::{Author, PairSecret};

use super::{Moment, Outgoing, Reading};
use crate::client::Urgency;
use crate::id::NodeId;
use crate::item::{self, Item};
use crate::sealed::Keys;

/// For so long after something has happened the other machine's items are looked at every few seconds.
const LIVELY: Duration = Duration::from_secs(60);
/// A pair that nobody watches is kept for so long after something was sent to it.
const LINGERS: Duration = Duration::from_secs(10 * 60);
/// A call that nobody has answered for so long goes on as long as the program runs: what is sent anew is nothing new.
const NEW: Duration = Duration::from_secs(5 * 60);
/// Where items are to be stored need not be looked for again so soon.
const PREPARED: Duration = Duration::from_secs(5 * 60);

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Look at what the other one has written on a day.
    Read(u64),
    /// Find out where what this machine writes is to be stored.
    Prepare,
    /// Store it.
    Publish,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub(super) work: Work,
    pub(super) due: Instant,
    pub(super) urgency: Urgency,
}

pub(super) struct Pair {
    secret: PairSecret,
    /// Whether it is one of the peers that the identity has.
    pub(super) is_peer: bool,
    pub(super) is_watched: bool,
    day: u64,
    /// The day before, today, the day after.
    readings: [Reading; 3],
    own: Keys,
    own_place: NodeId,
    /// The highest sequence number of this machine that was used or seen.
    last_seq: i64,
    outgoing: Option<Outgoing>,
    /// When the nodes that will store what this machine writes are looked for.
    prepare: Option<Instant>,
    prepared: Option<Instant>,
    lively_until: Option<Instant>,
    /// When the first envelope went out since somebody began to wait, or the other machine was found.
    called: Option<Instant>,
    /// When something was sent, or the pair was made.
    used: Instant,
    /// The envelope that was delivered last: it comes again under the next day's key.
    delivered: Vec<u8>,
}

impl Pair {
    pub(super) fn new(secret: PairSecret, at: Moment, random: u32) -> Self {
        let day = at.day();
        // Many pairs that are made at once are looked at one after the other.
        let soon = at.now + Duration::from_secs(60).mul_f64(spread(random));
        let own = Keys::new(&secret, day, Author::Us);
        Self {
            is_peer: false,
            is_watched: false,
            day,
            readings: days(day).map(|day| Reading::new(&secret, day, soon)),
            own_place: item::place(&own.public()),
            own,
            secret,
            last_seq: 0,
            outgoing: None,
            prepare: None,
            prepared: None,
            lively_until: None,
            called: None,
            used: at.now,
            delivered: Vec::new(),
        }
    }

    /// Whether it is of any use still.
    pub(super) fn is_kept(&self, at: Moment) -> bool {
        self.is_peer || self.is_watched || at.now.duration_since(self.used) < LINGERS
    }

    /// All places at which there may be something of the pair's.
    pub(super) fn places(&self) -> Vec<NodeId> {
        let readings = self.readings.iter().map(|reading| reading.place);
        readings.chain([self.own_place]).collect()
    }

    pub(super) fn key_of(&self, day: u64) -> Option<[u8; 32]> {
        let mut readings = self.readings.iter();
        let reading = readings.find(|reading| reading.day == day);
        reading.map(|reading| reading.key)
    }

    pub(super) fn own_key(&self) -> [u8; 32] {
        self.own.public()
    }

    // --- what happens ---

    /// Somebody waits for the other machine.
    pub(super) fn watch(&mut self, at: Moment) {
        self.is_watched = true;
        let since = self.prepared.map(|since| at.now.duration_since(since));
        if since.is_none_or(|since| since > PREPARED) {
            self.prepare = Some(at.now);
        }
        self.stir(at);
    }

    /// Nobody waits for the other machine any more: it is called no longer.
    pub(super) fn unwatch(&mut self) {
        self.is_watched = false;
        (self.lively_until, self.prepare) = (None, None);
        self.outgoing.take_if(|outgoing| outgoing.is_offer());
    }

    /// Something goes on: looks now, and often for a while.
    pub(super) fn stir(&mut self, at: Moment) {
        self.called = None;
        self.hasten(at);
        for reading in &mut self.readings {
            reading.due = reading.due.min(at.now);
        }
    }

    /// Something goes on: looks often for a while.
    fn hasten(&mut self, at: Moment) {
        self.lively_until = Some(at.now + LIVELY);
        for reading in &mut self.readings {
            reading.hasten(at);
        }
    }

    pub(super) fn send(&mut self, envelope: Vec<u8>, at: Moment) {
        self.used = at.now;
        self.prepare = None;
        let seq = self.next_seq(at);
        let waits = self.outgoing.as_ref().is_some_and(|o| !o.is_free());
        let mut outgoing = Outgoing::new(envelope, seq, at);
        let since = *self.called.get_or_insert(at.now);
        if outgoing.is_offer() && at.now.duration_since(since) >= NEW {
            outgoing.urgency = Urgency::Idle;
            // Whoever has waited for its turn does not begin to wait anew.
            let before = self.outgoing.as_ref().map(|before| before.due);
            outgoing.due = before.map_or(at.now, |before| before.min(at.now));
        } else {
            self.hasten(at);
        }
        if waits {
            outgoing.started();
            outgoing.move_on(at);
        }
        self.outgoing = Some(outgoing);
    }

    fn next_seq(&mut self, at: Moment) -> i64 {
        let wall = i64::try_from(at.wall_ms).unwrap_or(i64::MAX - 1);
        self.last_seq = wall.max(self.last_seq.saturating_add(1));
        self.last_seq
    }

    /// Takes the keys of the day, if they are not those already; tells whether.
    pub(super) fn turn_over(&mut self, at: Moment) -> bool {
        if self.day == at.day() {
            return false;
        }
        self.day = at.day();
        let secret = &self.secret;
        let now = at.now;
        let fresh = days(self.day).map(|day| Reading::new(secret, day, now));
        let before = std::mem::replace(&mut self.readings, fresh);
        for reading in before {
            let mut readings = self.readings.iter_mut();
            if let Some(place) = readings.find(|known| known.day == reading.day) {
                *place = reading;
            }
        }
        self.own = Keys::new(secret, self.day, Author::Us);
        self.own_place = item::place(&self.own.public());
        self.prepared = None;
        for reading in &mut self.readings {
            reading.turn_over(at);
        }
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.turn_over(at);
        }
        if self.is_lively(at) {
            self.readings.iter_mut().for_each(|known| known.hasten(at));
        }
        true
    }

    // --- what there is to do ---

    fn is_lively(&self, at: Moment) -> bool {
        self.lively_until.is_some_and(|until| at.now < until)
    }

    pub(super) fn tasks(&self, at: Moment) -> impl Iterator<Item = Task> {
        let is_lively = self.is_lively(at);
        let is_read = self.is_kept(at);
        let free = self
            .readings
            .iter()
            .filter(move |reading| is_read && reading.is_free());
        let reads = free.map(move |reading| Task {
            work: Work::Read(reading.day),
            due: reading.due,
            urgency: reading.urgency(is_lively, at),
        });
        let outgoing = self.outgoing.as_ref();
        let outgoing = outgoing.filter(|outgoing| outgoing.is_free() && outgoing.is_fresh(at));
        let publish = outgoing.map(|outgoing| Task {
            work: Work::Publish,
            due: outgoing.due,
            urgency: outgoing.urgency,
        });
        let prepare = self.prepare.map(|due| Task {
            work: Work::Prepare,
            due,
            urgency: Urgency::Soon,
        });
        publish.into_iter().chain(reads).chain(prepare)
    }

    /// What is published now.
    pub(super) fn item(&self, nonce: [u8; 24]) -> Option<Item> {
        let outgoing = self.outgoing.as_ref()?;
        self.own.seal(&outgoing.envelope, outgoing.seq, nonce)
    }

    pub(super) fn started(&mut self, work: Work, random: u32, at: Moment) {
        let is_lively = self.is_lively(at);
        match work {
            Work::Read(day) => {
                let mut readings = self.readings.iter_mut();
                if let Some(reading) = readings.find(|reading| reading.day == day) {
                    reading.started(is_lively, spread(random), at);
                }
            }
            Work::Prepare => {
                self.prepare = None;
                self.prepared = Some(at.now);
            }
            Work::Publish => {
                if let Some(outgoing) = &mut self.outgoing {
                    outgoing.started();
                }
            }
        }
    }

    /// What was done at a place has ended: so many have answered, so many have stored, and some had a newer item.
    pub(super) fn done(
        &mut self,
        place: NodeId,
        (answers, stored, outdated): (usize, Option<usize>, bool),
        random: u32,
        at: Moment,
    ) {
        for reading in &mut self.readings {
            if reading.place == place {
                reading.done(answers);
            }
        }
        let last_seq = self.last_seq;
        if let Some(outgoing) = &mut self.outgoing
            && let Some(stored) = stored
        {
            outgoing.done(stored, spread(random), at);
            if outdated && last_seq > outgoing.seq {
                self.last_seq = last_seq.saturating_add(1);
                outgoing.outbid(self.last_seq, at);
            } else if outdated {
                self.prepare = Some(at.now);
            }
        }
    }

    /// An item was found: the other one's envelope, if it is a new one.
    pub(super) fn found(&mut self, item: &Item, at: Moment) -> Option<Vec<u8>> {
        if item.key == self.own.public() {
            self.last_seq = self.last_seq.max(item.seq);
            if let Some(outgoing) = &mut self.outgoing
                && outgoing.seq < item.seq
            {
                outgoing.outbid(item.seq.saturating_add(1), at);
                self.last_seq = outgoing.seq;
            }
            return None;
        }
        let mut readings = self.readings.iter_mut();
        let reading = readings.find(|reading| reading.key == item.key)?;
        let envelope = reading.found(item, at)?;
        let is_new = envelope != self.delivered;
        self.delivered.clone_from(&envelope);
        self.called = None;
        self.hasten(at);
        is_new.then_some(envelope)
    }
}

fn days(day: u64) -> [u64; 3] {
    [day.saturating_sub(1), day, day + 1]
}

/// A random number as a part of one.
fn spread(random: u32) -> f64 {
    f64::from(random) / f64::from(u32::MAX)
}
