//! What a stream's task is told, what it tells, and how it ends.

use std::fmt::Display;
use std::io;

use bytes::{Bytes, BytesMut};
use punch_engine::{StreamId, TargetEvent};
use tokio::sync::OwnedSemaphorePermit;

use super::names::NoAddress;

/// What the driver tells a target's task.
#[derive(Debug)]
pub(crate) enum ToTarget {
    Bytes(Bytes),
    /// No more bytes will follow.
    Finish,
}

/// What a target's task tells the driver.
#[derive(Debug)]
pub(crate) enum FromTarget {
    Event(StreamId, TargetEvent),
    /// The target failed the stream, in words for people.
    Failed(StreamId, TargetEvent, String),
    /// The permit is given back when the client has taken the bytes.
    Bytes(StreamId, Bytes, OwnedSemaphorePermit),
    Datagram(StreamId, Bytes),
    /// The channel to the target has room again.
    Room(StreamId),
}

/// What ends a stream at its target's side.
pub(super) enum End {
    /// There is nobody to be told.
    Quiet,
    Event(TargetEvent),
    /// The target was never reached.
    Failed(Failure),
}

/// Why a target was not reached.
pub(super) struct Failure {
    pub(super) event: TargetEvent,
    /// In words for people.
    pub(super) what: String,
}

impl Failure {
    /// `error` has happened at this place.
    pub(super) fn new(error: &io::Error, place: impl Display) -> Self {
        let event = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                TargetEvent::Refused
            }
            _ => TargetEvent::Unreachable,
        };
        let what = format!("{} at {place}", in_words(error));
        Self { event, what }
    }
}

impl From<NoAddress> for End {
    fn from(trouble: NoAddress) -> Self {
        match trouble {
            NoAddress::Busy => Self::Event(TargetEvent::Busy),
            NoAddress::Unknown(what) => Self::Failed(Failure {
                event: TargetEvent::Unreachable,
                what,
            }),
        }
    }
}

/// An error of the kernel, without its number.
pub(super) fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// What was read; a little of it does not keep the memory for a whole chunk.
pub(super) fn fitting(buffer: BytesMut) -> Bytes {
    if buffer.len() < buffer.capacity() / 2 {
        Bytes::copy_from_slice(&buffer)
    } else {
        buffer.freeze()
    }
}
