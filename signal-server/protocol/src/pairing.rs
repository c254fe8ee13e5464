//! Pairing by a code: two machines that do not know each other yet find each other by six words that one user tells the other.
//!
//! The words give the seeds of two temporary identities, the inviter's and the newcomer's, and both machines know both. So an invitation
//! is an ordinary pair on every channel: each looks for the other by its temporary identity, and two envelopes are exchanged, the
//! newcomer's [`Introduction`] and the inviter's [`Welcome`]. Both are signed by the machines' real identities.

mod code;
mod envelopes;
mod messages;

pub use code::{CODE_WORDS, Code, CodeError, MAX_CODE, TemporaryPair, Words, word_list};
pub use envelopes::{MAX_PAIRING_ENVELOPE, OpenedIntroduction, PairingError, PendingIntroduction};
pub use messages::{
    Introduction, MAX_NAME, MAX_SERVERS, MAX_SHARES, OfferedServer, Reply, Share, TurnedAway,
    Welcome,
};
