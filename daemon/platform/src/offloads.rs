//! What the kernel does for many packets at once. Where it refuses, each is done without by itself; these are the switches to do
//! without from the start.

/// Each `true` is "if the kernel can".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// The TUN hands over TCP data in pieces of up to 64 KiB (TUN_F_TSO4, TUN_F_TSO6).
    pub tun_tso: bool,
    /// The same for datagrams that their sender has joined (TUN_F_USO4, TUN_F_USO6; Linux 6.2).
    pub tun_uso: bool,
    /// The TUN takes packets of a flow in one piece.
    pub tun_gro: bool,
    /// Many datagrams leave with one system call (UDP_SEGMENT).
    pub udp_gso: bool,
    /// Many datagrams come with one system call as one (UDP_GRO).
    pub udp_gro: bool,
}

impl Default for Offloads {
    fn default() -> Self {
        Self {
            tun_tso: true,
            tun_uso: true,
            tun_gro: true,
            udp_gso: true,
            udp_gro: true,
        }
    }
}
