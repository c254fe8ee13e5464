//! The channels that are no servers of anybody's: what the controller tells them, and what is known of them.

use std::collections::BTreeSet;

use punch_engine::ServerId;
use punch_engine::lan::Link;
use punch_signal_protocol::{Frame, Identity, PeerId};
use punch_state::State;
use tokio::sync::{mpsc, watch};

use crate::config::LanConfig;
use crate::driver::command::Command;
use crate::signalling::lan::{self, Attach, LanFacts, Room, Wanted};
use crate::tasks::{Spawner, Task};

/// Identities that may wait to be attached.
const ATTACHED: usize = 8;
/// Frames that may wait on either side of one that is attached.
const FRAMES: usize = 16;

/// The networks that this machine is attached to, as a channel.
pub(super) struct LanChannel {
    wanted: watch::Sender<Wanted>,
    facts: watch::Receiver<LanFacts>,
    running: Option<Running>,
}

struct Running {
    server: ServerId,
    attach: mpsc::Sender<Attach>,
    _task: Task,
}

/// Both ends of an identity that is heard in the networks for as long as this is held.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Frames for the channel, as for a server.
    pub(crate) frames: mpsc::Sender<Frame>,
    /// What it brings.
    pub(crate) brings: mpsc::Receiver<Frame>,
}

impl Default for LanChannel {
    fn default() -> Self {
        Self {
            wanted: watch::Sender::default(),
            facts: watch::Sender::default().subscribe(),
            running: None,
        }
    }
}

impl LanChannel {
    /// Starts it, unless the administrator wants none.
    pub(super) fn start(
        &mut self,
        (server, config): (ServerId, LanConfig),
        identity: &Identity,
        driver: &mpsc::Sender<Command>,
        spawner: &Spawner,
    ) {
        if !config.enabled {
            return;
        }
        let (attach, attached) = mpsc::channel(ATTACHED);
        let (facts, facts_out) = watch::channel(LanFacts::default());
        self.facts = facts_out;
        let room = Room {
            server,
            identity: identity.clone(),
            port: config.port,
            driver: driver.clone(),
            wanted: self.wanted.subscribe(),
            attached,
            facts,
        };
        self.running = Some(Running {
            server,
            attach,
            _task: spawner.spawn("lan", lan::run(room)),
        });
    }

    /// The machine is in these networks now.
    pub(super) fn set_links(&self, links: Vec<Link>) {
        self.change(|wanted| &mut wanted.links, links);
    }

    /// The state may have other peers than before.
    pub(super) fn follow(&self, state: &State) {
        let peers = state.peers.values().filter_map(|peer| peer.id());
        self.change(|wanted| &mut wanted.peers, peers.collect());
    }

    fn change<T: PartialEq>(&self, which: fn(&mut Wanted) -> &mut T, to: T) {
        self.wanted.send_if_modified(|wanted| {
            let part = which(wanted);
            let differs = *part != to;
            *part = to;
            differs
        });
    }

    /// Lets another identity be heard in the networks, and hear these peers. `None` where the channel is switched off, or too much is asked.
    pub(crate) fn attach(&self, identity: Identity, peers: BTreeSet<PeerId>) -> Option<Attached> {
        let (frames, frames_out) = mpsc::channel(FRAMES);
        let (brings_in, brings) = mpsc::channel(FRAMES);
        let attach = Attach {
            identity,
            peers,
            frames: frames_out,
            brings: brings_in,
        };
        self.running.as_ref()?.attach.try_send(attach).ok()?;
        Some(Attached { frames, brings })
    }

    /// The number by which the driver knows the channel, unless it is switched off.
    pub(super) fn server(&self) -> Option<ServerId> {
        Some(self.running.as_ref()?.server)
    }

    /// What views show of it, with the number by which the driver knows it, unless it is switched off.
    pub(super) fn facts(&self) -> Option<(ServerId, LanFacts)> {
        let server = self.running.as_ref()?.server;
        Some((server, self.facts.borrow().clone()))
    }
}
