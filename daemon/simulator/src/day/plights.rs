//! What is wrong at the moment.

use std::time::{Duration, Instant};

use crate::network::LinkSpec;

const DELAY: Duration = Duration::from_millis(10);
/// Packets may be missed for so long after a line has lost some.
const AFTER_LOSS: Duration = Duration::from_secs(5);

/// What is wrong with a machine's network at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plight {
    pub(super) unplugged: bool,
    pub(super) cut: bool,
    pub(super) blocked: bool,
    pub(super) lossy: bool,
    pub(super) asleep: Option<Instant>,
    pub(super) slept: Duration,
    /// The part of the sleep that the machine has not seen yet.
    pub(super) unnoticed: Duration,
}

impl Plight {
    pub(super) fn passes(&self) -> bool {
        !self.unplugged && !self.cut && self.asleep.is_none()
    }
}

/// What is wrong with both machines' networks, and between them.
#[derive(Debug)]
pub(super) struct Plights {
    pub(super) of: [Plight; 2],
    /// No datagram passes between the two.
    pub(super) between: bool,
    /// The STUN server is dead.
    pub(super) no_stun: bool,
    /// Where nothing is wrong, ordinary checks find a direct path.
    pub(super) direct: bool,
    lossy_until: Instant,
}

impl Plights {
    /// Nothing is wrong.
    pub(super) fn new(start: Instant) -> Self {
        Self {
            of: [Plight::default(); 2],
            between: false,
            no_stun: false,
            direct: false,
            lossy_until: start,
        }
    }

    /// Whether TCP passes, for each of the two machines.
    pub(super) fn passes(&self) -> [bool; 2] {
        self.of.map(|plight| plight.passes())
    }

    /// Whether ordinary checks must find a direct path now.
    pub(super) fn is_direct(&self) -> bool {
        let blocked = self.between || self.of.iter().any(|plight| plight.blocked);
        self.direct && !blocked && !self.no_stun
    }

    /// A line begins to lose packets, or no longer does.
    pub(super) fn set_lossy(&mut self, index: usize, lossy: bool, now: Instant) {
        self.of[index].lossy = lossy;
        self.lossy_until = now + AFTER_LOSS;
    }

    /// Whether packets may be missed.
    pub(super) fn is_lossy(&self, now: Instant) -> bool {
        now < self.lossy_until || self.of.iter().any(|plight| plight.lossy)
    }

    /// What a machine's line does to datagrams.
    pub(super) fn link(&self, index: usize) -> LinkSpec {
        let plight = &self.of[index];
        let loss = match (plight.passes() && !plight.blocked, plight.lossy) {
            (false, _) => 1.0,
            (true, true) => 0.1,
            (true, false) => 0.0,
        };
        LinkSpec {
            loss,
            delay: DELAY,
            ..LinkSpec::default()
        }
    }
}
