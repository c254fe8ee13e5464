//! A machine among the worst that others may be: a peer, a signalling server and a STUN server that lie, flood, repeat and fall
//! silent, as a program drawn from a seed says, and beside them an honest peer whose tunnel has to stand.
//!
//! Three machines run the daemon's own engine: the victim, its honest peer, and the malicious peer, which behaves for as long as no
//! deed of its program says otherwise, so that deep states are reached. What the victim sends to whom, what its tables hold and how
//! much each turn makes it do is counted against the bounds in threat-model.md, part 5.
//!
//! * `program`: what is done and when; [`program::draw`] makes it from a seed,
//! * `deeds`: how it is done, `mallory`: what the peer needs for that, `packets`: what it sends through its tunnel,
//! * `cast`: who plays, `scene`: what stands between them, `arena`: the network, the servers and the time,
//! * `tally`: what is counted.

mod arena;
mod cast;
mod deeds;
mod mallory;
pub(crate) mod packets;
pub mod program;
mod scene;
mod tally;

use std::time::{Duration, Instant};

use punch_engine::TableSizes;

pub use crate::machine::Steps;
use program::Move;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Packets of the honest tunnel that have arrived, at the victim and at its honest peer.
    pub heard: [usize; 2],
    /// All that went beyond a bound.
    pub offenses: Vec<String>,
    /// The most that one turn has made the victim do.
    pub most: Steps,
    /// The largest tables.
    pub sizes: TableSizes,
    /// The most packets that one address has got that the victim had no reason of its own to send to, within a minute.
    pub stranger: u64,
    /// The most searches for one peer that have begun within a minute.
    pub searches: usize,
    /// The most frames to the honest server in a second.
    pub frames: u64,
    /// By how many the offers to one peer over one server exceed four and one for each three seconds, in the worst span of time
    /// since the program began.
    pub offers_beyond: usize,
    /// Whether the victim has connected anywhere by TCP.
    pub dialled: bool,
    /// Whether the malicious peer's tunnel stood at any time.
    pub tunnel: bool,
}

/// Plays `moves` in the scene of this seed, until `end`.
pub fn play(seed: u64, moves: &[Move], end: Duration, start: Instant) -> Outcome {
    let mut arena = scene::set(seed, start);
    arena.plan(moves);
    while let Some(one) = arena.run(end) {
        deeds::make(&mut arena, one);
    }
    arena.finish()
}
