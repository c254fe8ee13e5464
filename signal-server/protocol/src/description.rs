//! What a sealed envelope contains once it is open: an offer's or answer's description, or a later note.
//!
//! Fields are `tag, u16 length, value`. What a later version adds is passed over: fields with unknown tags, candidates of
//! unknown kinds and families, unknown values of a NAT summary.

use std::fmt;
use std::net::Ipv4Addr;

use zeroize::Zeroize;

use crate::codec::{DecodeError, Reader, put_field};
use crate::{Candidate, Capabilities, Ipv4Range, NatSummary, Prediction, SearchFacts};

const VERSION: u8 = 1;
/// A description with more candidates than this is refused.
pub const MAX_CANDIDATES: usize = 32;

mod tag {
    pub(super) const STAMP: u8 = 1;
    pub(super) const CREDENTIALS: u8 = 2;
    pub(super) const CANDIDATES: u8 = 3;
    pub(super) const KEM: u8 = 4;
    pub(super) const IPV4_RANGE: u8 = 5;
    pub(super) const NAT: u8 = 6;
    pub(super) const CAPABILITIES: u8 = 7;
    pub(super) const SEARCH: u8 = 8;
    pub(super) const KEM_FOLLOWS: u8 = 9;
}

/// Short-term credentials for connectivity checks (RFC 8445 §5.3), one set per offer or answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Names the agent that a check is for; not secret.
    pub fragment: [u8; 8],
    /// The MESSAGE-INTEGRITY key of checks sent to the one who made it.
    pub password: [u8; 32],
}

impl Drop for Credentials {
    fn drop(&mut self) {
        self.password.zeroize();
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("fragment", &self.fragment)
            .finish_non_exhaustive()
    }
}

/// What an offer or an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Milliseconds since 1970 at the sender, strictly growing: a smaller or equal one is a replay.
    pub stamp: u64,
    /// How checks to the sender are authenticated.
    pub credentials: Credentials,
    /// Where the sender may be reached, at most [`MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// The ML-KEM-768 encapsulation key (offer, 1,184 bytes) or ciphertext (answer, 1,088 bytes); empty in a compact description.
    pub kem: Vec<u8>,
    /// The range of the sender's overlay IPv4 address; `None` when it has none.
    pub ipv4_range: Option<Ipv4Range>,
    /// The sender's NAT and what it is ready to spend; `None` from a version that does not tell.
    pub nat: Option<NatSummary>,
    /// What the sender can do beyond version 1 of the protocol; empty from one that does not tell.
    pub capabilities: Capabilities,
}

impl Description {
    /// Whether the ML-KEM exchange is left for later, so that the description fits where there is little room.
    pub fn is_compact(&self) -> bool {
        self.kem.is_empty()
    }

    /// The bytes to seal.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.kem.len() + 24 * self.candidates.len() + 80);
        out.push(VERSION);
        put_field(&mut out, tag::STAMP, &self.stamp.to_be_bytes());
        let mut credentials = [0; 40];
        credentials[..8].copy_from_slice(&self.credentials.fragment);
        credentials[8..].copy_from_slice(&self.credentials.password);
        put_field(&mut out, tag::CREDENTIALS, &credentials);
        credentials.zeroize();
        put_field(
            &mut out,
            tag::CANDIDATES,
            &encode_candidates(&self.candidates),
        );
        let kem = if self.is_compact() {
            tag::KEM_FOLLOWS
        } else {
            tag::KEM
        };
        put_field(&mut out, kem, &self.kem);
        if let Some(range) = self.ipv4_range {
            let mut value = [0; 5];
            value[..4].copy_from_slice(&range.network().octets());
            value[4] = range.prefix();
            put_field(&mut out, tag::IPV4_RANGE, &value);
        }
        if let Some(nat) = &self.nat {
            put_field(&mut out, tag::NAT, &nat.encode());
            if let Some(search) = nat.search {
                put_field(&mut out, tag::SEARCH, &search.encode());
            }
        }
        if !self.capabilities.is_empty() {
            put_field(&mut out, tag::CAPABILITIES, &self.capabilities.encode());
        }
        out
    }

    /// Reads what [`Self::encode`] of this or of a later version wrote.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let (mut stamp, mut credentials, mut kem) = (None, None, None);
        let (mut candidates, mut ipv4_range, mut nat) = (Vec::new(), None, None);
        let (mut capabilities, mut search) = (Capabilities::default(), None);
        let mut kem_follows = false;
        while !reader.is_empty() {
            let tag = reader.u8()?;
            let length = usize::from(reader.u16()?);
            let mut value = Reader::new(reader.bytes(length)?);
            match tag {
                tag::STAMP => stamp = Some(value.u64()?),
                tag::CREDENTIALS => {
                    credentials = Some(Credentials {
                        fragment: value.array()?,
                        password: value.array()?,
                    });
                }
                tag::CANDIDATES => candidates = decode_candidates(&mut value)?,
                tag::KEM => kem = Some(value.rest().to_vec()),
                tag::KEM_FOLLOWS => kem_follows = true,
                tag::IPV4_RANGE => {
                    let network = Ipv4Addr::from(value.array::<4>()?);
                    let range = Ipv4Range::new(network, value.u8()?)
                        .map_err(|_| DecodeError::BadValue("IPv4 range"))?;
                    ipv4_range = Some(range);
                }
                tag::NAT => nat = Some(NatSummary::decode(&mut value)?),
                tag::SEARCH => search = Some(SearchFacts::decode(&mut value)?),
                tag::CAPABILITIES => capabilities = Capabilities::decode(value.rest())?,
                _ => {
                    value.rest();
                }
            }
            value.finish()?;
        }
        if let Some(nat) = &mut nat {
            nat.search = search;
        }
        Ok(Self {
            stamp: stamp.ok_or(DecodeError::Missing("stamp"))?,
            credentials: credentials.ok_or(DecodeError::Missing("credentials"))?,
            candidates,
            kem: kem_of(kem, kem_follows)?,
            ipv4_range,
            nat,
            capabilities,
        })
    }
}

/// The field for the ML-KEM exchange: either it is there, or the word that it follows; both would be neither kind of description.
fn kem_of(kem: Option<Vec<u8>>, follows: bool) -> Result<Vec<u8>, DecodeError> {
    match (kem, follows) {
        (None, true) => Ok(Vec::new()),
        (Some(kem), false) if !kem.is_empty() => Ok(kem),
        (None, false) => Err(DecodeError::Missing("key encapsulation")),
        (Some(_), _) => Err(DecodeError::BadValue("key encapsulation")),
    }
}

/// What follows an offer and its answer, on the same sealed exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// More candidates, found since.
    Candidates(Vec<Candidate>),
    /// The port that the sender's NAT has just given out.
    Prediction(Prediction),
    /// The sender has closed the connection (`punchctl down`, or it is stopping).
    Bye,
    /// The sender's program is being replaced: it is back on the same path within so many seconds, or it has said goodbye. Only for
    /// a peer with [`Capability::WaitsForReturn`](crate::Capability::WaitsForReturn).
    Away {
        /// 1 to [`MAX_AWAY`].
        seconds: u8,
    },
    /// The encapsulation key of ML-KEM-768 ([`KEM_KEY`] bytes), from the one whose compact offer has left it out.
    KemKey(Vec<u8>),
    /// The ciphertext of ML-KEM-768 ([`KEM_CIPHERTEXT`] bytes) that answers the key.
    KemCiphertext(Vec<u8>),
}

/// Bytes of an encapsulation key of ML-KEM-768 (FIPS 203 §8).
pub const KEM_KEY: usize = 1184;
/// Bytes of a ciphertext of ML-KEM-768 (FIPS 203 §8).
pub const KEM_CIPHERTEXT: usize = 1088;

/// The longest time, in seconds, that a peer may ask to be waited for ([`Note::Away`]).
pub const MAX_AWAY: u8 = 60;

impl Note {
    /// The bytes to seal.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Candidates(candidates) => {
                let mut out = vec![1];
                out.extend(encode_candidates(candidates));
                out
            }
            Self::Bye => vec![2],
            Self::Prediction(Prediction { round, port }) => {
                let [high, low] = port.to_be_bytes();
                vec![3, *round, high, low]
            }
            Self::Away { seconds } => vec![4, *seconds],
            Self::KemKey(key) => [&[5], key.as_slice()].concat(),
            Self::KemCiphertext(ciphertext) => [&[6], ciphertext.as_slice()].concat(),
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let note = match reader.u8()? {
            1 => Self::Candidates(decode_candidates(&mut reader)?),
            2 => Self::Bye,
            3 => Self::Prediction(Prediction {
                round: reader.u8()?,
                port: reader.u16()?,
            }),
            4 => match reader.u8()? {
                seconds @ 1..=MAX_AWAY => Self::Away { seconds },
                _ => return Err(DecodeError::BadValue("time away")),
            },
            5 => Self::KemKey(reader.bytes(KEM_KEY)?.to_vec()),
            6 => Self::KemCiphertext(reader.bytes(KEM_CIPHERTEXT)?.to_vec()),
            other => return Err(DecodeError::UnknownMessage(other)),
        };
        reader.finish()?;
        Ok(note)
    }
}

fn encode_candidates(candidates: &[Candidate]) -> Vec<u8> {
    let mut out = Vec::new();
    for candidate in candidates.iter().take(MAX_CANDIDATES) {
        candidate.encode(&mut out);
    }
    out
}

/// Reads candidates up to the end. Those that only a newer version knows count towards the bound, too.
fn decode_candidates(reader: &mut Reader<'_>) -> Result<Vec<Candidate>, DecodeError> {
    let mut candidates = Vec::new();
    let mut count = 0;
    while !reader.is_empty() {
        count += 1;
        if count > MAX_CANDIDATES {
            return Err(DecodeError::TooLong("candidates"));
        }
        candidates.extend(Candidate::decode(reader)?);
    }
    Ok(candidates)
}
