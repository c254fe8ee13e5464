//! Lines that a person carries between two machines: an offer, and its answer.
//!
//! `punch-offer1` or `punch-answer1`, then base32 (RFC 4648 §6, lower case, no padding) of: the sender's identity (32), the receiver's (32), milliseconds since 1970
//! at the sender (8), what tells the offer from others (8), the compact envelope (1 to [`MAX_COMPACT`]), and the first four bytes of the SHA-256 of all before, the word
//! included. The envelope is sealed, and all around it is only to say what is wrong with a line: whoever changes it can make it useless and nothing else.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::PeerId;
use crate::codec::Reader;
use crate::seal::{Kind, MAX_COMPACT};

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const VERSION: char = '1';
const CHECKSUM: usize = 4;
const HEADER: usize = 32 + 32 + 8 + 8;
/// The longest line, in characters, with room for what mail programs add.
pub const MAX_LINE: usize = 8_192;

/// What a line carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasteKind {
    /// An offer.
    Offer,
    /// The answer to one.
    Answer,
}

impl PasteKind {
    fn word(self) -> &'static str {
        match self {
            Self::Offer => "punch-offer",
            Self::Answer => "punch-answer",
        }
    }
}

/// A line, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasteLine {
    /// What the envelope is.
    pub kind: PasteKind,
    /// The machine that has made the line.
    pub from: PeerId,
    /// The machine that it is for.
    pub to: PeerId,
    /// Milliseconds since 1970, by the clock of the machine that has made it.
    pub made_ms: u64,
    /// The offer that this is, or that it answers: [`offer_tag`].
    pub offer: [u8; 8],
    /// The envelope.
    pub envelope: Vec<u8>,
}

/// Why a text is no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasteError {
    /// Nothing of the kind.
    #[error("that is no line of Punch: those begin with punch-offer1 or punch-answer1")]
    NotPunch,
    /// A line of another version.
    #[error(
        "the line is of version {0} of Punch's lines, and this punchd reads version 1: update the older of the two machines"
    )]
    Version(char),
    /// The checksum does not fit.
    #[error(
        "the line is not whole, or was changed on its way: copy it once more, from `punch-` to its last character"
    )]
    Damaged,
    /// Too long for a line.
    #[error("that is too long for a line of Punch, which has at most 1,700 characters")]
    TooLong,
}

/// What tells an offer from others: the first eight bytes of the SHA-256 of its envelope.
pub fn offer_tag(envelope: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(envelope).into();
    let mut tag = [0; 8];
    tag.copy_from_slice(hash.first_chunk::<8>().unwrap_or(&[0; 8]));
    tag
}

fn checksum(kind: PasteKind, bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = Sha256::new();
    hash.update(kind.word());
    hash.update([VERSION as u8]);
    hash.update(bytes);
    let hash: [u8; 32] = hash.finalize().into();
    *hash.first_chunk().unwrap_or(&[0; CHECKSUM])
}

impl fmt::Display for PasteLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(HEADER + self.envelope.len() + CHECKSUM);
        bytes.extend_from_slice(self.from.as_bytes());
        bytes.extend_from_slice(self.to.as_bytes());
        bytes.extend_from_slice(&self.made_ms.to_be_bytes());
        bytes.extend_from_slice(&self.offer);
        bytes.extend_from_slice(&self.envelope);
        let sum = checksum(self.kind, &bytes);
        bytes.extend_from_slice(&sum);
        write!(f, "{}{VERSION}{}", self.kind.word(), encode(&bytes))
    }
}

impl PasteLine {
    /// Reads a line. White space, line breaks and the `>` of quoted mail are passed over wherever they stand, capitals are small letters.
    ///
    /// # Errors
    /// [`PasteError`].
    pub fn read(text: &str) -> Result<Self, PasteError> {
        if text.len() > MAX_LINE {
            return Err(PasteError::TooLong);
        }
        let kept = text.chars().filter(|c| !c.is_whitespace() && *c != '>');
        let text: String = kept.map(|c| c.to_ascii_lowercase()).collect();
        let found = [PasteKind::Offer, PasteKind::Answer]
            .into_iter()
            .find_map(|kind| Some((kind, text.strip_prefix(kind.word())?)));
        let (kind, rest) = found.ok_or(PasteError::NotPunch)?;
        let mut rest = rest.chars();
        match rest.next() {
            Some(VERSION) => {}
            Some(other) if other.is_ascii_digit() => return Err(PasteError::Version(other)),
            Some(_) => return Err(PasteError::NotPunch),
            None => return Err(PasteError::Damaged),
        }
        let bytes = decode(rest.as_str()).ok_or(PasteError::Damaged)?;
        Self::of(kind, &bytes).ok_or(PasteError::Damaged)
    }

    fn of(kind: PasteKind, bytes: &[u8]) -> Option<Self> {
        let (bytes, sum) = bytes.split_last_chunk::<CHECKSUM>()?;
        if *sum != checksum(kind, bytes) {
            return None;
        }
        let mut reader = Reader::new(bytes);
        let from = PeerId::from_bytes(&reader.array().ok()?).ok()?;
        let to = PeerId::from_bytes(&reader.array().ok()?).ok()?;
        let (made_ms, offer) = (reader.u64().ok()?, reader.array().ok()?);
        let envelope = reader.rest().to_vec();
        let expected = match kind {
            PasteKind::Offer => Kind::Offer,
            PasteKind::Answer => Kind::Answer,
        };
        let fits = envelope.len() <= MAX_COMPACT && Kind::of(&envelope) == Some(expected);
        fits.then_some(Self {
            kind,
            from,
            to,
            made_ms,
            offer,
            envelope,
        })
    }
}

/// Base32 without padding.
fn encode(bytes: &[u8]) -> String {
    let (mut text, mut buffer, mut bits) = (String::new(), 0_u32, 0);
    for byte in bytes {
        buffer = buffer << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(letter(buffer >> bits));
        }
    }
    if bits > 0 {
        text.push(letter(buffer << (5 - bits)));
    }
    text
}

fn letter(value: u32) -> char {
    let index = (value & 31) as usize;
    ALPHABET
        .get(index)
        .map_or('a', |letter| char::from(*letter))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut buffer, mut bits) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        buffer = (buffer << 5 | u32::try_from(value).ok()?) & 0xFFFF;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(buffer >> bits & 0xFF).ok()?);
        }
    }
    Some(bytes)
}
