//! The rule that answers one datagram: all of a STUN server that is not a socket.

use std::net::SocketAddr;

use crate::attribute::ErrorCode;
use crate::header::Class;
use crate::message::Message;
use crate::writer::Writer;

/// An answer is never longer than the request's length times this (RFC 8489 §16.2.1 warns of amplification).
pub const MAX_AMPLIFICATION: usize = 6;

/// What a server knows of the socket on which a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The socket's own address and port.
    pub local: SocketAddr,
    /// The address *and* port that both differ from `local`, when the server has them (RFC 5780 §6).
    pub other: Option<SocketAddr>,
    /// The first and the last port on which the server answers, too, at `local`'s address and at `other`'s.
    pub samples: Option<(u16, u16)>,
}

/// An answer, where it leaves from and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The address of the server's socket that must send it.
    pub from: SocketAddr,
    /// The receiver: the source of the request, or another port of its address where the request asked for that.
    pub to: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Answers a Binding request that came from `source`; `None` for everything that deserves silence.
pub fn respond(datagram: &[u8], source: SocketAddr, endpoint: Endpoint) -> Option<Answer> {
    let request = Message::parse(datagram).ok()?;
    if request.class != Class::Request {
        return None;
    }
    let limit = datagram.len() * MAX_AMPLIFICATION;
    let answer =
        |from, to, bytes: Vec<u8>| (bytes.len() <= limit).then_some(Answer { from, to, bytes });
    let refuse = |code| Writer::new(Class::Error, request.transaction).error(code);
    // PADDING is among the unknown ones, so that no answer goes to another port with it (RFC 5780 §7.5).
    if !request.unknown.is_empty() {
        let refusal = refuse(ErrorCode::UNKNOWN_ATTRIBUTE).unknown(&request.unknown);
        return answer(endpoint.local, source, refusal.finish());
    }
    let change = request.change.unwrap_or_default();
    let impossible = endpoint.other.is_none() && (change.ip || change.port);
    if impossible || request.response_port == Some(0) {
        let refusal = refuse(ErrorCode::BAD_REQUEST);
        return answer(endpoint.local, source, refusal.finish());
    }
    let other = endpoint.other.unwrap_or(endpoint.local);
    let from = SocketAddr::new(
        if change.ip { other } else { endpoint.local }.ip(),
        if change.port { other } else { endpoint.local }.port(),
    );
    let mut to = source;
    to.set_port(request.response_port.unwrap_or(source.port()));
    let success = |samples: Option<(u16, u16)>| {
        let mut writer = Writer::new(Class::Success, request.transaction).xor_mapped(source);
        // A socket on all addresses does not know which one was asked.
        if !from.ip().is_unspecified() {
            writer = writer.origin(from);
        }
        if let Some(other) = endpoint.other {
            writer = writer.other(other);
        }
        if let Some(samples) = samples {
            writer = writer.sample_ports(samples);
        }
        writer.finish()
    };
    // The ports are an offer that the answer can do without.
    answer(from, to, success(endpoint.samples)).or_else(|| answer(from, to, success(None)))
}
