//! What comes in from outside: data messages to their sessions, handshakes to those who perform them, checks to the connector.

use std::iter::Peekable;
use std::time::Instant;

use punch_connect::{Path, RelayPath, TcpPath, notes, over_tcp};
use punch_packet::PeerHandle;
use punch_stun_protocol::is_stun;
use punch_wireguard::data_index;

use crate::handshakes::JobDone;
use crate::lane::Lane;
use crate::reply_to::ReplyTo;
use crate::report::DropReason;
use crate::roster::Roster;

/// See the module.
pub(crate) struct Reception<'a> {
    pub(crate) roster: &'a mut Roster,
    pub(crate) lane: &'a mut Lane,
}

impl Reception<'_> {
    /// Datagrams from one place have come.
    pub(crate) fn take<'b>(
        &mut self,
        from: ReplyTo,
        datagrams: impl Iterator<Item = &'b [u8]>,
        now: Instant,
    ) {
        let mut datagrams = datagrams.peekable();
        while let Some(datagram) = datagrams.peek() {
            match data_index(datagram) {
                Some(session) => self.open_run(session, from.path, &mut datagrams, now),
                None => {
                    self.handle_control(from, datagram, now);
                    datagrams.next();
                }
            }
        }
    }

    /// Packets have come over a relay link: where there is none, they are nobody's.
    pub(crate) fn take_link<'b>(
        &mut self,
        link: RelayPath,
        packets: impl Iterator<Item = &'b [u8]>,
        now: Instant,
    ) {
        let Some(owner) = self.roster.connector.link_owner(link) else {
            packets.for_each(|_| self.lane.drops.count(DropReason::NotForUs));
            return;
        };
        self.take(ReplyTo::link(Path::Relayed(link), owner), packets, now);
    }

    /// Datagrams have come over a TCP connection: whoever is at its other end says nothing before a check or an
    /// answer that shows that it is the peer.
    pub(crate) fn take_tcp<'b>(
        &mut self,
        path: TcpPath,
        datagrams: impl Iterator<Item = &'b [u8]>,
        now: Instant,
    ) {
        let mut datagrams = datagrams.peekable();
        let is_authentic = over_tcp::is_authentic(&self.roster.connector, path);
        if let Some(first) = datagrams.next_if(|_| !is_authentic) {
            let connector = &mut self.roster.connector;
            // It has had its chance: more of the same would only cost time.
            if !over_tcp::handle_message(connector, path, first, now) {
                self.lane.drops.count(DropReason::NotForUs);
                return over_tcp::refuse(connector, path, now);
            }
        }
        // A connection that was not refused is a peer's.
        if let Some(owner) = over_tcp::owner(&self.roster.connector, path) {
            self.take(ReplyTo::link(Path::Tcp(path), owner), datagrams, now);
        }
        over_tcp::finish(&mut self.roster.connector, now);
    }

    /// Opens the data messages of this session at the head of `datagrams`.
    fn open_run<'b>(
        &mut self,
        session: u32,
        path: Path,
        datagrams: &mut Peekable<impl Iterator<Item = &'b [u8]>>,
        now: Instant,
    ) {
        // Whoever holds the other end of a link is let in there as itself alone.
        let peer = self.roster.peers.by_session(session);
        if !self.roster.lets_in(path, peer) {
            let is_of_run = |datagram: &&[u8]| data_index(datagram) == Some(session);
            while datagrams.next_if(is_of_run).is_some() {
                self.lane.drops.count(DropReason::NotForUs);
            }
            return;
        }
        let peers = &mut self.roster.peers;
        let authentic = self.lane.open_run(peers, session, path, datagrams, now);
        match path {
            Path::Relayed(link) if authentic.is_some() => {
                self.roster.connector.handle_link_heard(link, now);
            }
            Path::Tcp(path) if authentic.is_some() => {
                over_tcp::handle_heard(&mut self.roster.connector, path, now);
            }
            _ => {}
        }
        if let Some(peer) = authentic {
            self.lane.after_handshake(peers, peer, now);
        }
    }

    /// A datagram that carries no data: STUN, or a handshake.
    fn handle_control(&mut self, from: ReplyTo, datagram: &[u8], now: Instant) {
        let connector = &mut self.roster.connector;
        if notes::is_note(datagram) {
            if !notes::handle_datagram(connector, from.path, datagram, now) {
                self.lane.drops.count(DropReason::NotForUs);
            }
            return;
        }
        let taken = match (is_stun(datagram), from.path) {
            (false, _) => self.roster.handle_handshake(from, datagram, now),
            (true, Path::Direct(path)) => connector
                .handle_stun(path.socket, from.local, path.remote, datagram, now)
                .then_some(())
                .ok_or(DropReason::NotForUs),
            (true, Path::Tcp(path)) => over_tcp::handle_message(connector, path, datagram, now)
                .then_some(())
                .ok_or(DropReason::NotForUs),
            (true, Path::Relayed(link)) => connector
                .handle_link(link, datagram, now)
                .then_some(())
                .ok_or(DropReason::NotForUs),
        };
        if let Err(reason) = taken {
            self.lane.drops.count(reason);
        }
        self.send_handshakes();
    }

    /// A step of a handshake has been performed.
    pub(crate) fn handle_job(&mut self, done: JobDone, now: Instant) {
        let performed = self.roster.handle_job(done, now);
        self.send_handshakes();
        if let Some(reason) = performed.dropped {
            self.lane.drops.count(reason);
        }
        if let Some(peer) = performed.peer {
            self.lane.after_handshake(&mut self.roster.peers, peer, now);
            self.open_held(peer, now);
        }
    }

    /// Opens what has come for keys that were in use by a handshake.
    fn open_held(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.roster.peers.get_mut(handle) else {
            return;
        };
        for (path, datagram) in std::mem::take(&mut peer.held) {
            if let Some(session) = data_index(&datagram) {
                let mut train = [datagram.as_slice()].into_iter().peekable();
                self.open_run(session, path, &mut train, now);
            }
        }
    }

    fn send_handshakes(&mut self) {
        while let Some((to, message)) = self.roster.handshakes.poll_message() {
            self.lane.outbox.push_message(to, &message);
        }
    }
}
