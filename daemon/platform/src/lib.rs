//! Linux: the TUN device, UDP sockets, netlink, the clock, randomness, rights. The only room that touches a descriptor of its own
//! making or has `unsafe`.

pub mod clock;
pub mod handover;
mod hostname;
pub mod netlink;
mod offloads;
pub mod sandbox;
mod socket_set;
mod tun;
mod udp;

pub use hostname::hostname;
pub use offloads::Offloads;
pub use socket_set::SocketSet;
pub use tun::{Tun, TunDevice, TunError, interface_exists};
pub use udp::{Datagrams, Manner, Train, Udp};

/// Fresh randomness from the operating system.
///
/// # Errors
/// Only where the kernel offers none.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| std::io::Error::other("no random source"))?;
    Ok(bytes)
}
