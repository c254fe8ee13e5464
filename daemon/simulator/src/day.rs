//! A day in which much goes wrong, for two machines that shall be connected: routers forget and change their addresses, machines move,
//! sleep and start anew, lines are cut and lose packets, servers die and come back. After each fault packets must pass again within
//! its bound, as long as there is a way; while nothing goes wrong none may be lost, whatever path is found meanwhile; and no table may
//! grow from the first hour to the last.
//!
//! * `program`: what goes wrong and when; [`program::draw`] makes it from a seed,
//! * `homes`: the networks that each machine moves between, `lines`: the signalling servers with their relay,
//! * `scene`: what else a seed decides, `stun`: the STUN server, `plights`: what is wrong at the moment,
//! * `earth`: the network, the machines and the time, with `agenda`: what is due when,
//! * `judge`: what must pass by when, `chronicle`: what has happened.

mod agenda;
mod chronicle;
mod earth;
mod homes;
mod judge;
mod lines;
mod plights;
pub mod program;
mod scene;
mod stun;

use std::time::{Duration, Instant};

pub use chronicle::Hours;
pub use judge::Findings;
use program::{Fault, Trouble};
pub use scene::{Scene, Traffic};

use earth::Earth;

/// What came of a day.
#[derive(Debug)]
pub struct Outcome {
    /// Where the machines were, and what was between them.
    pub scene: Scene,
    /// What became of the packets.
    pub findings: Findings,
    /// How much the tables held in each hour.
    pub hours: Hours,
    /// What went wrong when, and what the machines believed, in seconds.
    pub story: Vec<(f64, String)>,
}

/// Plays `troubles` in the scene of this seed, until `end`.
pub fn play(seed: u64, troubles: &[Trouble], end: Duration, start: Instant) -> Outcome {
    let mut earth = Earth::new(scene::set(seed, start), start);
    earth.plan(troubles);
    earth.run(end);
    let (findings, scene, hours, story) = earth.finish();
    Outcome {
        scene,
        findings,
        hours,
        story,
    }
}

/// Without a relay a fault that lasts is noticed by offers alone, and these come after pauses of up to a minute, a quarter more or
/// less, and each may be lost.
const BACKOFF: Duration = Duration::from_secs(80);
/// Each fault that comes before packets pass again may begin all of it anew.
const ONE_MORE: Duration = Duration::from_secs(5);

/// Packets pass again so soon after a fault, or after its end, while they flow and there is a way.
pub fn bound(fault: Fault, relays: bool) -> Duration {
    let seconds = match fault {
        // The relay takes over when the direct path is seen to be dead.
        Fault::Reboot(_) | Fault::Cut(_) | Fault::Block(_) | Fault::Between => 7,
        Fault::Renumber(_) | Fault::Move(_) => 6,
        Fault::Unplug(_) | Fault::Sleep(_) | Fault::Restart(_) => 4,
        Fault::Server(_) => 3,
        // A path that serves goes on.
        Fault::Loss(_) | Fault::Stun => 0,
    };
    let backoff = if relays { Duration::ZERO } else { BACKOFF };
    Duration::from_secs(seconds) + backoff
}
