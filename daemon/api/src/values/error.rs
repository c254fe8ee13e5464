//! Why a text is refused as a value.

/// The most ports that one range has.
pub(super) const MAX_RANGE_LENGTH: u32 = 16_384;

/// Why a text is not the value that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a peer's name.
    #[error(
        "`{0}` cannot be a peer's name: use 1 to 63 lower-case letters, digits and inner hyphens"
    )]
    PeerName(String),
    /// Not a port.
    #[error("`{0}` is not a port: ports are 1 to 65535")]
    Port(String),
    /// The range runs backwards.
    #[error("the range {0}-{1} runs backwards: write {1}-{0}")]
    Backwards(u16, u16),
    /// A range that is too long.
    #[error("a range has at most {max} ports, this one has {0}", max = MAX_RANGE_LENGTH)]
    TooMany(u32),
    /// Not a protocol.
    #[error("`{0}` is not a protocol: use tcp or udp")]
    Protocol(String),
    /// Not a target of a forward.
    #[error("`{0}` is not a target: write HOST:PORT, for instance 127.0.0.1:5432 or [::1]:5432")]
    Target(String),
    /// Not where a WireGuard listens.
    #[error(
        "`{0}` is not an endpoint: write HOST:PORT, for instance home.example:51820 or [2001:db8::1]:51820"
    )]
    Endpoint(String),
    /// The last port of the range has no counterpart at the target.
    #[error("the target's ports would run past 65535")]
    TargetPastEnd,
    /// Not a signalling server.
    #[error("`{0}` is not a signalling server: write ws://HOST[:PORT] or wss://HOST[:PORT][/PATH]")]
    Signal(String),
    /// Not a STUN server.
    #[error("`{0}` is not a STUN server: write HOST[:PORT], the port is 3478 unless given")]
    Stun(String),
    /// The URI of a STUN server (RFC 7064) instead of its address.
    #[error("`{0}` is not an address but a URI: write HOST or HOST:PORT, without stun:")]
    StunUri(String),
    /// Not a node of a DHT.
    #[error("`{0}` is not a node of a DHT: write HOST[:PORT], the port is 6881 unless given")]
    Dht(String),
    /// An address where there is none.
    #[error("`{0}` is one address too many: write `server add public` and nothing else")]
    Public(String),
    /// Not a probe of a netcheck.
    #[error("`{0}` is not a probe that this version knows")]
    Probe(String),
}
