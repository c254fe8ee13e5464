//! Datagrams of the LAN: how two machines that know each other meet in one network without any server.
//!
//! A datagram is `tag 16 ‖ nonce 16 ‖ masked 16 ‖ proof 16`, and behind an envelope's header the envelope. Tag, mask and proof come from
//! a secret of the pair, the minute and the author, so that strangers see nothing but random bytes, of which no two minutes have any in common;
//! the proof covers the address that the datagram leaves from, so that it is worth nothing from anywhere else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use hkdf::Hkdf;
use hkdf::hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::MAX_ENVELOPE;
use crate::rendezvous::{Author, PairSecret};

/// Where beacons go over IPv4: a group of our own, of the organization-local scope (RFC 2365 §6.2), sent with a TTL of 1.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 112, 117);
/// Where beacons go over IPv6: a group of our own of the link-local scope (RFC 4291 §2.7).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x7075, 0x6e63);
/// The UDP port of the groups, which beacons come from and go to.
pub const PORT: u16 = 45117;
/// The length of every beacon, and of what stands before an envelope, in bytes.
pub const HEADER: usize = 64;
/// No datagram is longer, in bytes.
pub const MAX_DATAGRAM: usize = HEADER + MAX_ENVELOPE;
/// How long one tag is used.
pub const PERIOD_MS: u64 = 60_000;

const PURPOSE: &str = "lan";
const TAG_LENGTH: usize = 16;
const NONCE_AT: usize = 16;
const MASKED_AT: usize = 32;
const PROOF_AT: usize = 48;

/// What a receiver knows a datagram by.
pub type Tag = [u8; TAG_LENGTH];
/// What tells a datagram from all others.
pub type Nonce = [u8; 16];

/// What a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// "I am here", to all; whoever knows its author answers.
    Call,
    /// "I am here, too", to the author of a call alone. It is never answered.
    Answer,
    /// An envelope follows.
    Envelope,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Call => 1,
            Self::Answer => 2,
            Self::Envelope => 3,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::Call, Self::Answer, Self::Envelope]
            .into_iter()
            .find(|kind| kind.number() == number)
    }
}

/// What a datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Said {
    /// What it is for.
    pub kind: Kind,
    /// The UDP port where its author takes what is for that machine alone.
    pub port: NonZeroU16,
    /// A random number of the author's, another one after each start and each change of its network.
    pub instance: u32,
}

/// The minute of a wall clock, in milliseconds since 1970.
pub fn minute(wall_ms: u64) -> u64 {
    wall_ms / PERIOD_MS
}

/// The tag that datagrams begin with; `None` for what is too short to be one, or too long.
pub fn tag(datagram: &[u8]) -> Option<Tag> {
    let fits = (HEADER..=MAX_DATAGRAM).contains(&datagram.len());
    datagram.first_chunk().copied().filter(|_| fits)
}

/// What makes a datagram of one pair, one minute and one author, and opens it. Wiped when dropped.
#[derive(Clone)]
pub struct Keys {
    secret: Zeroizing<[u8; 32]>,
    tag: Tag,
}

impl Keys {
    /// The keys for what `author` says in a [`minute`].
    pub fn new(pair: &PairSecret, minute: u64, author: Author) -> Self {
        let secret = pair.derive(PURPOSE, minute, author);
        let mut tag = Tag::default();
        expand(&secret, &[b"tag"], &mut tag);
        Self { secret, tag }
    }

    /// What datagrams begin with.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// A datagram that leaves from `source`. The envelope is empty for a beacon.
    pub fn seal(&self, said: Said, nonce: Nonce, source: IpAddr, envelope: &[u8]) -> Vec<u8> {
        let keys = OneKeys::new(&self.secret, &nonce);
        let [high, low] = said.port.get().to_be_bytes();
        let mut masked = [0; 16];
        let [i0, i1, i2, i3] = said.instance.to_be_bytes();
        let body = [said.kind.number(), 0, high, low, i0, i1, i2, i3];
        for (to, from) in masked.iter_mut().zip(body) {
            *to = from;
        }
        keys.mask(&mut masked);
        let mut datagram = Vec::with_capacity(HEADER + envelope.len());
        datagram.extend_from_slice(&self.tag);
        datagram.extend_from_slice(&nonce);
        datagram.extend_from_slice(&masked);
        let proof = keys
            .proof(&datagram, source, envelope)
            .finalize()
            .into_bytes();
        datagram.extend(proof.into_iter().take(HEADER - PROOF_AT));
        datagram.extend_from_slice(envelope);
        datagram
    }

    /// Opens a datagram with this tag that has come from `source`: what it says, its nonce, and the envelope. `None` for what its author
    /// has not sent from there, and what this version does not know.
    pub fn open<'a>(&self, datagram: &'a [u8], source: IpAddr) -> Option<(Said, Nonce, &'a [u8])> {
        if tag(datagram)? != self.tag {
            return None;
        }
        let (header, envelope) = datagram.split_at_checked(HEADER)?;
        let (said, proof) = header.split_at_checked(PROOF_AT)?;
        let nonce = *said.get(NONCE_AT..MASKED_AT)?.first_chunk()?;
        let keys = OneKeys::new(&self.secret, &nonce);
        keys.proof(said, source, envelope)
            .verify_truncated_left(proof)
            .ok()?;
        let mut body = *said.get(MASKED_AT..)?.first_chunk::<16>()?;
        keys.mask(&mut body);
        let [number, _, high, low, i0, i1, i2, i3, ..] = body;
        let kind = Kind::of(number)?;
        if envelope.is_empty() != (kind != Kind::Envelope) {
            return None;
        }
        let said = Said {
            kind,
            port: NonZeroU16::new(u16::from_be_bytes([high, low]))?,
            instance: u32::from_be_bytes([i0, i1, i2, i3]),
        };
        Some((said, nonce, envelope))
    }
}

/// The keys of one datagram.
struct OneKeys {
    mask: Zeroizing<[u8; 16]>,
    /// A whole block of SHA-256.
    proof: Zeroizing<[u8; 64]>,
}

impl OneKeys {
    fn new(secret: &[u8; 32], nonce: &Nonce) -> Self {
        let mut keys = Self {
            mask: Zeroizing::default(),
            proof: Zeroizing::new([0; 64]),
        };
        expand(secret, &[b"mask", nonce], &mut *keys.mask);
        expand(secret, &[b"proof", nonce], &mut *keys.proof);
        keys
    }

    fn mask(&self, bytes: &mut [u8; 16]) {
        for (byte, mask) in bytes.iter_mut().zip(*self.mask) {
            *byte ^= mask;
        }
    }

    /// HMAC-SHA256 (RFC 2104) over all that stands before the proof, the source, and the envelope.
    fn proof(&self, said: &[u8], source: IpAddr, envelope: &[u8]) -> Hmac<Sha256> {
        let source = match source {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut mac = <Hmac<Sha256> as Mac>::new((&*self.proof).into());
        mac.update(said);
        mac.update(&source.octets());
        mac.update(envelope);
        mac
    }
}

fn expand(secret: &[u8; 32], info: &[&[u8]], into: &mut [u8]) {
    if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(secret) {
        // Fails for more than 8,160 bytes only (RFC 5869 §2.3).
        let _ = hkdf.expand_multi_info(info, into);
    }
}
