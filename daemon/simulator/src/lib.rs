//! A simulated internet in virtual time, with an oracle that knows which pairs should connect.
//!
//! * [`nat`], [`network`]: NATs, firewalls, links and hosts; a NAT is mapping x filtering x allocation x expiry,
//! * [`oracle`]: whether two hosts of a network must find a direct path by ordinary checks,
//! * [`world`]: two machines with the daemon's own connector, a STUN server and a signalling hub in such a network,
//! * [`fresh`]: other programs of those machines, whose flows a search must not harm,
//! * [`scenario`]: the pairs of NAT kinds that tests and figures run over,
//! * [`adversary`]: a machine among peers and servers that do the worst they may,
//! * [`day`]: a day of faults, after each of which two machines must be connected again,
//! * [`matrix`]: all of them measured, as a table, as JSON and as a picture.
//!
//! The same seed gives the same run, to the last datagram.

pub mod adversary;
pub mod day;
pub mod fresh;
mod hash;
mod machine;
pub mod matrix;
pub mod nat;
pub mod network;
pub mod oracle;
pub mod scenario;
pub mod world;
