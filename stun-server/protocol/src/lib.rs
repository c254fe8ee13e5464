//! STUN (RFC 8489), as much of it as Punch uses: Binding requests and responses, NAT behaviour discovery (RFC 5780),
//! and connectivity checks (RFC 8445 §7). Pure: bytes in, bytes out.
//!
//! [`Message::parse`] reads, [`Writer`] writes, and [`respond`] is the whole of a STUN server's logic.

#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod attribute;
mod header;
mod message;
mod rule;
mod writer;

pub use attribute::{ChangeRequest, ErrorCode};
pub use header::{Class, HEADER, TransactionId, is_stun, stream_length};
pub use message::{Message, ParseError};
pub use rule::{Answer, Endpoint, MAX_AMPLIFICATION, respond};
pub use writer::Writer;
