//! Find and keep the best path to one peer. Pure: time and seeds come in, datagrams and events go out.
//!
//! * [`Gatherer`]: where this machine may be reached (RFC 8445 §5.1.1), one for all peers,
//! * [`Agent`]: connectivity checks with one peer, path selection, keepalives, recovery,
//! * [`Netcheck`]: how this machine's NAT behaves (RFC 5780), on request.
//!
//! Each has `handle_*(…, now)` for what comes in and `poll_transmit / poll_event / poll_timeout` for what goes out.

mod agent;
mod gather;
mod netcheck;
mod pair;
mod plan;
mod request;
mod socket;

pub use agent::{Agent, AgentEvent, AgentStatus, MAX_PAIRS, Role};
pub use gather::Gatherer;
pub use netcheck::{Filtering, Mapping, NatProfile, Netcheck, Probe, ProbeOutcome, ServerCheck};
pub use pair::{MAX_PROBES, PairStatus};
pub use plan::{Plan, Step};
pub use socket::{Family, Path, SocketId, Transmit};
