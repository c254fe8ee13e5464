//! Find and keep the best path to one peer. Pure: time and seeds come in, datagrams and events go out.
//!
//! * [`Gatherer`]: where this machine may be reached (RFC 8445 §5.1.1), one for all peers,
//! * [`Agent`]: connectivity checks with one peer, path selection, keepalives, recovery,
//! * [`Netcheck`] and [`Lifetime`]: how this machine's NAT behaves (RFC 5780), as a [`NatProfile`],
//! * [`Plan`]: what both profiles together allow, and what an attempt may cost.
//!
//! Each has `handle_*(…, now)` for what comes in and `poll_transmit / poll_event / poll_timeout` for what goes out.

mod address;
mod agent;
mod canary;
mod capacity;
mod evidence;
mod gather;
mod lifetime;
mod link;
mod loss;
mod messages;
mod name;
mod nat64;
mod netcheck;
mod pace;
mod pair;
mod plan;
mod pmtu;
mod profile;
mod report;
mod request;
mod role;
mod search;
mod socket;
#[cfg(test)]
#[path = "../../connect/tests/support/start.rs"]
mod start;
mod stream;
mod votes;

pub use address::{AddressRank, FIRST_PORT, OwnAddress, is_private, is_translatable, usable};
pub use agent::checklist::{Choice, MAX_PAIRS};
pub use agent::inherited::{ProvenPath, bequeath, heard, inherit};
pub use agent::outside::{
    chosen, handle_detour, is_doubtful, is_patient, is_searching, known_mtu, loss, planned_search,
    postpone_search, round_trip, search_targets, set_lifetime, their_fragment, untold_mappings,
    was_refused,
};
pub use agent::{Agent, AgentConfig, AgentEvent, AgentStatus, Traffic, takes_fresh_base};
pub use capacity::{Caps, is_hard};
pub use evidence::{Probe, ProbeOutcome, Sample, ServerCheck};
pub use gather::{AddressChange, Gatherer};
pub use lifetime::Lifetime;
pub use link::{LinkCheck, LinkHealth, LinkUse};
pub use loss::{LOSS_WINDOW, Loss};
pub use name::receiver_of;
pub use nat64::{BEHIND_NAT64, Nat64, NoNat64};
pub use netcheck::Netcheck;
pub use pair::{MAX_PROBES, PairStatus};
pub use plan::{Part, Plan, Ports, Step, StepKind, Withheld};
pub use pmtu::{first_mtu, overhead};
pub use profile::{NatOverrides, NatProfile, SearchBasis};
pub use punch_signal_protocol::{
    Allocation, Budget, Filtering, Mapping, NatSummary, Prediction, SearchFacts,
};
pub use report::{Outcome, StepReport};
pub use role::Role;
pub use socket::{DirectPath, Family, SocketId, Transmit};
pub use stream::{
    MAX_STREAM_DATAGRAM, NoDatagram, STREAM_PREFIX, put_stream_datagram, stream_datagrams,
    stream_length, whole_datagrams,
};
