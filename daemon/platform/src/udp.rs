//! UDP sockets that send and receive many datagrams per system call (UDP_SEGMENT, UDP_GRO, recvmmsg; by quinn-udp).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{Offloads, clock};

/// Asked for; what is granted depends on CAP_NET_ADMIN and net.core.rmem_max.
const BUFFER: usize = 4 * 1024 * 1024;
/// The same for a socket that only probes: hundreds are open at once.
const PROBE_BUFFER: usize = 256 * 1024;
/// Slots of one receive call, each for a whole train of datagrams; as many are used as hold so many bytes when trains are as
/// long as the last ones.
const SLOTS: usize = quinn_udp::BATCH_SIZE;
const SLOT: usize = 65_536;
const CALL: usize = 128 * 1024;
/// A send that the socket cannot take for so long is lost, as on a full link.
const PATIENCE: Duration = Duration::from_millis(10);
/// A kernel that has no memory for packets is asked again after this.
const BREATH: Duration = Duration::from_millis(1);

/// -1, by which the kernel goes back to the system's default (ip(7), RFC 3542 §6.3).
const DEFAULT_TTL: u32 = u32::MAX;

/// No socket keeps a datagram for so long while it is read.
const NONSENSE: Duration = Duration::from_secs(1);

/// Received datagrams, in reused memory.
pub struct Datagrams {
    memory: Vec<Vec<u8>>,
    meta: Vec<RecvMeta>,
    filled: usize,
    /// How many slots the next call has.
    slots: usize,
    /// When they were taken, by the wall clock.
    taken: Duration,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self {
            // Each from the allocator, which has cleared memory that takes no room until it is used; a copy would.
            memory: (0..SLOTS).map(|_| vec![0; SLOT]).collect(),
            meta: vec![RecvMeta::default(); SLOTS],
            filled: 0,
            slots: 2,
            taken: Duration::ZERO,
        }
    }
}

impl Datagrams {
    /// Trains of datagrams that have come one after the other from the same place.
    pub fn trains(&self) -> impl Iterator<Item = Train<'_>> {
        let used = self.memory.iter().zip(&self.meta).take(self.filled);
        used.map(|(memory, meta)| Train {
            from: meta.addr,
            local: meta.dst_ip,
            waited: self.waited(meta),
            stride: meta.stride.max(1),
            bytes: &memory[..meta.len],
        })
    }

    /// The length of all together.
    pub fn total(&self) -> usize {
        self.meta
            .iter()
            .take(self.filled)
            .map(|meta| meta.len)
            .sum()
    }

    /// How long they have waited in the socket. The wall clock may be set between: what cannot be is nothing.
    fn waited(&self, meta: &RecvMeta) -> Duration {
        let waited = meta.timestamp.and_then(|at| self.taken.checked_sub(at));
        waited
            .filter(|waited| *waited < NONSENSE)
            .unwrap_or_default()
    }

    /// Sender, the address that it was sent to, payload.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, Option<IpAddr>, &[u8])> {
        self.trains().flat_map(|train| {
            train
                .iter()
                .map(move |datagram| (train.from, train.local, datagram))
        })
    }
}

/// Datagrams back to back.
#[derive(Debug, Clone, Copy)]
pub struct Train<'a> {
    /// The sender.
    pub from: SocketAddr,
    /// The address that they were sent to, where the kernel says so.
    pub local: Option<IpAddr>,
    /// How long the first of them has waited in the socket, as far as is known.
    pub waited: Duration,
    /// The length of each but the last, which may be shorter; at least 1.
    pub stride: usize,
    /// The datagrams.
    pub bytes: &'a [u8],
}

impl<'a> Train<'a> {
    /// The datagrams.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        self.bytes.chunks(self.stride)
    }
}

/// How datagrams leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// How many routers may pass them on; `None` is the system's default.
    pub ttl: Option<u8>,
    /// Whether nobody may cut them into fragments: they get there in one piece or not at all.
    pub whole: bool,
}

/// One UDP socket.
pub struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    port: u16,
    v6: bool,
    /// The system's default, to go back to.
    ttl: u32,
    /// Whether many datagrams may leave with one call.
    gso: bool,
}

impl Udp {
    /// Opens a socket on all addresses of a family; port 0 takes any. The IPv6 socket takes no IPv4.
    ///
    /// # Errors
    /// Those of the system calls; `AddrInUse` when the port is taken.
    pub fn open(v6: bool, port: u16) -> io::Result<Self> {
        Self::open_with(v6, port, BUFFER)
    }

    /// The same with little memory, for a socket that only probes.
    ///
    /// # Errors
    /// As [`Udp::open`].
    pub fn open_probe(v6: bool, port: u16) -> io::Result<Self> {
        Self::open_with(v6, port, PROBE_BUFFER)
    }

    /// Gives a socket that has probed the memory of one that carries a tunnel.
    pub fn enlarge(&self) {
        size_buffers(&SockRef::from(&self.socket), BUFFER);
    }

    fn open_with(v6: bool, port: u16, buffer: usize) -> io::Result<Self> {
        let (domain, any): (_, IpAddr) = if v6 {
            (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into())
        } else {
            (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if v6 {
            socket.set_only_v6(true)?;
        }
        size_buffers(&socket, buffer);
        socket.set_nonblocking(true)?;
        let ttl = if v6 {
            socket.unicast_hops_v6()?
        } else {
            socket.ttl_v4()?
        };
        socket.bind(&SocketAddr::new(any, port).into())?;
        Self::of(socket, v6, ttl)
    }

    /// Goes on with a socket that an earlier process has opened, and has left or passed on: what has come for it meanwhile waits in it.
    ///
    /// # Errors
    /// `InvalidData` where the descriptor is no such socket of that family, on all addresses and some port: it is closed.
    pub fn adopt(descriptor: OwnedFd, v6: bool) -> io::Result<Self> {
        let foreign = |text| io::Error::new(io::ErrorKind::InvalidData, text);
        let socket = Socket::from(descriptor);
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let is_udp = socket.domain().is_ok_and(|its| its == domain)
            && socket.r#type().is_ok_and(|its| its == Type::DGRAM)
            && socket
                .protocol()
                .is_ok_and(|its| its == Some(Protocol::UDP));
        if !is_udp {
            return Err(foreign("not a UDP socket of this address family"));
        }
        let local = socket.local_addr()?.as_socket();
        if !local.is_some_and(|local| local.ip().is_unspecified() && local.port() != 0) {
            return Err(foreign("a UDP socket that is not on all addresses"));
        }
        if socket.peer_addr().is_ok() {
            return Err(foreign("a UDP socket that is connected"));
        }
        socket.set_nonblocking(true)?;
        // A process that was killed may have left another value.
        let ttl = if v6 {
            socket.set_unicast_hops_v6(DEFAULT_TTL)?;
            socket.unicast_hops_v6()?
        } else {
            socket.set_ttl_v4(DEFAULT_TTL)?;
            socket.ttl_v4()?
        };
        Self::of(socket, v6, ttl)
    }

    fn of(socket: Socket, v6: bool, ttl: u32) -> io::Result<Self> {
        let socket = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        if set_discovery(socket.as_fd(), v6, false).is_err() {
            tracing::debug!("the socket does not allow fragments");
        }
        let port = socket.local_addr()?.port();
        Ok(Self {
            socket,
            state,
            port,
            v6,
            ttl,
            gso: true,
        })
    }

    /// Does without the offloads that are not wanted.
    pub fn limit(&mut self, wanted: Offloads) {
        self.gso = wanted.udp_gso;
        if !wanted.udp_gro {
            // Where there is no such option it is off.
            let _ = set_option(self.socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 0);
        }
    }

    /// Whether it is of IPv6.
    pub fn is_v6(&self) -> bool {
        self.v6
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

    /// Takes datagrams that wait, about 128 KiB of them; returns whether there were any.
    pub fn receive(&self, into: &mut Datagrams) -> bool {
        into.filled = 0;
        let mut slots = into.memory.iter_mut();
        let mut slices: [_; SLOTS] = std::array::from_fn(|_| {
            let slot = slots.next().map_or(&mut [][..], Vec::as_mut_slice);
            IoSliceMut::new(slot)
        });
        let slices = &mut slices[..into.slots];
        let received = self.socket.try_io(Interest::READABLE, || {
            self.state
                .recv((&self.socket).into(), slices, &mut into.meta)
        });
        // An ICMP error of an earlier send is reported once here (RFC 1122 §4.1.3.3): nothing was received.
        into.filled = received.unwrap_or(0);
        into.taken = clock::wall();
        if let Some(each) = into.total().checked_div(into.filled) {
            into.slots = (CALL / each.max(1)).clamp(2, SLOTS);
        }
        into.filled > 0
    }

    /// Sends datagrams of `segment` bytes (the last may be shorter) to one place. Waits for room at most 10 ms.
    ///
    /// # Errors
    /// What the kernel says about this destination: no route, too long, refused earlier. The datagrams are lost.
    pub async fn send(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
        segment: usize,
        bytes: &[u8],
        manner: Manner,
    ) -> io::Result<()> {
        let segments = if self.gso {
            self.state.max_gso_segments().max(1)
        } else {
            1
        };
        let most = segment * segments;
        for train in bytes.chunks(most.max(1)) {
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: train,
                segment_size: (train.len() > segment).then_some(segment),
                src_ip: source,
            };
            self.send_train(&transmit, manner).await?;
        }
        Ok(())
    }

    async fn send_train(&self, transmit: &Transmit<'_>, manner: Manner) -> io::Result<()> {
        let mut deadline = None;
        loop {
            let result = self.attempt(transmit, manner);
            let Err(error) = &result else {
                return result;
            };
            let full = error.kind() == io::ErrorKind::WouldBlock;
            if full || error.raw_os_error() == Some(libc::ENOBUFS) {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                let room = async {
                    if !full {
                        sleep(BREATH).await;
                        return Ok(());
                    }
                    self.socket.writable().await
                };
                match timeout_at(deadline, room).await {
                    Ok(ready) => ready?,
                    Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                }
                continue;
            }
            // One segment is too long for the route, and the kernel has refused them all for it; or quinn-udp has just noticed
            // that this route takes no segments and has switched them off. One by one, then.
            let segments_refused =
                transmit.segment_size.is_some() && self.state.max_gso_segments() == 1;
            let too_long = quinn_udp::is_msg_size_err(error) && transmit.segment_size.is_some();
            if segments_refused || too_long {
                return self.send_singly(transmit, manner);
            }
            return result;
        }
    }

    fn send_singly(&self, transmit: &Transmit<'_>, manner: Manner) -> io::Result<()> {
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
            result = self.attempt(&single, manner);
        }
        result
    }

    /// One system call; in a manner of its own two more for each part of it, and nothing in between that could leave it set.
    fn attempt(&self, transmit: &Transmit<'_>, manner: Manner) -> io::Result<()> {
        self.socket.try_io(Interest::WRITABLE, || {
            let to = transmit.destination;
            // The kernel refuses a TTL of 0.
            if let Some(ttl) = manner.ttl {
                self.set_ttl(to, u32::from(ttl.max(1)))?;
            }
            let result = if manner.whole {
                self.send_whole(transmit)
            } else {
                self.state.try_send((&self.socket).into(), transmit)
            };
            if manner.ttl.is_some() {
                self.set_ttl(to, self.ttl)?;
            }
            result
        })
    }

    fn send_whole(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let (socket, v6) = (self.socket.as_fd(), transmit.destination.is_ipv6());
        set_discovery(socket, v6, true)?;
        let result = self.state.try_send((&self.socket).into(), transmit);
        set_discovery(socket, v6, false)?;
        result
    }

    fn set_ttl(&self, to: SocketAddr, ttl: u32) -> io::Result<()> {
        let socket = SockRef::from(&self.socket);
        if to.is_ipv4() {
            socket.set_ttl_v4(ttl)
        } else {
            socket.set_unicast_hops_v6(ttl)
        }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sets what becomes of datagrams that are longer than the path takes (IP_MTU_DISCOVER, ip(7), ipv6(7)). quinn-udp forbids fragments
/// always, as QUIC demands.
///
/// What finds out how much fits may not be cut, and what ICMP has said of the path does not count (PROBE). Data rather arrives in
/// fragments than not at all. Over IPv4 routers cut it, so nobody's ICMP errors are listened to, which anybody can forge (OMIT). Over
/// IPv6 nobody but this machine may cut, and for peers that answer no padded checks ICMP alone says when (DONT): the kernel takes
/// nothing below 1,280 for an answer.
fn set_discovery(socket: BorrowedFd<'_>, v6: bool, probing: bool) -> io::Result<()> {
    let (level, option, value) = match (v6, probing) {
        (false, false) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_OMIT,
        ),
        (false, true) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        ),
        (true, false) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        ),
        (true, true) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        ),
    };
    set_option(socket, level, option, value)
}

/// Buffers of this size where it is granted: SO_*BUFFORCE needs CAP_NET_ADMIN, which punchd has; else the system's limit counts.
fn size_buffers(socket: &Socket, size: usize) {
    let size = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
    for (force, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        let set = |option| set_option(socket.as_fd(), libc::SOL_SOCKET, option, size);
        if set(force).is_err() {
            let _ = set(plain);
        }
    }
}

#[expect(unsafe_code, reason = "these options have no safe wrapper")]
fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
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
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests;
