//! Every signalling byte of Punch, and nothing else: no clock, no socket, no global randomness.
//!
//! * [`Identity`] and [`PeerId`]: who a machine is,
//! * [`Candidate`]: where it may be reached (RFC 8445 §5.1), and [`NatSummary`]: through what kind of NAT,
//! * [`Frame`]: what a client and punch-signal say to each other,
//! * [`RelayFrame`]: sealed packets past the server, where no direct path is,
//! * [`seal`]: what two peers say to each other past the server, sealed end to end,
//! * [`paste`]: the same as lines that a person carries,
//! * [`pairing`]: how two machines that do not know each other find each other by a code,
//! * [`rendezvous`]: what two machines derive for places where strangers look on,
//! * [`lan`]: the datagrams by which they meet in one network,
//! * [`Capabilities`]: what each of them can do beyond version 1.

#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod candidate;
mod capability;
mod codec;
mod description;
mod exchange;
mod frame;
mod identity;
mod kem;
pub mod lan;
mod meeting;
mod nat;
pub mod noise;
pub mod pairing;
pub mod paste;
mod range;
mod refusal;
mod relay;
pub mod rendezvous;
pub mod seal;

pub use candidate::{Candidate, CandidateKind};
pub use capability::{Capabilities, Capability, MAX_CAPABILITIES};
pub use codec::DecodeError;
pub use description::{
    Credentials, Description, KEM_CIPHERTEXT, KEM_KEY, MAX_AWAY, MAX_CANDIDATES, Note,
};
pub use frame::{
    Frame, MAX_ENVELOPE, MAX_FRAME, MAX_SERVER_NAME, Refusal, Unreachable, login_message,
};
pub use identity::{Identity, PeerId, PeerIdError, is_contributory};
pub use kem::{MAX_NOTE_DATAGRAM, note_datagram, open_note_datagram};
pub use meeting::{MEETING_PORT, meeting_url};
pub use nat::{
    Allocation, Budget, Filtering, MAX_NAT_ADDRESSES, Mapping, NatSummary, Prediction, SearchFacts,
};
pub use range::{Ipv4Range, Ipv4RangeError};
pub use refusal::{OfferRefusal, REFUSAL_LENGTH, RefusalReason};
pub use relay::{
    MAX_RELAY_FRAME, MAX_RELAY_PACKET, RelayBuilder, RelayFrame, RelayLink, RelayToken,
    is_relay_frame, turn_relay_frame,
};
