//! punch-signal as a library: [`hub`] decides from values alone who may reach whom, and the simulated internet of the tests
//! runs it without a socket; `serve` (feature `serve`) moves frames of clients that come over any stream, as in punchd, and `net`
//! (feature `net`) those of the network.

#[cfg(feature = "net")]
pub mod arguments;
pub mod hub;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "serve")]
pub mod serve;
