//! A set of sockets tells of every datagram, and only of sockets that have some.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::future::poll_fn;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use punch_platform::{Datagrams, SocketSet, Udp};
use tokio::time::timeout;

/// A set of so many sockets, and their ports.
fn set_of(count: usize) -> (SocketSet<usize>, Vec<u16>) {
    let mut set = SocketSet::default();
    let ports = (0..count).map(|key| {
        let socket = Udp::open_probe(false, 0).unwrap();
        let port = socket.port();
        set.insert(key, socket);
        port
    });
    let ports = ports.collect();
    (set, ports)
}

fn sender() -> impl Fn(u16, &[u8]) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    move |port, bytes| {
        socket.send_to(bytes, (Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}

async fn readable(set: &SocketSet<usize>) -> bool {
    let wait = poll_fn(|context| set.poll_readable(context));
    timeout(Duration::from_millis(200), wait).await.is_ok()
}

/// Takes all there is, as the driver does; returns the keys with the number of datagrams.
async fn drain(set: &SocketSet<usize>) -> Vec<(usize, usize)> {
    let mut datagrams = Datagrams::default();
    let mut taken = Vec::new();
    while readable(set).await {
        for _ in 0..set.ready() {
            if let Some(key) = set.receive(&mut datagrams) {
                taken.push((key, datagrams.iter().count()));
            }
        }
    }
    taken
}

#[tokio::test]
async fn only_the_sockets_that_have_something_are_looked_at() {
    let (set, ports) = set_of(50);
    let send = sender();
    assert!(!readable(&set).await);

    send(ports[7], b"one");
    send(ports[30], b"two");

    let mut taken = drain(&set).await;
    taken.sort_unstable();
    assert_eq!(taken, [(7, 1), (30, 1)]);
    assert!(!readable(&set).await);
}

#[tokio::test]
async fn a_socket_tells_of_each_datagram_however_they_come() {
    let (set, ports) = set_of(20);
    let send = sender();
    let mut datagrams = Datagrams::default();
    let mut counts = vec![0; 20];
    for number in 0..4000_usize {
        send(ports[number * 7 % 20], b"datagram");
        // Sometimes read at once, sometimes after several, sometimes after a wait.
        if number % 3 == 0 {
            if number % 2 == 0 {
                assert!(readable(&set).await);
            }
            while let Some(key) = set.receive(&mut datagrams) {
                counts[key] += datagrams.iter().count();
            }
        }
    }
    for (key, count) in drain(&set).await {
        counts[key] += count;
    }
    assert_eq!(counts, [200; 20]);
}

#[tokio::test]
async fn a_busy_socket_does_not_keep_others_waiting() {
    let (set, ports) = set_of(2);
    let send = sender();
    for _ in 0..100 {
        send(ports[0], b"flood");
    }
    send(ports[1], b"please");
    assert!(readable(&set).await);
    // Until the runtime has seen both.
    tokio::time::sleep(Duration::from_millis(10)).await;

    let mut datagrams = Datagrams::default();
    let keys = [set.receive(&mut datagrams), set.receive(&mut datagrams)];

    assert!(
        keys.contains(&Some(0)) && keys.contains(&Some(1)),
        "{keys:?}"
    );
}

#[tokio::test]
async fn what_came_before_a_socket_was_added_is_found() {
    let socket = Udp::open_probe(false, 0).unwrap();
    sender()(socket.port(), b"early");
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut set = SocketSet::default();

    set.insert(5, socket);

    assert_eq!(drain(&set).await, [(5, 1)]);
}

#[tokio::test]
async fn a_removed_socket_is_given_back_and_tells_nothing_more() {
    let (mut set, ports) = set_of(2);
    let send = sender();
    send(ports[0], b"late");
    assert!(readable(&set).await);

    let removed = set.remove(0).unwrap();

    assert_eq!(removed.port(), ports[0]);
    assert!(set.get(0).is_none() && set.remove(0).is_none());
    send(ports[1], b"still here");
    assert_eq!(drain(&set).await, [(1, 1)]);
}

#[tokio::test]
async fn another_task_is_woken() {
    let (set, ports) = set_of(10);
    let wait = poll_fn(|context| set.poll_readable(context));
    let send = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        sender()(ports[9], b"wake up");
    };

    let both = async { tokio::join!(wait, send) };

    assert!(timeout(Duration::from_secs(5), both).await.is_ok());
}
