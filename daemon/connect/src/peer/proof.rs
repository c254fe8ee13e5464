//! What is still missing for the session of an exchange.

use std::time::{Duration, Instant};

/// The key goes out once more after this, as long as the ciphertext has not come.
const REPEAT: Duration = Duration::from_millis(250);
/// So often: ten seconds. Then the exchange has come to nothing.
const MAX_SENT: u32 = 40;

/// What is still missing for the session of an exchange.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// Whether the ML-KEM exchange follows, or has followed, compact envelopes.
    is_compact: bool,
    /// The peer has shown that it holds the keys of the exchange.
    is_shown: bool,
    is_announced: bool,
    /// There is a preshared key now that was not there before.
    has_agreed: bool,
    /// The peer has asked for the ciphertext.
    is_asked: bool,
    /// When the key goes out next, and how often it has.
    next: Option<Instant>,
    sent: u32,
}

impl Proof {
    /// What is missing of an exchange that has a preshared key, or has not.
    pub(super) fn new(has_key: bool) -> Self {
        Self {
            is_compact: !has_key,
            ..Self::default()
        }
    }

    /// Whether the session was announced.
    pub(super) fn is_announced(&self) -> bool {
        self.is_announced
    }

    /// Whether the ML-KEM exchange is, or was, one of notes.
    pub(super) fn is_compact(&self) -> bool {
        self.is_compact
    }

    /// A note of the ML-KEM exchange has come; `agreed` says that there is a key now, `is_key` that it wants an answer.
    pub(super) fn handle_note(&mut self, agreed: bool, is_key: bool) {
        self.has_agreed |= agreed;
        self.is_asked |= is_key;
        self.is_shown = true;
    }

    /// The peer has shown that it holds the keys of the exchange.
    pub(super) fn show(&mut self) {
        self.is_shown = true;
    }

    /// Whether the session is to be announced now that there is a key: once.
    pub(super) fn announce(&mut self) -> bool {
        self.is_shown && !std::mem::replace(&mut self.is_announced, true)
    }

    /// Whether there is a preshared key now that was not there before: once.
    pub(super) fn take_agreed(&mut self) -> bool {
        std::mem::take(&mut self.has_agreed)
    }

    /// Whether the key has gone out as often as it may, and the last one was not answered either.
    pub(super) fn is_in_vain(&self, now: Instant) -> bool {
        self.sent >= MAX_SENT && self.next.is_some_and(|next| next <= now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Whether a note is to go out now.
    pub(super) fn take_due(&mut self, offered: bool, agreed: bool, now: Instant) -> bool {
        if !offered {
            return std::mem::take(&mut self.is_asked);
        }
        if agreed {
            self.next = None;
        }
        let due = !agreed && self.sent < MAX_SENT && self.next.is_none_or(|at| at <= now);
        if due {
            self.sent += 1;
            self.next = Some(now + REPEAT);
        }
        due
    }
}
