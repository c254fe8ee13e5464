//! Alternatives of which later versions may know more.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One alternative out of a set that may grow: an older program reads the word of a newer alternative, and can still show
/// all that stands beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OpenEnum<T> {
    /// An alternative that this program knows.
    Known(T),
    /// The word of an alternative that is newer than this program.
    Unknown(String),
}

impl<T> From<T> for OpenEnum<T> {
    fn from(alternative: T) -> Self {
        Self::Known(alternative)
    }
}

impl<T: PartialEq> PartialEq<T> for OpenEnum<T> {
    fn eq(&self, other: &T) -> bool {
        matches!(self, Self::Known(alternative) if alternative == other)
    }
}

impl<T: fmt::Display> fmt::Display for OpenEnum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(alternative) => alternative.fmt(f),
            Self::Unknown(word) => f.pad(word),
        }
    }
}
