//! What comes in that carries no data, and the handshakes: which of them begin, and what becomes of their steps.

use std::net::IpAddr;
use std::time::Instant;

use punch_connect::{Path, draw};
use punch_packet::PeerHandle;
use punch_stun_protocol::is_stun;
use punch_traversal::{DirectPath, Transmit};

use super::Engine;
use crate::report::DropReason;
use crate::session::{Admission, Asked, Done, Origin, Owner, Session, Work, WorkDone};

/// Handshakes of others that are worked on at once; beyond that they are lost, and come again.
const MAX_ASKED: usize = 8;

impl Engine {
    /// A step of a handshake: hand what comes of it to [`Self::handle_work`]. There are never more than 8 of strangers and one
    /// for each session under way.
    pub fn poll_work(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// A step of a handshake has been done.
    pub fn handle_work(&mut self, done: WorkDone, now: Instant) {
        match done.0 {
            Done::Begun { owner, begun } => {
                let message = begun.as_ref().and_then(|work| work.message.clone());
                let wanted = self
                    .session(owner)
                    .is_some_and(|session| session.handle_begun(begun));
                let path = self.peers.get(&owner.peer).and_then(|peer| peer.path);
                if let (true, Some(message), Some(Path::Direct(path))) = (wanted, message, path) {
                    self.reply(Origin { path, local: None }, message.to_vec());
                }
            }
            Done::Identified(asked) => {
                self.asked = self.asked.saturating_sub(1);
                match asked {
                    Some(asked) => self.answer(asked, now),
                    None => self.drop_packet(DropReason::NotForUs),
                }
            }
            Done::Answered {
                owner,
                origin,
                answer,
            } => {
                let Some((session, answer)) = self.session(owner).zip(answer) else {
                    return;
                };
                let message = answer.message.to_vec();
                // It moves no path: an initiation may be a copy of an old one, and the peer is where it uses the new keys.
                if session.handle_answered(answer, now) {
                    self.reply(origin, message);
                }
            }
            Done::Finished {
                owner,
                origin,
                result,
            } => {
                let seed = self.seed();
                let Some(session) = self.session(owner) else {
                    return;
                };
                let finished = session.handle_finished(result, now);
                let next = session.finish_next(seed);
                self.work.extend(next);
                if finished {
                    self.settle_path(owner.peer, origin.path);
                    self.after_handshake(owner.peer, now);
                } else {
                    self.drop_packet(DropReason::NotForUs);
                }
            }
        }
    }

    /// A datagram from outside that carries no data: STUN or a handshake.
    pub(super) fn handle_control(
        &mut self,
        path: DirectPath,
        local: Option<IpAddr>,
        datagram: &[u8],
        now: Instant,
    ) {
        let DirectPath {
            socket,
            remote: from,
        } = path;
        if is_stun(datagram) {
            if !self
                .connector
                .handle_stun(socket, local, from, datagram, now)
            {
                self.drop_packet(DropReason::NotForUs);
            }
            return;
        }
        let origin = Origin { path, local };
        let known = self.places.contains(&from);
        match self.gate.admit(from, known, datagram, &mut self.rng, now) {
            Admission::Overload => self.drop_packet(DropReason::UnderLoad),
            Admission::Initiation(_) if self.asked >= MAX_ASKED => {
                self.drop_packet(DropReason::UnderLoad);
            }
            Admission::Initiation(message) => {
                self.asked += 1;
                let seed = self.seed();
                let work = self.gate.identify(message, origin, seed);
                self.work.push_back(work);
            }
            Admission::For(index) => {
                if !self.handle_answer(index, origin, datagram, now) {
                    self.drop_packet(DropReason::NotForUs);
                }
            }
            Admission::Cookie(reply) => {
                self.drop_packet(DropReason::UnderLoad);
                self.reply(origin, reply);
            }
            Admission::Refused => self.drop_packet(DropReason::NotForUs),
        }
    }

    /// A handshake's answer or a cookie for the session with this index; returns whether it makes sense.
    fn handle_answer(&mut self, index: u32, origin: Origin, datagram: &[u8], now: Instant) -> bool {
        let seed = self.seed();
        let handle = self.by_index.get(&index);
        let peer = handle.and_then(|handle| self.peers.get_mut(handle));
        let Some(session) = peer.and_then(|peer| peer.tunnel.by_index(index)) else {
            return false;
        };
        match session.finish(datagram, origin, seed) {
            Some(work) => {
                self.work.push_back(work);
                true
            }
            None => session.handle_cookie(datagram, now),
        }
    }

    /// A peer asks for new keys. It does not say for which session.
    fn answer(&mut self, asked: Asked, now: Instant) {
        let seeds = [self.seed(), self.seed()];
        let handle = self.by_key.get(&asked.public);
        let Some(peer) = handle.and_then(|handle| self.peers.get_mut(handle)) else {
            self.drop_packet(DropReason::NotForUs);
            return;
        };
        let mut asked = asked;
        let mut answered = false;
        for (session, seed) in peer.tunnel.responders().zip(seeds) {
            let copy = asked.copy();
            let this = std::mem::replace(&mut asked, copy);
            if let Some(work) = session.answer(this, seed, now) {
                answered = true;
                self.work.push_back(work);
            }
        }
        if !answered {
            self.drop_packet(DropReason::NotForUs);
        }
    }

    /// Lets the sessions with a peer begin the handshakes that they want.
    pub(super) fn begin_handshakes(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        if peer.path.is_none() || !peer.tunnel.wants_handshake(now) {
            return;
        }
        let wall = self.connector.wall(now);
        for session in peer.tunnel.responders() {
            if session.wants_handshake(now) {
                let seed = draw(&mut self.rng);
                self.work.extend(session.begin(wall, seed, now));
            }
        }
    }

    /// New keys may be there: move to them, and send what waited for them.
    pub(super) fn after_handshake(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let (moved, gone) = peer.tunnel.promote(now);
        if peer.tunnel.established() {
            peer.last_established = Some(now);
            peer.lately_established = true;
        }
        for index in gone {
            self.by_index.remove(&index);
        }
        let waiting = peer
            .tunnel
            .sealer()
            .is_some_and(|session| session.has_waiting(now));
        self.unannounced |= moved || waiting;
        let (Some(path), Some(session)) = (peer.path, peer.tunnel.sealer()) else {
            return;
        };
        while session.has_waiting(now) {
            self.outbox
                .push_with(path, |out| session.seal_waiting(now, out));
        }
    }

    fn session(&mut self, owner: Owner) -> Option<&mut Session> {
        let peer = self.peers.get_mut(&owner.peer)?;
        peer.tunnel.by_index(owner.session)
    }

    fn settle_path(&mut self, handle: PeerHandle, path: DirectPath) {
        if let Some(peer) = self.peers.get_mut(&handle) {
            peer.settle_path(path);
        }
    }

    fn reply(&mut self, origin: Origin, bytes: Vec<u8>) {
        self.outbox.push(Transmit {
            socket: origin.path.socket,
            to: origin.path.remote,
            source: origin.local,
            ttl: None,
            bytes,
        });
    }

    fn seed(&mut self) -> [u8; 32] {
        draw(&mut self.rng)
    }
}
