//! A channel that takes its time: what one machine gives it reaches the other after a delay, or never.

use std::time::{Duration, Instant};

use punch_connect::{Channel, ServerId, channel};
use punch_signal_protocol::Frame;
use punch_signal_protocol::seal::MAX_COMPACT;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::{Side, World};

/// The slow channel of both machines.
pub(super) const SLOW: ServerId = ServerId(2);

/// How slow, and how good.
#[derive(Debug, Clone, Copy)]
pub struct SlowSpec {
    /// What the machines take it for.
    pub channel: Channel,
    /// The shortest and the longest time that an envelope takes.
    pub delay: [Duration; 2],
    /// The share of envelopes that are lost, from 0 to 1.
    pub loss: f64,
    /// Whether each envelope comes a second time, as long after as the first has taken.
    pub repeats: bool,
}

/// See the module.
pub(super) struct SlowChannel {
    spec: SlowSpec,
    rng: ChaCha8Rng,
    wire: Vec<(Instant, Side, Vec<u8>)>,
    /// Envelopes that were given to it, by their first byte.
    sent: Vec<(Instant, u8)>,
}

impl SlowChannel {
    pub(super) fn new(spec: SlowSpec, seed: u64) -> Self {
        Self {
            spec,
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x510e),
            wire: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// A machine sends an envelope to the other, at this `side`.
    pub(super) fn send(&mut self, side: Side, envelope: Vec<u8>, now: Instant) {
        assert!(envelope.len() <= MAX_COMPACT, "too long for this channel");
        let kind = envelope.first().copied().unwrap_or(0);
        assert!(matches!(kind, 1 | 2 | 4), "no note goes over it");
        self.sent.push((now, kind));
        let mut fraction = || f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        let [shortest, longest] = self.spec.delay;
        let delay = shortest + (longest - shortest).mul_f64(fraction());
        if fraction() < self.spec.loss {
            return;
        }
        if self.spec.repeats {
            self.wire.push((now + 2 * delay, side, envelope.clone()));
        }
        self.wire.push((now + delay, side, envelope));
    }

    /// When the next envelope arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        self.wire.iter().map(|(at, ..)| *at).min()
    }

    /// The next envelope that has arrived.
    pub(super) fn poll(&mut self, now: Instant) -> Option<(Side, Vec<u8>)> {
        let index = self.wire.iter().position(|(at, ..)| *at <= now)?;
        let (_, side, envelope) = self.wire.remove(index);
        Some((side, envelope))
    }
}

const SIDES: [Side; 2] = [Side::A, Side::B];

fn other(side: Side) -> Side {
    [Side::B, Side::A][side as usize]
}

/// Both machines have a slow channel to each other from now on.
pub fn open(world: &mut World, spec: SlowSpec, seed: u64) {
    world.slow = Some(SlowChannel::new(spec, seed));
    let now = world.now;
    for side in SIDES {
        let connector = &mut world.machine_mut(side).connector;
        channel::handle_up(connector, SLOW, spec.channel, now);
    }
    world.drain();
}

/// The slow channel gives each machine this envelope of the other's.
pub fn forge(world: &mut World, envelope: &[u8]) {
    if let Some(slow) = &mut world.slow {
        let to = SIDES.map(|side| (world.now, side, envelope.to_vec()));
        slow.wire.extend(to);
    }
}

/// When envelopes went over the slow channel, and their first bytes.
pub fn envelopes(world: &World) -> &[(Instant, u8)] {
    world.slow.as_ref().map_or(&[], |slow| &slow.sent)
}

/// Whether both machines have the same preshared key for their newest session.
pub fn have_one_key(world: &World) -> bool {
    let [a, b] = &world.machines;
    a.preshared.is_some() && a.preshared == b.preshared
}

/// What a machine has to say over the slow channel.
pub(super) fn post(world: &mut World, side: Side, frame: Frame) {
    let now = world.now;
    if let (Some(slow), Frame::Send { envelope, .. }) = (&mut world.slow, frame) {
        slow.send(other(side), envelope, now);
    }
}

/// Gives the machines what has arrived.
pub(super) fn deliver(world: &mut World) {
    let now = world.now;
    while let Some((side, envelope)) = world.slow.as_mut().and_then(|slow| slow.poll(now)) {
        let from = world.machine(other(side)).identity.id();
        let frame = Frame::Deliver { from, envelope };
        let connector = &mut world.machine_mut(side).connector;
        connector.handle_frame(SLOW, frame, now);
        world.drain();
    }
}
