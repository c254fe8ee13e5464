//! The rule that answers one datagram: all of a STUN server that is not a socket.

use std::net::SocketAddr;

use crate::{Class, ErrorCode, Message, Writer};

/// An answer is never longer than the request's length times this (RFC 8489 §16.2.1 warns of amplification).
pub const MAX_AMPLIFICATION: usize = 6;

/// What a server knows of the socket on which a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The socket's own address and port.
    pub local: SocketAddr,
    /// The address *and* port that both differ from `local`, when the server has them (RFC 5780 §6).
    pub other: Option<SocketAddr>,
}

/// An answer and where it leaves from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The address of the server's socket that must send it.
    pub from: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Answers a Binding request that came from `source`; `None` for everything that deserves silence.
pub fn respond(datagram: &[u8], source: SocketAddr, endpoint: Endpoint) -> Option<Answer> {
    let request = Message::parse(datagram).ok()?;
    if request.class != Class::Request {
        return None;
    }
    let answer = |from, bytes: Vec<u8>| {
        (bytes.len() <= datagram.len() * MAX_AMPLIFICATION).then_some(Answer { from, bytes })
    };
    if !request.unknown.is_empty() {
        let bytes = Writer::new(Class::Error, request.transaction)
            .error(ErrorCode::UNKNOWN_ATTRIBUTE)
            .unknown(&request.unknown)
            .finish();
        return answer(endpoint.local, bytes);
    }
    let change = request.change.unwrap_or_default();
    let from = match endpoint.other {
        Some(other) => SocketAddr::new(
            if change.ip { other } else { endpoint.local }.ip(),
            if change.port { other } else { endpoint.local }.port(),
        ),
        None if change.ip || change.port => {
            let bytes = Writer::new(Class::Error, request.transaction)
                .error(ErrorCode::BAD_REQUEST)
                .finish();
            return answer(endpoint.local, bytes);
        }
        None => endpoint.local,
    };
    let mut writer = Writer::new(Class::Success, request.transaction).xor_mapped(source);
    // A socket on all addresses does not know which one was asked.
    if !from.ip().is_unspecified() {
        writer = writer.origin(from);
    }
    if let Some(other) = endpoint.other {
        writer = writer.other(other);
    }
    answer(from, writer.finish())
}
