//! What punchctl and punchd say to each other: HTTP/1.1 with JSON over the control socket.
//!
//! [`values`] holds the values that are valid by construction, [`request`] what punchd is asked, [`view`] what punchd shows,
//! [`event`] what punchd reports, [`error`] why punchd refuses. openapi.json says the same to programs (OpenAPI 3.1); tests
//! hold both together.

mod change;
pub mod error;
pub mod event;
mod nat;
mod open_enum;
pub mod request;
pub mod values;
pub mod view;

pub use change::Changed;
pub use error::{ApiError, ErrorCode};
pub use event::{Event, EventKind};
pub use nat::{AllocationView, allocation_words, filtering_words, mapping_words, nat_words};
pub use open_enum::OpenEnum;
pub use punch_signal_protocol::{
    Allocation, Budget, Filtering, Ipv4Range, MEETING_PORT, Mapping, PeerId, PeerIdError,
};
pub use request::{AddForward, AddPeer, AddServer, AnswerLine, Invite, Join, PeerKey, Rename, Up};
pub use values::{
    Endpoint, ForwardKey, PeerName, PortRange, Protocol, Secret, ServerAddress, ServerKind, Target,
    ValueError,
};
pub use view::{
    AddressFamily, BudgetView, CandidateView, ChannelKind, DetourView, DhtView, ForwardTrouble,
    ForwardView, HeardView, IdView, InvitationView, KeyView, LanView, LossView, MappingProtocol,
    MetView, NatView, NetcheckView, NetworkView, Obstacle, PairingRole, PairingStage, PairingView,
    PasteStep, PasteView, PathKind, PathReason, PathView, PeerState, PeerView, PingView, PlainView,
    PortMappingView, PortsView, ProbeKind, ProbeView, RefusalReason, RefusedView, RelayedView,
    RightsView, ServerState, ServerView, Status, Step, StepOutcome, StepView, StrangerView,
    WhyView,
};

/// Where the control socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/punch/punchd.sock";
