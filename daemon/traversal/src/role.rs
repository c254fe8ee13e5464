//! Which end of an exchange this is.

/// Which end picks the path (RFC 8445 §6.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// This end picks.
    Controlling,
    /// The peer picks.
    Controlled,
}
