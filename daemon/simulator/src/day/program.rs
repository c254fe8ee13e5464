//! What goes wrong in a day, drawn from a seed, and how soon packets must pass again after each.

use std::fmt;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::world::Side;

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A machine's router forgets all its mappings.
    Reboot(Side),
    /// A machine's router gets another public address, and forgets all its mappings; the machine is not told.
    Renumber(Side),
    /// A machine moves to another of its networks.
    Move(Side),
    /// A machine has no network for a while, and knows it.
    Unplug(Side),
    /// Nothing passes a machine's line for a while, and nobody is told.
    Cut(Side),
    /// No datagram passes a machine's line for a while; TCP does.
    Block(Side),
    /// No datagram passes between the two machines for a while.
    Between,
    /// A machine's line loses a part of the datagrams for a while.
    Loss(Side),
    /// A signalling server, which is the relay as well, is dead for a while.
    Server(usize),
    /// The STUN servers are dead for a while.
    Stun,
    /// A machine sleeps for a while.
    Sleep(Side),
    /// punchd is started anew on a machine.
    Restart(Side),
}

impl Fault {
    /// Whether it lasts for a while, and ends.
    pub fn lasts(self) -> bool {
        !matches!(
            self,
            Self::Reboot(_) | Self::Renumber(_) | Self::Move(_) | Self::Restart(_)
        )
    }

    /// Its name without the machine, for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reboot(_) => "NAT forgets",
            Self::Renumber(_) => "public address changes",
            Self::Move(_) => "machine moves",
            Self::Unplug(_) => "no network",
            Self::Cut(_) => "line is cut",
            Self::Block(_) => "UDP is blocked",
            Self::Between => "direct path is cut",
            Self::Loss(_) => "loss",
            Self::Server(_) => "signalling server",
            Self::Stun => "STUN servers",
            Self::Sleep(_) => "sleep",
            Self::Restart(_) => "punchd restarts",
        }
    }
}

/// A fault, when it begins, and how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// Since the start.
    pub at: Duration,
    /// What goes wrong.
    pub fault: Fault,
    /// For how long; nothing if it does not last.
    pub lasts: Duration,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "{at:9.3} s: {:?}", self.fault)?;
        if self.fault.lasts() {
            write!(f, " for {lasts:.3} s")?;
        }
        Ok(())
    }
}

/// The first fault comes no earlier: the machines are connected by then.
pub const BEGIN: Duration = Duration::from_secs(30);
/// From one fault to the next.
const GAP: (u32, u32) = (5_000, 300_000);
/// How long a fault lasts.
const LASTS: (u32, u32) = (200, 180_000);

/// How many signalling servers a seed has.
pub fn servers(seed: u64) -> usize {
    if seed % 4 < 2 { 1 } else { 2 }
}

/// Draws what goes wrong until `end`.
pub fn draw(seed: u64, end: Duration) -> Vec<Trouble> {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed ^ 0x6461_7973));
    let mut troubles: Vec<Trouble> = Vec::new();
    let mut at = BEGIN;
    while at < end {
        let fault = dice.fault(servers(seed));
        // What is broken cannot break once more.
        let is_on = |one: &Trouble| one.fault == fault && one.at + one.lasts >= at;
        if !troubles.iter().any(is_on) {
            let lasts = if fault.lasts() {
                dice.span(LASTS)
            } else {
                Duration::ZERO
            };
            troubles.push(Trouble { at, fault, lasts });
        }
        at += dice.span(GAP);
    }
    troubles
}

/// Choices.
pub(super) struct Dice(pub(super) ChaCha8Rng);

impl Dice {
    /// A number below `end`.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.0.next_u32() % end
    }

    /// One of these.
    pub(super) fn one<T: Copy, const N: usize>(&mut self, of: [T; N]) -> T {
        of[self.0.next_u32() as usize % N]
    }

    /// Milliseconds from one to the other; short spans are as frequent as long ones.
    fn span(&mut self, (least, most): (u32, u32)) -> Duration {
        let part = f64::from(self.0.next_u32()) / f64::from(u32::MAX);
        let ratio = f64::from(most) / f64::from(least);
        Duration::from_secs_f64(f64::from(least) * ratio.powf(part) / 1000.0)
    }

    fn fault(&mut self, servers: usize) -> Fault {
        let side = self.one([Side::A, Side::B]);
        let server = self.0.next_u32() as usize % servers;
        match self.below(14) {
            0 | 1 => Fault::Reboot(side),
            2 => Fault::Renumber(side),
            3 | 4 => Fault::Move(side),
            5 => Fault::Unplug(side),
            6 => Fault::Cut(side),
            7 => Fault::Block(side),
            8 => Fault::Between,
            9 => Fault::Loss(side),
            10 => Fault::Server(server),
            11 => Fault::Stun,
            12 => Fault::Sleep(side),
            _ => Fault::Restart(side),
        }
    }
}
