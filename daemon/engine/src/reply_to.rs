//! Where the answer to a message from outside goes.

use std::net::IpAddr;

use punch_connect::Path;

/// Where a message came from, and which of this machine's addresses it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    pub(crate) path: Path,
    pub(crate) local: Option<IpAddr>,
}
