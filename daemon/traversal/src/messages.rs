//! The messages between one end of an attempt and the other: Binding requests and their answers under the credentials that the offer
//! and the answer have carried.

use std::net::{Ipv4Addr, SocketAddr};

use punch_signal_protocol::{Candidate, CandidateKind, Credentials};
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::name::{USERNAME_LENGTH, username};
use crate::request::transaction;

/// Reads and writes one end's messages; what depends on the credentials alone is computed once.
#[derive(Debug)]
pub(crate) struct Messages {
    local: Credentials,
    remote: Credentials,
    /// USERNAME of the peer's checks.
    inbound: [u8; USERNAME_LENGTH],
    /// USERNAME of this agent's checks.
    outbound: [u8; USERNAME_LENGTH],
    rng: ChaCha8Rng,
}

impl Messages {
    pub(crate) fn new(local: Credentials, remote: Credentials, seed: u64) -> Self {
        Self {
            inbound: username(&local.fragment, &remote.fragment),
            outbound: username(&remote.fragment, &local.fragment),
            local,
            remote,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The credentials of this side, and those of the peer.
    pub(crate) fn credentials(&self) -> (&Credentials, &Credentials) {
        (&self.local, &self.remote)
    }

    pub(crate) fn fragment(&self) -> [u8; 8] {
        self.local.fragment
    }

    /// Whether a check with this USERNAME is the peer's for this agent.
    pub(crate) fn is_addressed(&self, username: &[u8]) -> bool {
        username == self.inbound
    }

    /// Whether the peer has made this request.
    pub(crate) fn is_request(&self, message: &Message<'_>) -> bool {
        message.class == Class::Request && message.verify_integrity(&self.local.password)
    }

    /// Whether the peer has made this answer to a request.
    pub(crate) fn is_success(&self, message: &Message<'_>) -> bool {
        message.class == Class::Success && message.verify_integrity(&self.remote.password)
    }

    /// A number from 0 to 1.
    pub(crate) fn jitter(&mut self) -> f64 {
        f64::from(self.rng.next_u32()) / f64::from(u32::MAX)
    }

    /// A fresh transaction.
    pub(crate) fn transaction(&mut self) -> TransactionId {
        transaction(&mut self.rng)
    }

    /// The answer to a check that came from `from`.
    pub(crate) fn answer(&self, transaction: TransactionId, from: SocketAddr) -> Vec<u8> {
        Writer::new(Class::Success, transaction)
            .xor_mapped(from)
            .finish_with_integrity(&self.local.password)
    }

    /// A check, and what this end's address is worth if the peer has not heard of it (RFC 8445 §7.1.1).
    pub(crate) fn check(
        &self,
        transaction: TransactionId,
        worth: Candidate,
        nominate: bool,
    ) -> Vec<u8> {
        let writer = self.request(transaction, worth);
        let writer = if nominate { writer.nominate() } else { writer };
        writer.finish_with_integrity(&self.remote.password)
    }

    /// A check of `length` bytes, a multiple of four: a datagram of that length gets through if it is answered.
    pub(crate) fn padded_check(
        &self,
        transaction: TransactionId,
        worth: Candidate,
        length: usize,
    ) -> Vec<u8> {
        self.request(transaction, worth)
            .pad_with_integrity_to(length)
            .finish_with_integrity(&self.remote.password)
    }

    fn request(&self, transaction: TransactionId, worth: Candidate) -> Writer {
        Writer::new(Class::Request, transaction)
            .username(&self.outbound)
            .priority(worth.priority())
    }

    /// A check that any pair over IPv4 could send; the same bytes serve a whole search.
    pub(crate) fn any_check(&self, transaction: TransactionId) -> Vec<u8> {
        let anywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let worth = Candidate::new(CandidateKind::PeerReflexive, anywhere);
        self.check(transaction, worth, false)
    }
}
