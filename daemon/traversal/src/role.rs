//! The role of an end in an exchange.

/// Whether this end picks the path or the other one does (RFC 8445 §6.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// This end picks.
    Controlling,
    /// The peer picks.
    Controlled,
}
