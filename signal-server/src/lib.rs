//! punch-signal as a library: [`hub`] decides from values alone who may reach whom, and the simulated internet of the tests
//! runs it without a socket; `net` (feature `net`) moves frames.

#[cfg(feature = "net")]
pub mod arguments;
pub mod hub;
#[cfg(feature = "net")]
pub mod net;
