//! A peer made by hand: it can seal whatever it likes.

use std::net::SocketAddr;

use punch_signal_protocol::seal::{Exchange, OpenedOffer, PendingOffer};
use punch_signal_protocol::{
    Candidate, CandidateKind, Capabilities, Credentials, Description, Frame, Identity, Ipv4Range,
    PeerId,
};

pub(crate) struct Bot {
    pub(crate) identity: Identity,
    count: u8,
}

impl Bot {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, count: 0 }
    }

    pub(crate) fn stranger() -> Self {
        Self::new(Identity::from_seed(&[99; 32]))
    }

    fn seed(&mut self) -> [u8; 32] {
        self.count = self.count.wrapping_add(1);
        [self.count; 32]
    }

    pub(crate) fn description(&mut self, stamp: u64, candidates: &[&str]) -> Description {
        let candidate =
            |text: &&str| Candidate::new(CandidateKind::Host, text.parse::<SocketAddr>().unwrap());
        Description {
            stamp,
            credentials: Credentials {
                fragment: [self.count; 8],
                password: self.seed(),
            },
            candidates: candidates.iter().map(candidate).collect(),
            kem: Vec::new(),
            ipv4_range: Some(Ipv4Range::DEFAULT),
            nat: None,
            capabilities: Capabilities::NONE,
        }
    }

    pub(crate) fn offer_with(
        &mut self,
        to: PeerId,
        description: Description,
    ) -> (PendingOffer, Vec<u8>) {
        let seed = self.seed();
        PendingOffer::seal(&self.identity, &to, description, seed).unwrap()
    }

    pub(crate) fn offer(&mut self, to: PeerId, stamp: u64) -> (PendingOffer, Vec<u8>) {
        let description = self.description(stamp, &["203.0.113.50:4000"]);
        self.offer_with(to, description)
    }

    /// Opens an offer and answers it.
    pub(crate) fn answer(
        &mut self,
        from: PeerId,
        offer: &[u8],
        description: Description,
    ) -> (Exchange, Vec<u8>) {
        let (one, two) = (self.seed(), self.seed());
        let opened = OpenedOffer::open(&self.identity, &from, offer, one).unwrap();
        opened.answer(description, two).unwrap()
    }

    /// The frame in which the server delivers an envelope of this bot's.
    pub(crate) fn deliver(&self, envelope: Vec<u8>) -> Frame {
        Frame::Deliver {
            from: self.identity.id(),
            envelope,
        }
    }
}
