//! What punchctl and punchd say to each other: HTTP/1.1 with JSON over the control socket (DESIGN.md §9).
//!
//! [`noun`] holds the validated nouns (a text that is not one is refused with an error for people), [`view`] what punchd
//! shows, [`request`] what it is asked, [`error`] why it says no. openapi.json says the same to programs (OpenAPI 3.1); tests
//! hold both together.

pub mod error;
pub mod event;
pub mod noun;
pub mod request;
pub mod view;

pub use error::{ApiError, ErrorCode};
pub use event::{Event, EventKind};
pub use noun::{
    ForwardKey, NounError, PeerName, PortRange, Protocol, Secret, ServerAddress, ServerKind, Target,
};
pub use punch_signal_protocol::{Ipv4Range, PeerId, PeerIdError};
pub use request::{AddForward, AddPeer, AddServer, PeerKey, Rename, Up};
pub use view::{
    AllocationView, BudgetView, CandidateView, ForwardView, IdView, KeyView, MappingProtocol,
    NatView, NetcheckView, NetworkView, PathKind, PathView, PeerState, PeerView, PingView,
    PortMappingView, ProbeView, ServerState, ServerView, Status, StepView, WhyView,
};

/// Where the control socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/punch/punchd.sock";
