//! Sockets on loopback: offloads, options and what is inherited.

use std::mem::MaybeUninit;
use std::net::UdpSocket as StdSocket;

use socket2::{MaybeUninitSlice, MsgHdrMut};

use super::*;

/// A socket on loopback that is told with which TTL a datagram arrives.
fn listener(v6: bool) -> StdSocket {
    let (ip, level, option): (IpAddr, _, _) = if v6 {
        let v6 = (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT);
        (Ipv6Addr::LOCALHOST.into(), v6.0, v6.1)
    } else {
        let v4 = (libc::IPPROTO_IP, libc::IP_RECVTTL);
        (Ipv4Addr::LOCALHOST.into(), v4.0, v4.1)
    };
    let socket = StdSocket::bind((ip, 0)).unwrap();
    set_option(socket.as_fd(), level, option, 1).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

/// The next datagram's length and TTL.
#[expect(unsafe_code, reason = "control messages are C structs in bytes")]
fn arrival(socket: &StdSocket) -> (usize, i32) {
    let mut payload = [MaybeUninit::new(0); 2048];
    let mut control = [MaybeUninit::new(0_u8); 64];
    let mut slices = [MaybeUninitSlice::new(&mut payload)];
    let mut header = MsgHdrMut::new()
        .with_buffers(&mut slices)
        .with_control(&mut control);
    let length = SockRef::from(socket).recvmsg(&mut header, 0).unwrap();
    // SAFETY: they were set to 0 above, and the kernel writes nothing but values.
    let control = control.map(|byte| unsafe { byte.assume_init() });
    // A header of a length, a level and a type; then an int.
    let at = size_of::<libc::cmsghdr>();
    let ttl = control[at..at + 4].try_into().unwrap();
    (length, i32::from_ne_bytes(ttl))
}

#[tokio::test]
async fn a_ttl_is_that_of_its_datagrams_and_of_no_other() {
    for v6 in [false, true] {
        let (sender, listener) = (Udp::open_probe(v6, 0).unwrap(), listener(v6));
        let to = listener.local_addr().unwrap();
        for (ttl, expected) in [(None, 64), (Some(3), 3), (None, 64), (Some(0), 1)] {
            // Three segments: a train, where the kernel takes trains.
            let manner = Manner {
                ttl,
                ..Manner::default()
            };
            sender.send(to, None, 100, &[7; 250], manner).await.unwrap();

            for length in [100, 100, 50] {
                assert_eq!(arrival(&listener), (length, expected));
            }
        }
    }
}

#[tokio::test]
async fn the_default_ttl_comes_back_after_a_failed_send() {
    let (sender, listener) = (Udp::open_probe(false, 0).unwrap(), listener(false));
    let to = listener.local_addr().unwrap();

    let too_long = vec![0; 65_530];
    let manner = Manner {
        ttl: Some(3),
        ..Manner::default()
    };
    let failed = sender
        .send(to, None, too_long.len(), &too_long, manner)
        .await;
    let manner = Manner::default();
    sender.send(to, None, 10, &[7; 10], manner).await.unwrap();

    assert!(failed.is_err());
    assert_eq!(arrival(&listener), (10, 64));
}

#[expect(unsafe_code, reason = "these options have no safe wrapper")]
fn discovery(socket: &Udp, v6: bool) -> libc::c_int {
    let (level, option) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    let (mut value, mut length) = (-1, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the descriptor is open, and the kernel writes a c_int of the length given.
    let result = unsafe {
        libc::getsockopt(
            socket.socket.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    value
}

#[tokio::test]
async fn what_leaves_whole_changes_nothing_for_what_follows() {
    for v6 in [false, true] {
        let (sender, listener) = (Udp::open_probe(v6, 0).unwrap(), listener(v6));
        let to = listener.local_addr().unwrap();
        let usual = if v6 {
            libc::IPV6_PMTUDISC_DONT
        } else {
            libc::IP_PMTUDISC_OMIT
        };
        assert_eq!(discovery(&sender, v6), usual);
        let whole = Manner {
            ttl: Some(3),
            whole: true,
        };
        sender.send(to, None, 900, &[7; 900], whole).await.unwrap();
        assert_eq!(arrival(&listener), (900, 3));
        assert_eq!(discovery(&sender, v6), usual);
        // Also where the kernel refuses it.
        let long = vec![0; 65_530];
        assert!(sender.send(to, None, 65_530, &long, whole).await.is_err());
        assert_eq!(discovery(&sender, v6), usual);
        let manner = Manner::default();
        sender.send(to, None, 9, &[7; 9], manner).await.unwrap();
        assert_eq!(arrival(&listener), (9, 64));
    }
}

#[tokio::test]
async fn a_probing_socket_has_little_memory_until_it_is_enlarged() {
    let socket = Udp::open_probe(false, 0).unwrap();
    // The kernel doubles what is asked for.
    let buffer = || SockRef::from(&socket.socket).recv_buffer_size().unwrap();
    let few = buffer();

    socket.enlarge();

    assert!(few <= 2 * PROBE_BUFFER, "{few}");
    assert!(buffer() >= few);
}
