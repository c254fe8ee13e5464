//! The channel against nodes of `mainline`, another implementation of the DHT, on this machine's loopback.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets, in real time"
)]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use ed25519_dalek::SigningKey;
use mainline::Testnet;
use punch_dht::{
    Attached, Client, Event, How, Item, Moment, Rendezvous, Scope, Urgency, VALUE_LENGTH,
};
use punch_signal_protocol::{Frame, Identity};

const PATIENCE: Duration = Duration::from_secs(60);

fn network(count: usize) -> (Testnet, Vec<SocketAddrV4>) {
    let network = Testnet::builder(count)
        .bind_address(Ipv4Addr::LOCALHOST)
        .seeded(false)
        .build()
        .unwrap();
    let bootstrap = network.bootstrap.iter().map(|at| at.parse().unwrap());
    let bootstrap = bootstrap.collect();
    (network, bootstrap)
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(5)))
        .unwrap();
    socket
}

/// A client alone, driven until the wanted event.
fn drive(client: &mut Client, socket: &UdpSocket, is_it: impl Fn(&Event) -> bool) -> Event {
    let began = Instant::now();
    let mut buffer = [0; 2048];
    loop {
        while let Some(transmit) = client.poll_transmit() {
            socket.send_to(&transmit.bytes, transmit.to).unwrap();
        }
        while let Some(event) = client.poll_event() {
            if is_it(&event) {
                return event;
            }
        }
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            client.handle_datagram(from, &buffer[..length], Instant::now());
        }
        if client.poll_timeout().is_some_and(|at| at <= Instant::now()) {
            client.handle_timeout(Instant::now());
        }
        assert!(began.elapsed() < PATIENCE, "{:?}", client.report());
    }
}

/// What one stores, nodes of another implementation keep, and another client finds; a newer value takes its place, an older one does
/// not.
#[test]
fn items_are_stored_and_found_at_nodes_of_another_implementation() {
    let (_network, bootstrap) = network(20);
    let (near, far) = (socket(), socket());
    let mut writer = Client::new([1; 32], Scope::Internet);
    let mut reader = Client::new([2; 32], Scope::Internet);
    writer.bootstrap(&bootstrap, Instant::now());
    reader.bootstrap(&bootstrap, Instant::now());
    drive(&mut writer, &near, |event| matches!(event, Event::Nodes(_)));
    let key = SigningKey::from_bytes(&[5; 32]);
    for (seq, byte, right) in [(10, 1, 1), (12, 2, 2), (11, 3, 2)] {
        let item = Item::sign(&key, seq, vec![byte; VALUE_LENGTH]);
        assert!(writer.put(item, Urgency::Soon, Instant::now()));
        let done = drive(&mut writer, &near, |event| {
            matches!(event, Event::Done { .. })
        });
        let Event::Done {
            stored, outdated, ..
        } = done
        else {
            panic!()
        };
        println!("seq {seq}: stored at {stored:?} nodes, outdated: {outdated}");
        assert_eq!(outdated, seq == 11);
        assert_eq!(stored.unwrap() >= 8, seq != 11);
        let began = Instant::now();
        let key = key.verifying_key().to_bytes();
        reader.get(key, How::Ask(3), Urgency::Soon, began);
        let found = drive(&mut reader, &far, |event| matches!(event, Event::Found(_)));
        println!("found after {:?}", began.elapsed());
        let Event::Found(item) = found else { panic!() };
        assert_eq!(item.value, vec![right; VALUE_LENGTH]);
        drive(&mut reader, &far, |event| {
            matches!(event, Event::Done { .. })
        });
    }
}

struct Machine {
    channel: Rendezvous,
    attached: Attached,
    socket: UdpSocket,
}

impl Machine {
    fn moment() -> Moment {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Moment {
            now: Instant::now(),
            wall_ms: u64::try_from(wall.unwrap().as_millis()).unwrap(),
        }
    }

    fn new(seed: u8, identity: Identity, bootstrap: &[SocketAddrV4]) -> Self {
        let mut channel = Rendezvous::new([seed; 32], Scope::Own);
        let attached = channel.attach(identity).unwrap();
        channel.bootstrap(bootstrap, Self::moment());
        Self {
            channel,
            attached,
            socket: socket(),
        }
    }

    fn frame(&mut self, frame: Frame) {
        let at = Self::moment();
        self.channel.handle_frame(self.attached, frame, at);
    }

    fn turn(&mut self) -> Option<Frame> {
        let mut buffer = [0; 2048];
        while let Some(transmit) = self.channel.poll_transmit() {
            self.socket.send_to(&transmit.bytes, transmit.to).unwrap();
        }
        if let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let at = Self::moment();
            self.channel.handle_datagram(from, &buffer[..length], at);
        }
        let due = self.channel.poll_timeout();
        if due.is_some_and(|due| due <= Instant::now()) {
            self.channel.handle_timeout(Self::moment());
        }
        self.channel.poll_frame().map(|(_, frame)| frame)
    }
}

#[test]
fn two_machines_exchange_envelopes_over_nodes_of_another_implementation() {
    let (_network, bootstrap) = network(20);
    let (a, b) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
    let mut first = Machine::new(3, a.clone(), &bootstrap);
    let mut second = Machine::new(4, b.clone(), &bootstrap);
    let began = Instant::now();
    let (offer, answer) = (vec![1; 911], vec![2; 863]);
    first.frame(Frame::Watch(b.id()));
    second.frame(Frame::Watch(a.id()));
    let envelope = offer.clone();
    first.frame(Frame::Send {
        to: b.id(),
        envelope,
    });
    loop {
        if let Some(frame) = second.turn() {
            println!("the offer came after {:?}", began.elapsed());
            let from = a.id();
            let envelope = offer.clone();
            assert_eq!(frame, Frame::Deliver { from, envelope });
            second.frame(Frame::Send {
                to: a.id(),
                envelope: answer.clone(),
            });
        }
        if let Some(frame) = first.turn() {
            println!("the answer came after {:?}", began.elapsed());
            let from = b.id();
            let envelope = answer.clone();
            assert_eq!(frame, Frame::Deliver { from, envelope });
            break;
        }
        let reports = (first.channel.report(), second.channel.report());
        assert!(began.elapsed() < PATIENCE, "{reports:?}");
    }
}
