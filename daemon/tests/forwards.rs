//! What a forward must be like: as if the client sat beside the target.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use harness::{
    Echo, Lab, PATIENCE, Server, fill, number_from_env, receive_hashed, send_hashed, wait_until,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;

/// a reaches what b shares.
fn connected(hint: &str) -> Lab {
    Lab::connected(hint, "port-restricted", "port-restricted")
}

/// b shares this port; the result is where a finds it, over IPv4 and IPv6.
/// Shares a port of b. Comes before the target listens: punchd asks that once whether it does, and a target that counts its connections
/// or waits in one takes that for a client.
fn share(lab: &Lab, port: u16) -> [SocketAddr; 2] {
    lab.b.ctl_ok(&["forward", "tcp", &port.to_string()]);
    [lab.b.ipv4(), lab.b.ipv6()].map(|address| SocketAddr::new(address, port))
}

fn reset_on_close(stream: &TcpStream) {
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

#[test]
fn five_hundred_connections_are_open_at_once() {
    need_lab!();
    let lab = connected("many");
    let [v4, v6] = share(&lab, 7000);
    let echo = Echo::start(&lab.b, "127.0.0.1:7000");
    let mut streams = Vec::new();
    lab.a.inside(|| {
        for index in 0..500 {
            let stream =
                TcpStream::connect_timeout(if index % 2 == 0 { &v4 } else { &v6 }, PATIENCE)
                    .unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            streams.push(stream);
        }
    });
    assert_eq!(lab.b.ctl_json(&["forwards"])[0]["open"], 500);
    let line = |index: usize| format!("this is connection {index:03}");
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.write_all(line(index).as_bytes()).unwrap();
    }
    for (index, stream) in streams.iter_mut().enumerate().rev() {
        let mut back = vec![0; line(index).len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(String::from_utf8_lossy(&back), line(index));
    }
    assert_eq!(echo.accepted(), 500);
    drop(streams);
    wait_until(PATIENCE, "all are closed again", || {
        lab.b.ctl_json(&["forwards"])[0]["open"] == 0
    });
    assert_eq!(lab.b.ctl_json(&["forwards"])[0]["total"], 500);
    lab.a.expect_echo(v4);
}

/// systemd starts services with a soft limit of 1,024 files; a daemon that needs more must ask for it.
#[test]
fn the_usual_limit_of_open_files_does_not_limit_connections() {
    need_lab!();
    const COUNT: usize = 1500;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let mut lab = Lab::new("file", "port-restricted", "port-restricted");
    lab.b.stop();
    lab.b.punchd.argv.splice(
        0..0,
        ["prlimit".to_owned(), "--nofile=1024:16384".to_owned()],
    );
    lab.b.start();
    lab.connect();
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    let [to, _] = share(&lab, 7000);
    let mut streams = lab.a.inside(|| {
        let connect = |index| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE);
            stream.unwrap_or_else(|error| panic!("connection {index}: {error}"))
        };
        (0..COUNT).map(connect).collect::<Vec<_>>()
    });
    for stream in &mut streams {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(lab.b.ctl_json(&["forwards"])[0]["open"], COUNT);
}

/// A peer that opens all it can must not keep the user from taking its right away.
#[test]
fn with_few_files_connections_leave_the_control_socket_and_the_state_what_they_need() {
    need_lab!();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let mut lab = Lab::new("nofi", "port-restricted", "port-restricted");
    lab.b.stop();
    lab.b
        .punchd
        .argv
        .splice(0..0, ["prlimit".to_owned(), "--nofile=256:256".to_owned()]);
    lab.b.start();
    lab.connect();
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    let [to, _] = share(&lab, 7000);
    let connect = || TcpStream::connect_timeout(&to, PATIENCE);
    let streams: Vec<_> = lab
        .a
        .inside(|| (0..400).map_while(|_| connect().ok()).collect());
    // All but 44, of which a quarter is for paths.
    assert!((140..=160).contains(&streams.len()), "{}", streams.len());
    let forward = &lab.b.ctl_json(&["forwards"])[0];
    assert_eq!(forward["open"], streams.len());
    assert!(forward["refused"].as_u64() >= Some(1), "{forward}");
    lab.b.punchd.wait_for_log("the limit of open files");
    lab.b.ctl_ok(&["forward", "tcp", "7001"]);
    lab.b.ctl_ok(&["unforward", "tcp", "7001"]);
    lab.b.ctl_ok(&["peer", "remove", "a"]);
    assert!(lab.b.ctl_json(&["peers"]).as_array().unwrap().is_empty());
}

#[test]
fn a_forward_tells_what_is_wrong_with_its_target_until_it_is_right() {
    need_lab!();
    let lab = connected("trou");
    let [to, _] = share(&lab, 7000);
    let unheard = lab.b.ctl_json(&["forward", "tcp", "7001"]);
    let nobody = "connection refused at 127.0.0.1:7001";
    assert_eq!(unheard["trouble"]["message"], nobody, "{unheard}");
    assert!(lab.a.is_refused(to));
    let forward = &lab.b.ctl_json(&["forwards"])[0];
    assert_eq!(forward["failed"], 1, "{forward}");
    let refused = "connection refused at 127.0.0.1:7000";
    assert_eq!(forward["trouble"]["message"], refused);
    assert!(forward["trouble"]["at_ms"].as_u64() > Some(1_700_000_000_000));
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.a.expect_echo(to);
    let forward = &lab.b.ctl_json(&["forwards"])[0];
    assert!(forward["trouble"].is_null(), "{forward}");
    assert_eq!(
        (&forward["failed"], &forward["total"]),
        (&1.into(), &2.into())
    );
}

/// As many as a busy web server without keep-alive ends: more than may be open at once, in less time than TIME-WAIT lasts.
#[test]
fn connections_that_the_target_ended_use_up_no_room() {
    need_lab!();
    let lab = connected("shrt");
    let [to, _] = share(&lab, 7000);
    let _server = Server::start(&lab.b, "127.0.0.1:7000", |mut stream| {
        stream.write_all(b"bye").unwrap()
    });
    lab.a.inside(|| {
        for index in 0..2200 {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)
                .unwrap_or_else(|error| panic!("connection {index}: {error}"));
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answer = String::new();
            stream
                .read_to_string(&mut answer)
                .unwrap_or_else(|error| panic!("connection {index}: {error}"));
            assert_eq!(answer, "bye");
        }
    });
}

#[test]
fn either_end_may_finish_first_and_still_receive() {
    need_lab!();
    const LENGTH: u64 = 1 << 20;
    let lab = connected("half");
    let [late, early] = [7001, 7002].map(|port| share(&lab, port));
    // The target answers only after the client has finished: what it got, then a megabyte of its own.
    let _late = Server::start(&lab.b, "127.0.0.1:7001", |mut stream| {
        let (received, hash) = receive_hashed(&mut stream).unwrap();
        writeln!(stream, "{received} {hash}").unwrap();
        send_hashed(&mut stream, LENGTH, 2).unwrap();
    });
    // The target finishes at once, and then goes on receiving.
    let (sender, received) = mpsc::channel();
    let sender = Mutex::new(sender);
    let _early = Server::start(&lab.b, "127.0.0.1:7002", move |mut stream| {
        let sent = send_hashed(&mut stream, LENGTH, 3).unwrap();
        let received = receive_hashed(&mut stream).unwrap();
        sender.lock().unwrap().send((sent, received)).unwrap();
    });
    for to in late {
        let mut stream = lab.a.connect_tcp(to).unwrap();
        let sent = send_hashed(&mut stream, LENGTH, 1).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let first = answer.iter().position(|byte| *byte == b'\n').unwrap();
        assert_eq!(
            String::from_utf8_lossy(&answer[..first]),
            format!("{LENGTH} {sent}"),
            "{to}"
        );
        assert_eq!(answer.len() - first - 1, LENGTH as usize, "{to}");
    }
    for to in early {
        let mut stream = lab.a.connect_tcp(to).unwrap();
        let from_target = receive_hashed(&mut stream).unwrap();
        let sent = send_hashed(&mut stream, LENGTH, 4).unwrap();
        let (target_sent, target_received) = received.recv_timeout(PATIENCE).unwrap();
        assert_eq!(from_target, (LENGTH, target_sent), "{to}");
        assert_eq!(target_received, (LENGTH, sent), "{to}");
    }
    wait_until(PATIENCE, "nothing is left over", || {
        let forwards = lab.b.ctl_json(&["forwards"]);
        forwards
            .as_array()
            .unwrap()
            .iter()
            .all(|forward| forward["open"] == 0)
    });
}

#[test]
fn a_target_that_refuses_is_seen_to_refuse() {
    need_lab!();
    let lab = connected("refu");
    for to in share(&lab, 7000) {
        assert!(lab.a.is_refused(to), "{to}");
    }
}

#[test]
fn a_target_that_cannot_be_reached_is_seen_to_be_unreachable() {
    need_lab!();
    let lab = connected("unre");
    lab.b
        .exec_ok(&["ip", "route", "add", "unreachable", "192.0.2.0/24"]);
    lab.b
        .ctl_ok(&["forward", "tcp", "7000", "--to", "192.0.2.1:80"]);
    for address in [lab.b.ipv4(), lab.b.ipv6()] {
        let error = lab
            .a
            .connect_tcp(SocketAddr::new(address, 7000))
            .expect_err("nobody is there");
        let expected = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
        assert!(expected.contains(&error.kind()), "{address}: {error}");
    }
}

#[test]
fn a_reset_of_the_target_reaches_the_client() {
    need_lab!();
    let lab = connected("trst");
    let shared = share(&lab, 7000);
    let _server = Server::start(&lab.b, "127.0.0.1:7000", |mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        reset_on_close(&stream);
    });
    for to in shared {
        let mut stream = lab.a.connect_tcp(to).unwrap();
        stream.write_all(b"x").unwrap();
        let end = stream.read(&mut [0]);
        assert!(
            end.as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
            "{to}: {end:?}"
        );
    }
}

#[test]
fn a_reset_of_the_client_reaches_the_target() {
    need_lab!();
    let lab = connected("crst");
    let shared = share(&lab, 7000);
    let (sender, ends) = mpsc::channel();
    let sender = Mutex::new(sender);
    let _server = Server::start(&lab.b, "127.0.0.1:7000", move |mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"y").unwrap();
        let end = stream.read(&mut [0]).map_err(|error| error.kind());
        sender.lock().unwrap().send(end).unwrap();
    });
    for to in shared {
        let mut stream = lab.a.connect_tcp(to).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        reset_on_close(&stream);
        drop(stream);
        assert_eq!(
            ends.recv_timeout(PATIENCE).unwrap(),
            Err(ErrorKind::ConnectionReset),
            "{to}"
        );
    }
}

#[test]
fn a_range_of_ports_leads_to_a_range_of_ports() {
    need_lab!();
    let lab = connected("rang");
    let _servers = [9100, 9101, 9102].map(|port: u16| {
        Server::start(&lab.b, &format!("127.0.0.1:{port}"), move |mut stream| {
            write!(stream, "{port}").unwrap();
        })
    });
    lab.b
        .ctl_ok(&["forward", "tcp", "9000-9002", "--to", "127.0.0.1:9100"]);
    for offset in 0..3 {
        let mut stream = lab
            .a
            .connect_tcp(SocketAddr::new(lab.b.ipv4(), 9000 + offset))
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, (9100 + offset).to_string());
    }
    for outside in [8999, 9003, 9100] {
        assert!(
            lab.a.is_refused(SocketAddr::new(lab.b.ipv4(), outside)),
            "{outside}"
        );
    }
}

#[test]
fn a_target_may_be_another_machine_or_have_an_ipv6_address() {
    need_lab!();
    let lab = Lab::connected("else", "port-restricted", "open");
    let _six = Echo::start(&lab.b, "[::]:7006");
    lab.b
        .ctl_ok(&["forward", "tcp", "7006", "--to", "[::1]:7006"]);
    lab.b
        .ctl_ok(&["forward", "tcp", "7007", "--to", "localhost:7006"]);
    let _far = Echo::start(&lab.server, "0.0.0.0:7008");
    lab.b.ctl_ok(&[
        "forward",
        "tcp",
        "7008",
        "--to",
        &format!("{}:7008", lab.env("SERVER_IPV4")),
    ]);
    for port in [7006, 7007, 7008] {
        lab.a.expect_echo(SocketAddr::new(lab.b.ipv4(), port));
        lab.a.expect_echo(SocketAddr::new(lab.b.ipv6(), port));
    }
}

/// Sends until the other end no longer takes anything, then tells how much that was, and goes on when it may.
fn send_until_stalled(stream: &mut TcpStream, length: u64, stalled: &AtomicU64) -> u64 {
    let mut state = 5;
    let mut buffer = vec![0; 64 * 1024];
    let mut sent = 0;
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    while sent < length {
        fill(&mut state, &mut buffer);
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(written) => {
                    sent += written as u64;
                    rest = &rest[written..];
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "after {sent} bytes");
                    stalled.store(sent, Ordering::Relaxed);
                }
            }
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    sent
}

/// The bytes of [`send_until_stalled`], checked one block at a time.
fn expect_bytes(stream: &mut TcpStream, length: u64) {
    let mut state = 5;
    let (mut expected, mut got) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    for block in 0..length / 65_536 {
        fill(&mut state, &mut expected);
        stream
            .read_exact(&mut got)
            .unwrap_or_else(|error| panic!("block {block}: {error}"));
        assert!(expected == got, "block {block} has other bytes");
    }
    assert_eq!(stream.read(&mut got).unwrap(), 0, "and nothing more");
}

/// More than all buffers on the way can hold, many times.
const MUCH: u64 = 48 << 20;

/// What may lie in the buffers of two sockets, two kernels and punchd.
const BUFFERS: u64 = 24 << 20;

#[test]
fn a_slow_client_slows_its_target_and_loses_nothing() {
    need_lab!();
    let lab = connected("slow");
    let [to, _] = share(&lab, 7000);
    let [_, other] = share(&lab, 7001);
    let stalled = Arc::new(AtomicU64::new(0));
    let _server = Server::start(&lab.b, "127.0.0.1:7000", {
        let stalled = stalled.clone();
        move |mut stream| assert_eq!(send_until_stalled(&mut stream, MUCH, &stalled), MUCH)
    });
    let _echo = Echo::start(&lab.b, "127.0.0.1:7001");
    let mut stream = lab.a.connect_tcp(to).unwrap();
    wait_until(PATIENCE, "the target has to wait", || {
        stalled.load(Ordering::Relaxed) > 0
    });
    let waiting = stalled.load(Ordering::Relaxed);
    assert!(waiting < BUFFERS, "{waiting} bytes lie somewhere");
    lab.a.expect_echo(other);
    expect_bytes(&mut stream, MUCH);
}

#[test]
fn a_slow_target_slows_its_client_and_loses_nothing() {
    need_lab!();
    let lab = connected("slot");
    let [_, to] = share(&lab, 7000);
    let [other, _] = share(&lab, 7001);
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let (sender, done) = mpsc::channel();
    let sender = Mutex::new(sender);
    let _server = Server::start(&lab.b, "127.0.0.1:7000", move |mut stream| {
        wait.lock().unwrap().recv().unwrap();
        expect_bytes(&mut stream, MUCH);
        sender.lock().unwrap().send(()).unwrap();
    });
    let _echo = Echo::start(&lab.b, "127.0.0.1:7001");
    let stalled = AtomicU64::new(0);
    let mut stream = lab.a.connect_tcp(to).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| send_until_stalled(&mut stream, MUCH, &stalled));
        wait_until(PATIENCE, "the client has to wait", || {
            stalled.load(Ordering::Relaxed) > 0
        });
        let waiting = stalled.load(Ordering::Relaxed);
        go.send(()).unwrap();
        assert!(waiting < BUFFERS, "{waiting} bytes lie somewhere");
        lab.a.expect_echo(other);
    });
    done.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn both_directions_at_once_arrive_whole() {
    need_lab!();
    const LENGTH: u64 = 8 << 20;
    let lab = connected("dupl");
    let shared = share(&lab, 7000);
    let (sender, results) = mpsc::channel();
    let sender = Mutex::new(sender);
    let _server = Server::start(&lab.b, "127.0.0.1:7000", move |mut stream| {
        let mut copy = stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || send_hashed(&mut copy, LENGTH, 7).unwrap());
        let received = receive_hashed(&mut stream).unwrap();
        sender
            .lock()
            .unwrap()
            .send((sending.join().unwrap(), received))
            .unwrap();
    });
    for to in shared {
        let mut stream = lab.a.connect_tcp(to).unwrap();
        let mut copy = stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || send_hashed(&mut copy, LENGTH, 8).unwrap());
        let here = receive_hashed(&mut stream).unwrap();
        let sent = sending.join().unwrap();
        let (target_sent, there) = results.recv_timeout(PATIENCE).unwrap();
        assert_eq!(here, (LENGTH, target_sent), "{to}");
        assert_eq!(there, (LENGTH, sent), "{to}");
    }
}

/// Kernel to kernel through the two TUN devices, each way; PUNCH_TEST_BYTES sets the size.
#[test]
fn a_large_transfer_between_the_kernels_arrives_whole() {
    need_lab!();
    let length = number_from_env("PUNCH_TEST_BYTES", 64 << 20);
    let lab = connected("tun");
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    let (sender, results) = mpsc::channel();
    let sender = Mutex::new(sender);
    let _server = Server::start(&lab.b, "[::]:7000", move |mut stream| {
        let received = receive_hashed(&mut stream).unwrap();
        let sent = send_hashed(&mut stream, length, 12).unwrap();
        sender.lock().unwrap().send((received, sent)).unwrap();
    });
    for address in [lab.b.ipv4(), lab.b.ipv6()] {
        let mut stream = lab.a.connect_tcp(SocketAddr::new(address, 7000)).unwrap();
        let sent = send_hashed(&mut stream, length, 11).unwrap();
        let back = receive_hashed(&mut stream).unwrap();
        let (there, returned) = results.recv_timeout(PATIENCE).unwrap();
        assert_eq!(there, (length, sent), "to {address}");
        assert_eq!(back, (length, returned), "from {address}");
    }
}
