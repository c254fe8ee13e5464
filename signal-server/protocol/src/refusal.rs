//! The refusal of an offer: what a machine tells a peer that it knows instead of an answer.

use crate::codec::{DecodeError, Reader};

/// A refusal has so many bytes before it is sealed, whatever it says.
pub const REFUSAL_LENGTH: usize = 32;
/// The byte that a refusal begins with. No version of a description begins with it.
const MARK: u8 = 0;

/// The reason for which an offer is refused. The numbers are on the wire for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The offer's stamp differs too much from the clock of the one who refuses.
    Clock,
    /// The version of the offer's description is not understood.
    Version,
    /// The user of the refusing machine has said `down`.
    NotWanted,
    /// A reason that only a newer version knows.
    Unknown(u8),
}

/// What a refusal says. Its meaning hangs on the offer that it is sealed with: it is nobody else's, and no older offer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferRefusal {
    /// The reason of the refusal.
    pub reason: RefusalReason,
    /// The clock of the one who refuses: milliseconds since 1970.
    pub clock_ms: u64,
    /// The newest stamp that the one who refuses has accepted of the other; 0 for none.
    pub seen: u64,
}

impl OfferRefusal {
    /// The bytes to seal.
    pub fn encode(&self) -> [u8; REFUSAL_LENGTH] {
        let number = match self.reason {
            RefusalReason::Clock => 1,
            RefusalReason::Version => 2,
            RefusalReason::NotWanted => 3,
            RefusalReason::Unknown(number) => number,
        };
        let mut out = [0; REFUSAL_LENGTH];
        out[..2].copy_from_slice(&[MARK, number]);
        out[2..10].copy_from_slice(&self.clock_ms.to_be_bytes());
        out[10..18].copy_from_slice(&self.seen.to_be_bytes());
        out
    }

    /// Reads what [`Self::encode`] of this or of a later version wrote; the bytes behind the two times are a later version's.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != MARK {
            return Err(DecodeError::BadValue("refusal"));
        }
        let reason = match reader.u8()? {
            0 => return Err(DecodeError::BadValue("reason")),
            1 => RefusalReason::Clock,
            2 => RefusalReason::Version,
            3 => RefusalReason::NotWanted,
            other => RefusalReason::Unknown(other),
        };
        let (clock_ms, seen) = (reader.u64()?, reader.u64()?);
        reader.bytes(REFUSAL_LENGTH - 18)?;
        reader.finish()?;
        Ok(Self {
            reason,
            clock_ms,
            seen,
        })
    }
}
