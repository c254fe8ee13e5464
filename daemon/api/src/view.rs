//! What punchd shows. Times are seconds or milliseconds as the field's name says; absent values are `null`.

mod channel;
mod netcheck;
mod pairing;
mod paste;
mod path;
mod peer;
mod refused;
mod server;
mod share;
mod status;
mod why;

pub use channel::{ChannelKind, HeardView, LanView, MetView};
pub use netcheck::{
    AddressFamily, MappingProtocol, NetcheckView, PortMappingView, PortsView, ProbeKind, ProbeView,
};
pub use pairing::{InvitationView, PairingRole, PairingStage, PairingView};
pub use paste::{PasteStep, PasteView};
pub use path::{DetourView, LossView, PathKind, PathReason, PathView};
pub use peer::{PeerState, PeerView, PingView, RelayedView, RightsView};
pub use refused::{RefusalReason, RefusedView};
pub use server::{DhtView, ServerState, ServerView};
pub use share::{ForwardTrouble, ForwardView};
pub use status::{CandidateView, IdView, KeyView, NetworkView, Status, StrangerView};
pub use why::{BudgetView, NatView, Obstacle, PlainView, Step, StepOutcome, StepView, WhyView};
