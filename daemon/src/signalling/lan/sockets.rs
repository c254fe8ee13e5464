//! The sockets of the LAN: for each family one in the group, which beacons come from and go to, and one for what is for this machine alone.
//!
//! The second has a port of its own, which beacons tell to those who can read them: several punchd on one machine share the group's port, and a
//! datagram for one machine that came there would reach any of them.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU16;
use std::task::{Context, Poll};

use punch_engine::lan::Link;
use punch_signal_protocol::lan::{GROUP_V4, GROUP_V6, MAX_DATAGRAM, PORT};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// Addresses of one link that calls leave from.
const MAX_SOURCES: usize = 4;

/// The two sockets of a family.
pub(super) struct Sockets {
    v6: bool,
    group: UdpSocket,
    joined: BTreeSet<u32>,
    single: UdpSocket,
    port: NonZeroU16,
}

impl Sockets {
    /// Opens the sockets of a family; what is for this machine alone comes to `port`, or to any if that is 0.
    ///
    /// # Errors
    /// Those of the system calls; `AddrInUse` where another program has the group's port for itself, or somebody the other one.
    pub(super) fn open(v6: bool, port: u16) -> io::Result<Self> {
        let group = socket(v6)?;
        // Others on this machine may listen, too: each gets what comes to the group.
        group.set_reuse_address(true)?;
        let at: SocketAddr = if v6 {
            group.set_multicast_all_v6(false)?;
            group.set_multicast_hops_v6(1)?;
            (Ipv6Addr::UNSPECIFIED, PORT).into()
        } else {
            group.set_multicast_all_v4(false)?;
            group.set_multicast_ttl_v4(1)?;
            (GROUP_V4, PORT).into()
        };
        group.bind(&at.into())?;
        let (single, port) = single(v6, port)?;
        Ok(Self {
            v6,
            group: UdpSocket::from_std(group.into())?,
            joined: BTreeSet::new(),
            single,
            port,
        })
    }

    /// Takes what is for this machine alone at another port, by which nobody knows it from another network.
    ///
    /// # Errors
    /// Those of the system calls; the port stays what it was.
    pub(super) fn change_port(&mut self) -> io::Result<()> {
        (self.single, self.port) = single(self.v6, 0)?;
        Ok(())
    }

    /// Listens on these links, as far as they have the family, and on no other.
    ///
    /// # Errors
    /// The first link's on which that fails, with its name; the others are tried all the same.
    pub(super) fn join(&mut self, links: &[Link]) -> Result<(), (String, io::Error)> {
        let wanted = |link: &&Link| link.has_family(self.v6);
        let wanted: Vec<_> = links.iter().filter(wanted).collect();
        let group = SockRef::from(&self.group);
        let (joined, v6) = (&mut self.joined, self.v6);
        joined.retain(|index| {
            let stays = wanted.iter().any(|link| link.index == *index);
            if !stays {
                // The kernel may have done so, with the link.
                let _ = leave(&group, v6, *index);
            }
            stays
        });
        let mut outcome = Ok(());
        for link in wanted {
            if joined.contains(&link.index) {
                continue;
            }
            let result = match join(&group, v6, link.index) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
                result => result,
            };
            match result {
                Ok(()) => drop(joined.insert(link.index)),
                Err(error) => outcome = outcome.and(Err((link.name.clone(), error))),
            }
        }
        outcome
    }

    /// Whether it listens on this link.
    pub(super) fn is_on(&self, link: &Link) -> bool {
        self.joined.contains(&link.index)
    }

    /// Where what is for this machine alone comes to.
    pub(super) fn port(&self) -> NonZeroU16 {
        self.port
    }

    /// Takes a datagram, if one is there.
    pub(super) fn poll_receive(
        &self,
        buffer: &mut [u8; MAX_DATAGRAM + 1],
        context: &mut Context<'_>,
    ) -> Poll<(SocketAddr, usize)> {
        for socket in [&self.single, &self.group] {
            let mut buffer = ReadBuf::new(buffer);
            match socket.poll_recv_from(context, &mut buffer) {
                Poll::Ready(Ok(from)) => return Poll::Ready((from, buffer.filled().len())),
                // An ICMP error of an earlier send.
                Poll::Ready(Err(_)) => context.waker().wake_by_ref(),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// Takes a datagram without waiting for one.
    pub(super) fn try_receive(
        &self,
        buffer: &mut [u8; MAX_DATAGRAM + 1],
    ) -> Option<(SocketAddr, usize)> {
        let mut sockets = [&self.single, &self.group].into_iter();
        let (length, from) = sockets.find_map(|socket| socket.try_recv_from(buffer).ok())?;
        Some((from, length))
    }

    /// The addresses of this machine that calls leave from on a link: each of IPv4, since its network knows no other, and of IPv6 the one
    /// that the kernel takes.
    pub(super) fn sources(&self, link: &Link) -> Vec<IpAddr> {
        if self.v6 {
            let to = SocketAddrV6::new(GROUP_V6, PORT, 0, link.index);
            return source_towards(to.into()).into_iter().collect();
        }
        let addresses = link.addresses.iter().map(|(ip, _)| *ip);
        addresses
            .filter(IpAddr::is_ipv4)
            .take(MAX_SOURCES)
            .collect()
    }

    /// Sends to the group on a link; IPv4 from `source`.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(super) fn call(&self, link: &Link, source: IpAddr, datagram: &[u8]) -> io::Result<()> {
        let group = SockRef::from(&self.group);
        let to: SocketAddr = match source {
            IpAddr::V4(source) => {
                // It says the link, too.
                group.set_multicast_if_v4(&source)?;
                (GROUP_V4, PORT).into()
            }
            IpAddr::V6(_) => SocketAddrV6::new(GROUP_V6, PORT, 0, link.index).into(),
        };
        group.send_to(datagram, &to.into()).map(drop)
    }

    /// Sends to one machine.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        // What the kernel has no room for is lost, as anywhere on the way.
        let single = SockRef::from(&self.single);
        single.send_to(datagram, &to.into()).map(drop)
    }
}

/// The address that the kernel sends from to this one.
pub(super) fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The socket for what is for this machine alone, and its port.
fn single(v6: bool, port: u16) -> io::Result<(UdpSocket, NonZeroU16)> {
    let single = socket(v6)?;
    let at: SocketAddr = if v6 {
        single.set_unicast_hops_v6(1)?;
        (Ipv6Addr::UNSPECIFIED, port).into()
    } else {
        single.set_ttl_v4(1)?;
        (Ipv4Addr::UNSPECIFIED, port).into()
    };
    single.bind(&at.into())?;
    let single = UdpSocket::from_std(single.into())?;
    let port = NonZeroU16::new(single.local_addr()?.port());
    Ok((single, port.ok_or(io::ErrorKind::AddrNotAvailable)?))
}

fn socket(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn join(group: &Socket, v6: bool, link: u32) -> io::Result<()> {
    match v6 {
        true => group.join_multicast_v6(&GROUP_V6, link),
        false => group.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(link)),
    }
}

fn leave(group: &Socket, v6: bool, link: u32) -> io::Result<()> {
    match v6 {
        true => group.leave_multicast_v6(&GROUP_V6, link),
        false => group.leave_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(link)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_network_sees_another_port() {
        let mut sockets = Sockets::open(false, 0).unwrap();
        let before = sockets.port();
        sockets.change_port().unwrap();
        assert_ne!(sockets.port(), before);
        assert_eq!(
            sockets.single.local_addr().unwrap().port(),
            sockets.port().get()
        );
    }
}
