//! punch-stun itself, on real sockets. Every test has loopback addresses of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use punch_stun_protocol::{ChangeRequest, Class, ErrorCode, Message, TransactionId, Writer};

const PORT: u16 = 3478;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(100);

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last byte tells the address, the others this test.
fn ip(test: u8, last: u8) -> IpAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 0x3F), low, test << 3 | last).into()
}

fn command(test: u8, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_punch-stun"));
    command
        .arg(format!("--listen={}:{PORT}", ip(test, 1)))
        .arg(format!("--alternate={}", ip(test, 2)))
        .args(options)
        .stderr(Stdio::piped());
    command
}

fn start(test: u8, options: &[&str]) -> Server {
    let mut command = command(test, options);
    let server = Server(command.stderr(Stdio::null()).spawn().unwrap());
    let client = client(test);
    client.set_read_timeout(Some(MOMENT)).unwrap();
    let began = Instant::now();
    while ask(&client, SocketAddr::new(ip(test, 1), PORT)).is_none() {
        assert!(
            began.elapsed() < START_TIMEOUT,
            "punch-stun does not answer"
        );
    }
    server
}

fn client(test: u8) -> UdpSocket {
    let socket = UdpSocket::bind((ip(test, 3), 0)).unwrap();
    socket.set_read_timeout(Some(START_TIMEOUT)).unwrap();
    socket
}

/// For what must not come: a machine too slow for this moment passes, too.
fn impatient(client: UdpSocket) -> UdpSocket {
    client.set_read_timeout(Some(MOMENT)).unwrap();
    client
}

fn request(number: u16) -> Writer {
    let mut transaction = [0; 12];
    transaction[..2].copy_from_slice(&number.to_be_bytes());
    Writer::new(Class::Request, TransactionId(transaction))
}

/// Sends and waits for an answer, once; resets by ICMP are no answer.
fn ask(client: &UdpSocket, server: SocketAddr) -> Option<Vec<u8>> {
    client.send_to(&request(0).finish(), server).ok()?;
    receive(client).map(|(_, bytes)| bytes)
}

fn receive(client: &UdpSocket) -> Option<(SocketAddr, Vec<u8>)> {
    let mut buffer = [0; 1500];
    let (length, from) = client.recv_from(&mut buffer).ok()?;
    Some((from, buffer[..length].to_vec()))
}

fn samples(test: u8) -> Option<(u16, u16)> {
    let answer = ask(&client(test), SocketAddr::new(ip(test, 1), PORT)).unwrap();
    Message::parse(&answer).unwrap().sample_ports
}

#[test]
fn an_answer_goes_to_the_response_port_from_where_it_was_asked_to_come() {
    let _server = start(0, &[]);
    let (asking, listening) = (client(0), client(0));
    let port = listening.local_addr().unwrap().port();
    for (both, from) in [
        (false, SocketAddr::new(ip(0, 1), PORT)),
        (true, SocketAddr::new(ip(0, 2), PORT + 1)),
    ] {
        let change = ChangeRequest {
            ip: both,
            port: both,
        };
        let bytes = request(1).response_port(port).change(change).finish();
        asking.send_to(&bytes, (ip(0, 1), PORT)).unwrap();

        let (source, answer) = receive(&listening).expect("the other port is answered");
        let answer = Message::parse(&answer).unwrap();
        assert_eq!(source, from);
        assert_eq!(answer.mapped, Some(asking.local_addr().unwrap()));
        let asking = impatient(asking.try_clone().unwrap());
        assert_eq!(receive(&asking), None, "and only that one");
    }

    asking.set_read_timeout(Some(START_TIMEOUT)).unwrap();
    let bytes = request(2).response_port(0).finish();
    asking.send_to(&bytes, (ip(0, 1), PORT)).unwrap();
    let (_, refusal) = receive(&asking).unwrap();
    let refusal = Message::parse(&refusal).unwrap();
    assert_eq!(refusal.error, Some(ErrorCode::BAD_REQUEST));
}

/// What a client does that looks closely at its NAT: as many requests as the help of --rate says.
#[test]
fn a_burst_of_three_hundred_over_all_sample_ports_is_answered() {
    let _server = start(1, &[]);
    assert_eq!(samples(1), Some((PORT + 2, PORT + 65)));
    let client = client(1);
    let places = || {
        let ports = (PORT..=PORT + 65).flat_map(|port| [(ip(1, 1), port), (ip(1, 2), port)]);
        ports.cycle().take(300).zip(0..)
    };
    let mut answered = vec![false; 300];
    for (place, number) in places() {
        client.send_to(&request(number).finish(), place).unwrap();
        // Its receive buffer would not hold them all.
        if number % 50 == 49 {
            for _ in 0..50 {
                let (_, answer) = receive(&client).expect("every request is answered");
                let answer = Message::parse(&answer).unwrap();
                assert_eq!(answer.mapped, Some(client.local_addr().unwrap()));
                let [high, low, ..] = answer.transaction.0;
                answered[usize::from(u16::from_be_bytes([high, low]))] = true;
            }
        }
    }
    assert!(answered.iter().all(|answered| *answered));
}

#[test]
fn a_taken_port_among_the_default_ones_is_left_out() {
    let _taken = UdpSocket::bind((ip(2, 2), PORT + 12)).unwrap();
    let _server = start(2, &[]);

    let told = samples(2);

    assert_eq!(told, Some((PORT + 13, PORT + 65)));
    assert!(ask(&client(2), SocketAddr::new(ip(2, 2), PORT + 13)).is_some());
}

#[test]
fn a_range_that_is_written_out_is_taken_or_the_start_fails() {
    let taken = UdpSocket::bind((ip(3, 2), 20_005)).unwrap();
    let output = command(3, &["--sample-ports=20000-20009"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains(&format!("cannot listen on {}:20005", ip(3, 2))),
        "{said}"
    );

    drop(taken);
    let _server = start(3, &["--sample-ports=20000-20009"]);
    assert_eq!(samples(3), Some((20_000, 20_009)));
    assert!(ask(&client(3), SocketAddr::new(ip(3, 2), 20_009)).is_some());
}

#[test]
fn sample_ports_can_be_switched_off() {
    let _server = start(4, &["--sample-ports=none"]);

    assert_eq!(samples(4), None);
    assert!(ask(&impatient(client(4)), SocketAddr::new(ip(4, 1), PORT + 2)).is_none());
}

#[test]
fn a_range_may_contain_the_main_ports() {
    let _server = start(5, &["--sample-ports=3470-3490"]);

    assert_eq!(samples(5), Some((3470, 3490)));
    for port in 3470..=3490 {
        assert!(
            ask(&client(5), SocketAddr::new(ip(5, 1), port)).is_some(),
            "{port}"
        );
    }
}

/// Over TCP, each message tells its own length.
fn ask_over_tcp(stream: &mut TcpStream, request: &[u8]) -> Option<Vec<u8>> {
    stream.write_all(request).ok()?;
    let mut answer = vec![0; 20];
    stream.read_exact(&mut answer).ok()?;
    answer.resize(
        20 + usize::from(u16::from_be_bytes([answer[2], answer[3]])),
        0,
    );
    stream.read_exact(&mut answer[20..]).ok()?;
    Some(answer)
}

fn connect(test: u8) -> TcpStream {
    let stream = TcpStream::connect((ip(test, 1), PORT)).unwrap();
    stream.set_read_timeout(Some(START_TIMEOUT)).unwrap();
    stream
}

#[test]
fn over_tcp_a_client_learns_its_address_and_whoever_says_anything_else_is_closed() {
    let _server = start(6, &[]);
    let mut stream = connect(6);
    for number in 0..8 {
        let answer = ask_over_tcp(&mut stream, &request(number).finish()).unwrap();
        let answer = Message::parse(&answer).unwrap();
        assert_eq!(answer.mapped, Some(stream.local_addr().unwrap()));
        assert_eq!((answer.other, answer.sample_ports), (None, None));
    }
    assert_eq!(
        ask_over_tcp(&mut stream, &request(8).finish()),
        None,
        "eight are enough"
    );

    // No answer goes anywhere but back.
    let change = ChangeRequest {
        ip: false,
        port: true,
    };
    let refused = ask_over_tcp(&mut connect(6), &request(1).change(change).finish()).unwrap();
    let refused = Message::parse(&refused).unwrap();
    assert_eq!(refused.error, Some(ErrorCode::BAD_REQUEST));
    let elsewhere = request(1).response_port(9).finish();
    assert_eq!(ask_over_tcp(&mut connect(6), &elsewhere), None);

    let long = [&[0, 1, 0xff, 0xfc, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    for rubbish in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &long] {
        assert_eq!(ask_over_tcp(&mut connect(6), rubbish), None);
    }
}

#[test]
fn who_says_no_whole_request_is_closed_before_its_time_and_a_request_may_come_in_pieces() {
    let _server = start(8, &[]);
    let began = Instant::now();
    let (mut silent, mut slow, mut client) = (connect(8), connect(8), connect(8));
    slow.write_all(&request(1).finish()[..19]).unwrap();
    let request = [request(1).finish(), request(2).finish()].concat();
    // A request comes in two pieces, and the next one right behind it.
    client.write_all(&request[..7]).unwrap();
    std::thread::sleep(MOMENT);
    assert!(ask_over_tcp(&mut client, &request[7..]).is_some());
    assert!(ask_over_tcp(&mut client, &[]).is_some());
    for stream in [&mut silent, &mut slow] {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
    // All connections end after thirty seconds.
    assert!(began.elapsed() < Duration::from_secs(29));
    // Whoever has asked stays for as long as a NAT is to keep its mapping.
    assert!(ask_over_tcp(&mut client, &self::request(3).finish()).is_some());
}

#[test]
fn one_source_has_so_many_connections_and_none_where_it_is_switched_off() {
    let server = start(7, &[]);
    let mut held: Vec<_> = (0..17).map(|_| connect(7)).collect();
    let answered = held
        .iter_mut()
        .map(|stream| ask_over_tcp(stream, &request(1).finish()));
    assert_eq!(answered.filter(Option::is_some).count(), 16);
    drop((held, server));

    let _server = start(7, &["--no-tcp"]);
    assert!(TcpStream::connect((ip(7, 1), PORT)).is_err());
}
