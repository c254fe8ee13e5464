//! The header of a STUN message (RFC 8489 §5), which everything else here stands on.

/// Length of the header, in bytes.
pub const HEADER: usize = 20;
/// The fixed bytes 4 to 7 of every message.
pub(crate) const MAGIC_COOKIE: u32 = 0x2112_A442;

/// 96 bits that tie a response to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

impl TransactionId {
    /// The transaction of a Binding request; `None` for any other datagram.
    pub fn of_request(datagram: &[u8]) -> Option<Self> {
        const REQUEST: [u8; 2] = [0, 1];
        let &[a, b, _, _, _, _, _, _, ref id @ ..] = datagram.first_chunk::<HEADER>()?;
        (is_stun(datagram) && [a, b] == REQUEST).then_some(Self(*id))
    }
}

/// The class of a Binding message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A question that expects an answer.
    Request,
    /// A message that expects no answer.
    Indication,
    /// The answer to a request that was understood and granted.
    Success,
    /// The answer to a request that was refused.
    Error,
}

/// The length in bytes of the message with this header, which tells it itself where messages follow one another on a stream (RFC 8489
/// §6.2.2); `None` if what comes is no STUN.
pub fn stream_length(header: &[u8; HEADER]) -> Option<usize> {
    let &[kind, _, l0, l1, c0, c1, c2, c3, ..] = header;
    let is_ours = kind & 0xC0 == 0 && [c0, c1, c2, c3] == MAGIC_COOKIE.to_be_bytes();
    is_ours.then(|| HEADER + usize::from(u16::from_be_bytes([l0, l1])))
}

/// Whether a datagram can only be STUN (RFC 8489 §5; WireGuard's first byte is 1 to 4, but its bytes 4..8 are not ours).
pub fn is_stun(datagram: &[u8]) -> bool {
    let Some(&[kind, _, l0, l1, ref cookie @ ..]) = datagram.first_chunk::<8>() else {
        return false;
    };
    kind & 0xC0 == 0
        && *cookie == MAGIC_COOKIE.to_be_bytes()
        && usize::from(u16::from_be_bytes([l0, l1])) + HEADER == datagram.len()
}
