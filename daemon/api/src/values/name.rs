//! The name of a peer.

use std::fmt;
use std::str::FromStr;

use super::error::ValueError;
use super::text::text_form;

/// A peer's local name: a DNS label, so that it can become a part of `NAME.punch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerName(String);

impl PeerName {
    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PeerName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(good)
            && !text.starts_with('-')
            && !text.ends_with('-');
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| ValueError::PeerName(text.to_owned()))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

text_form!(PeerName);
