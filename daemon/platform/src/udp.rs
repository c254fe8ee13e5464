//! UDP sockets that send and receive many datagrams per system call (UDP_SEGMENT, UDP_GRO, recvmmsg; by quinn-udp).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Asked for; what is granted depends on CAP_NET_ADMIN and net.core.rmem_max.
const BUFFER: usize = 4 * 1024 * 1024;
/// Slots of one receive call, each for a whole train of datagrams.
const SLOTS: usize = 8;
const SLOT: usize = 65_536;
/// A send that the socket cannot take for so long is lost, as on a full link.
const PATIENCE: Duration = Duration::from_millis(10);

/// Received datagrams, in reused memory.
pub struct Datagrams {
    memory: Vec<Vec<u8>>,
    meta: Vec<RecvMeta>,
    filled: usize,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self {
            memory: vec![vec![0; SLOT]; SLOTS],
            meta: vec![RecvMeta::default(); SLOTS],
            filled: 0,
        }
    }
}

impl Datagrams {
    /// Sender, the address that it was sent to, payload.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, Option<IpAddr>, &[u8])> {
        let used = self.memory.iter().zip(&self.meta).take(self.filled);
        used.flat_map(|(memory, meta)| {
            memory[..meta.len]
                .chunks(meta.stride.max(1))
                .map(|datagram| (meta.addr, meta.dst_ip, datagram))
        })
    }
}

/// One UDP socket.
pub struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    port: u16,
}

impl Udp {
    /// Opens a socket on all addresses of a family; port 0 takes any. The IPv6 socket takes no IPv4.
    ///
    /// # Errors
    /// Those of the system calls; `AddrInUse` when the port is taken.
    pub fn open(v6: bool, port: u16) -> io::Result<Self> {
        let (domain, any): (_, IpAddr) = if v6 {
            (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into())
        } else {
            (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if v6 {
            socket.set_only_v6(true)?;
        }
        enlarge(&socket);
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        allow_fragments(&socket, v6);
        let port = socket.local_addr()?.port();
        Ok(Self {
            socket,
            state,
            port,
        })
    }

    /// The local port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until there is a datagram, from within a hand-made future.
    pub fn poll_readable(
        &self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        self.socket.poll_recv_ready(context)
    }

    /// Takes the datagrams that wait, up to 512 KiB; returns whether there were any.
    pub fn receive(&self, into: &mut Datagrams) -> bool {
        into.filled = 0;
        let mut slices: Vec<_> = into
            .memory
            .iter_mut()
            .map(|slot| IoSliceMut::new(slot))
            .collect();
        let received = self.socket.try_io(Interest::READABLE, || {
            self.state
                .recv((&self.socket).into(), &mut slices, &mut into.meta)
        });
        // An ICMP error of an earlier send is reported once here (RFC 1122 §4.1.3.3): nothing was received.
        into.filled = received.unwrap_or(0);
        into.filled > 0
    }

    /// Sends datagrams of `segment` bytes (the last may be shorter) to one place.
    ///
    /// # Errors
    /// What the kernel says about this destination: no route, too long, refused earlier. The datagrams are lost.
    pub async fn send(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
        segment: usize,
        bytes: &[u8],
    ) -> io::Result<()> {
        let most = segment * self.state.max_gso_segments().max(1);
        for train in bytes.chunks(most.max(1)) {
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: train,
                segment_size: (train.len() > segment).then_some(segment),
                src_ip: source,
            };
            self.send_train(&transmit).await?;
        }
        Ok(())
    }

    async fn send_train(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let attempt = || {
            self.socket.try_io(Interest::WRITABLE, || {
                self.state.try_send((&self.socket).into(), transmit)
            })
        };
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match tokio::time::timeout(PATIENCE, self.socket.writable()).await {
                    Ok(ready) => ready?,
                    Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                }
                attempt()
            }
            // quinn-udp has just noticed that this route takes no segments and has switched them off: one by one now.
            Err(error)
                if transmit.segment_size.is_some()
                    && self.state.max_gso_segments() == 1
                    && !quinn_udp::is_msg_size_err(&error) =>
            {
                self.send_singly(transmit)
            }
            // One segment is too long for the route, and the kernel has refused them all for it.
            Err(error) if quinn_udp::is_msg_size_err(&error) => self.send_singly(transmit),
            result => result,
        }
    }

    fn send_singly(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        let mut result = Ok(());
        for datagram in transmit.contents.chunks(segment.max(1)) {
            let single = Transmit {
                destination: transmit.destination,
                ecn: None,
                contents: datagram,
                segment_size: None,
                src_ip: transmit.src_ip,
            };
            result = self.socket.try_io(Interest::WRITABLE, || {
                self.state.try_send((&self.socket).into(), &single)
            });
        }
        result
    }
}

/// quinn-udp forbids fragments, as QUIC demands. As long as the path's MTU is not measured, a full packet shall rather be cut
/// than lost on a path that takes less than 1,500 bytes; stock WireGuard does the same.
#[expect(unsafe_code, reason = "IP_MTU_DISCOVER has no safe wrapper")]
fn allow_fragments(socket: &UdpSocket, v6: bool) {
    use std::os::fd::AsRawFd;
    let (level, option, value) = if v6 {
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        )
    } else {
        (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        )
    };
    // SAFETY: the descriptor is open for the call, and the option's value is a c_int of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        tracing::debug!("the socket does not allow fragments");
    }
}

/// Larger buffers where they are granted: SO_*BUFFORCE needs CAP_NET_ADMIN, which punchd has; else the system's limit counts.
#[expect(unsafe_code, reason = "SO_RCVBUFFORCE has no safe wrapper")]
fn enlarge(socket: &Socket) {
    use std::os::fd::AsRawFd;
    let size = libc::c_int::try_from(BUFFER).unwrap_or(libc::c_int::MAX);
    for (force, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        for option in [force, plain] {
            // SAFETY: the descriptor is open for the call, and the option's value is a c_int of the length given.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const size).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            if result == 0 {
                break;
            }
        }
    }
}
