//! One invitation, of this machine or followed by it: how far it has come, who has used it, and when it is over.

use std::time::{Duration, Instant};

use punch_api::{AddServer, PairingRole, PairingStage, PairingView, PeerId};
use punch_platform::clock;
use punch_signal_protocol::pairing::{Reply, TurnedAway, Words};
use punch_state::pairing::Terms;

use super::told::Found;
use crate::tasks::Task;

/// After its time an invitation still tells newcomers for so long that they are too late.
pub(super) const LINGER: Duration = Duration::from_secs(600);
const NOBODY: &str = "nobody answers to this code: every six words are a code, so it may be misspelt; or `punchctl invite` does not wait there any more; or the two machines have no place where they meet: one network, a signalling server that both use, or the public DHT (on both: punchctl server add public)";

pub(super) struct Pairing {
    pub(super) number: u32,
    pub(super) role: PairingRole,
    pub(super) stage: PairingStage,
    pub(super) words: Words,
    pub(super) terms: Terms,
    /// Whether the servers that the inviter names are used.
    pub(super) add_servers: bool,
    pub(super) expires: Instant,
    pub(super) expires_at_ms: u64,
    /// The newcomer that has used the code, and what it was told.
    pub(super) used: Option<(PeerId, Reply)>,
    pub(super) found: Found,
    pub(super) trouble: Option<String>,
    pub(super) task: Option<Task>,
}

impl Pairing {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, PairingStage::Preparing | PairingStage::Waiting)
    }

    /// Whether the other machine has become a peer by it, under the name of these terms.
    pub(super) fn has_named(&self, terms: &Terms) -> bool {
        self.found.peer.is_some() && self.found.peer == terms.name
    }

    pub(super) fn fail(&mut self, text: String) {
        self.stage = PairingStage::Failed;
        self.trouble = Some(text);
        self.task = None;
    }

    /// What a newcomer is told at once; `None` if it is the first one, and in time.
    pub(super) fn receive(&self, id: PeerId, own: PeerId) -> Option<Reply> {
        if id == own {
            return Some(Reply::TurnedAway(TurnedAway::Oneself));
        }
        match &self.used {
            // A newcomer that asks again has not heard the answer.
            Some((user, reply)) if *user == id => Some(reply.clone()),
            Some(_) => Some(Reply::TurnedAway(TurnedAway::Used)),
            None if self.is_open() && clock::now() < self.expires => None,
            None => Some(Reply::TurnedAway(TurnedAway::Expired)),
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match (self.is_open(), &self.task) {
            (true, _) => Some(self.expires),
            (false, Some(_)) => Some(self.expires + LINGER),
            (false, None) => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.is_open() && now >= self.expires {
            match self.role {
                PairingRole::Inviter => self.stage = PairingStage::Expired,
                PairingRole::Newcomer => {
                    let text = match self.trouble.take() {
                        Some(trouble) => format!("no server was reached: {trouble}"),
                        None => NOBODY.to_owned(),
                    };
                    self.fail(text);
                }
            }
        }
        if !self.is_open() && now >= self.expires + LINGER {
            self.task = None;
        }
    }

    pub(super) fn view(&self) -> PairingView {
        let servers = self.found.servers.iter().map(|address| AddServer {
            kind: address.kind(),
            address: address.as_str().to_owned(),
        });
        let asked = self.role == PairingRole::Inviter;
        PairingView {
            number: self.number,
            role: self.role.into(),
            stage: self.stage.into(),
            peer: self.found.peer.clone(),
            id: self.found.id,
            forwards: match asked {
                true => self.terms.forwards.clone(),
                false => self.found.forwards.clone(),
            },
            host: if asked {
                self.terms.host
            } else {
                self.found.host
            },
            servers: servers.collect(),
            expires_at_ms: self.expires_at_ms,
            trouble: self.trouble.clone(),
        }
    }
}
