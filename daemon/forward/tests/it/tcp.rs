//! A forwarded connection from its SYN to its last byte.

use std::net::IpAddr;

use punch_api::Protocol;
use punch_forward::{BUFFER, Order, Refused, TargetEvent};
use punch_packet::Packet;
use smoltcp::socket::tcp::State;

use crate::client;
use crate::packets::{ACK, FIN, RST, SYN, addr, flags, icmp_error, tcp};
use crate::world::{Manner, SERVER_V4, SERVER_V6, World};
use crate::{OTHER_PEER, PEER, counts, key, ms, noise, secs};

const CLIENT: &str = "100.64.0.2:40000";
const SERVER: &str = "100.64.0.1:5432";

// --- opening ---

#[test]
fn the_syn_is_held_until_the_target_is_connected() {
    let mut world = World::new(Manner::Manual);
    let program = world.connect(40000, 5432);

    world.run(secs(5));

    assert_eq!(world.client.state(program), State::SynSent);
    assert_eq!(world.to_client.len(), 0, "the client hears nothing yet");
    let [
        Order::Connect {
            stream,
            protocol,
            target,
            peer,
            forward,
            window,
        },
    ] = &world.orders[..]
    else {
        panic!("one Connect, for all the repeated SYNs: {:?}", world.orders);
    };
    assert_eq!(
        (*protocol, target.to_string().as_str()),
        (Protocol::Tcp, "127.0.0.1:5432")
    );
    assert_eq!((*peer, *forward), (PEER, key(Protocol::Tcp, "5432")));
    assert_eq!(*window, BUFFER);

    world.report(*stream, TargetEvent::Connected);
    world.run(ms(100));

    assert_eq!(world.client.state(program), State::Established);
    assert!(flags(&world.to_client[0]).unwrap().syn() && flags(&world.to_client[0]).unwrap().ack());
}

#[test]
fn a_port_of_a_range_leads_to_its_counterpart() {
    let mut world = World::new(Manner::Eager);
    world.connected(40000, 8003);
    let Order::Connect {
        target, forward, ..
    } = &world.orders[0]
    else {
        panic!()
    };
    assert_eq!(target.to_string(), "10.0.0.7:83");
    assert_eq!(*forward, key(Protocol::Tcp, "8000-8010"));
}

#[test]
fn where_the_target_refuses_the_client_is_refused() {
    let mut world = World::new(Manner::Manual);
    let program = world.connect(40000, 5432);
    world.run(ms(50));
    let stream = world.last_stream();

    world.report(stream, TargetEvent::Refused);
    world.run(ms(50));

    assert_eq!(world.client.state(program), State::Closed);
    assert!(flags(&world.to_client[0]).unwrap().rst());
    assert_eq!(world.orders.last(), Some(&Order::Close(stream)));
    assert_eq!(counts(&world.stack, key(Protocol::Tcp, "5432")), (0, 1));
}

#[test]
fn where_the_target_cannot_be_reached_the_client_is_told_by_icmp() {
    let mut world = World::new(Manner::Manual);
    world.connect(40000, 5432);
    world.run(ms(50));
    let stream = world.last_stream();

    world.report(stream, TargetEvent::Unreachable);
    let sent = world.drain();

    assert_eq!(sent.len(), 1);
    assert_eq!(icmp_error(&sent[0]), Some((3, 1)));
    let packet = Packet::parse(&sent[0]).unwrap();
    let quoted = packet.quoted_flow().unwrap();
    assert_eq!(
        (quoted.source, quoted.destination),
        (addr(CLIENT), addr(SERVER))
    );
    assert_eq!(packet.source(), addr(SERVER).ip());
    assert!(packet.checksum_is_right());
    assert_eq!(world.new_orders(), [Order::Close(stream)]);
}

#[test]
fn a_client_that_gives_up_while_the_target_is_connected_takes_the_stream_with_it() {
    let mut world = World::new(Manner::Manual);
    world
        .inject(&tcp(addr(CLIENT), addr(SERVER), SYN, 1000, 0))
        .unwrap();
    let Some(Order::Connect { stream, .. }) = world.stack.poll_order() else {
        panic!()
    };

    world
        .inject(&tcp(addr(CLIENT), addr(SERVER), RST, 1001, 0))
        .unwrap();

    assert_eq!(world.new_orders(), [Order::Reset(stream)]);
    world.report(stream, TargetEvent::Connected);
    assert_eq!((world.drain(), world.new_orders()), (vec![], vec![]));
    assert_eq!(world.stack.poll_timeout(), None);
}

#[test]
fn a_client_that_resets_before_it_is_established_takes_the_stream_with_it() {
    // What a port scan with half-open connections looks like.
    let mut world = World::new(Manner::Manual);
    world
        .inject(&tcp(addr(CLIENT), addr(SERVER), SYN, 1000, 0))
        .unwrap();
    let Some(Order::Connect { stream, .. }) = world.stack.poll_order() else {
        panic!()
    };
    world.report(stream, TargetEvent::Connected);
    assert_eq!(world.drain().len(), 1, "SYN-ACK");

    world
        .inject(&tcp(addr(CLIENT), addr(SERVER), RST, 1001, 0))
        .unwrap();

    assert_eq!(world.new_orders(), [Order::Reset(stream)]);
    assert_eq!(counts(&world.stack, key(Protocol::Tcp, "5432")), (0, 1));
    assert_eq!(world.stack.poll_timeout(), None);
}

#[test]
fn a_syn_that_is_damaged_opens_nothing() {
    let mut world = World::new(Manner::Manual);
    let mut damaged = tcp(addr(CLIENT), addr(SERVER), SYN, 1000, 0);
    damaged[27] ^= 1;

    assert_eq!(world.inject(&damaged), Err(Refused::Malformed));
    assert_eq!(world.new_orders(), []);
}

#[test]
fn a_syn_that_makes_no_sense_leaves_nothing_behind() {
    let mut world = World::new(Manner::Manual);
    let both = tcp(addr(CLIENT), addr(SERVER), SYN | FIN, 1000, 0);

    if world.inject(&both).is_ok() {
        let Some(Order::Connect { stream, .. }) = world.stack.poll_order() else {
            panic!()
        };
        world.report(stream, TargetEvent::Connected);
        assert_eq!(world.new_orders(), [Order::Reset(stream)]);
    }

    assert_eq!(counts(&world.stack, key(Protocol::Tcp, "5432")).0, 0);
    assert_eq!(world.stack.poll_timeout(), None);
}

#[test]
fn a_segment_from_the_middle_of_no_connection_is_refused() {
    let mut world = World::new(Manner::Manual);
    for bits in [ACK, ACK | FIN, SYN | ACK, RST, FIN, 0] {
        let segment = tcp(addr(CLIENT), addr(SERVER), bits, 1000, 2000);
        assert_eq!(
            world.inject(&segment),
            Err(Refused::NoConnection),
            "{bits:#x}"
        );
    }
    assert_eq!((world.new_orders(), world.drain()), (vec![], vec![]));
}

#[test]
fn a_port_without_a_forward_or_with_one_for_others_is_refused() {
    let mut world = World::new(Manner::Manual);
    for port in [1, 5433, 7999, 53, 9000] {
        let server = std::net::SocketAddr::new(addr(SERVER).ip(), port);
        let syn = tcp(addr(CLIENT), server, SYN, 1000, 0);
        assert_eq!(world.inject(&syn), Err(Refused::NoForward), "{port}");
        let late = tcp(addr(CLIENT), server, ACK, 1000, 1);
        assert_eq!(world.inject(&late), Err(Refused::NoForward), "{port}");
    }
    assert_eq!(world.new_orders(), []);

    let private = tcp(addr(CLIENT), addr("100.64.0.1:9000"), SYN, 1000, 0);
    let packet = Packet::parse(&private).unwrap();
    let taken = world
        .stack
        .handle_packet(OTHER_PEER, &packet, &world.rules, world.now);
    assert_eq!(taken, Ok(()));
}

#[test]
fn the_same_ports_of_two_peers_are_two_connections() {
    let mut world = World::new(Manner::Manual);
    let syn = tcp(addr(CLIENT), addr(SERVER), SYN, 1000, 0);
    let packet = Packet::parse(&syn).unwrap();
    for peer in [PEER, OTHER_PEER] {
        world
            .stack
            .handle_packet(peer, &packet, &world.rules, world.now)
            .unwrap();
    }
    let streams: Vec<_> = world.new_orders();
    assert_eq!(streams.len(), 2);

    let Order::Connect { stream, peer, .. } = streams[1] else {
        panic!()
    };
    world.report(stream, TargetEvent::Connected);

    assert_eq!(peer, OTHER_PEER);
    assert_eq!(world.stack.poll_packet().unwrap().0, OTHER_PEER);
    assert!(world.stack.poll_packet().is_none());
}

// --- bytes ---

#[test]
fn megabytes_pass_both_ways_at_once() {
    for (number, server) in [SERVER_V4, SERVER_V6].into_iter().enumerate() {
        let mut world = World::new(Manner::Eager);
        let server: IpAddr = server.parse().unwrap();
        let program = world.client.connect(40000, server, 5432);
        world.run(ms(100));
        let stream = world.last_stream();
        let (up, down) = (noise(2 << 20, 10), noise(3 << 20, 11));

        world.client.send(program, &up);
        world.target_sends(stream, &down);
        world.run(secs(20));

        assert!(world.target(stream).received == up, "{number}");
        assert!(world.client.programs[program].received == down, "{number}");
        let next = world.stack.poll_timeout().unwrap();
        let pause = next.saturating_duration_since(world.now);
        assert!(
            pause > secs(5),
            "a quiet connection does nothing: {pause:?}"
        );
        assert_eq!(world.refused, []);
    }
}

#[test]
fn a_target_that_does_not_read_slows_its_client_and_nobody_else() {
    let mut world = World::new(Manner::Deaf);
    let (slow, slow_stream) = world.connected(40000, 5432);
    let bytes = noise(2 << 20, 12);
    world.client.send(slow, &bytes);

    world.run(secs(10));

    let taken = bytes.len() - world.client.unsent(slow);
    assert!(taken <= BUFFER + client::BUFFER, "{taken} bytes were taken");
    assert!(taken >= BUFFER, "{taken} bytes were taken");
    assert!(world.orders.contains(&Order::Readable(slow_stream)));

    world.manner = Manner::Eager;
    let (quick, quick_stream) = world.connected(40001, 5432);
    world.client.send(quick, b"hello");
    world.run(ms(100));
    assert_eq!(world.target(quick_stream).received, b"hello");

    while world.target_reads(slow_stream, 50_000) > 0 {
        world.run(ms(20));
    }
    world.run(secs(10));
    assert!(world.target(slow_stream).received == bytes);
}

#[test]
fn a_client_that_does_not_read_stops_its_target_until_there_is_room() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    world.client.programs[program].reads = false;
    let bytes = noise(2 << 20, 13);

    world.target_sends(stream, &bytes);
    world.run(secs(10));

    let taken = bytes.len() - world.target_unsent(stream);
    assert!(taken <= BUFFER + client::BUFFER, "{taken} bytes were taken");
    assert!(
        world.orders.contains(&Order::Writable(stream)),
        "as the client's buffer filled, there was room"
    );
    let orders = world.orders.len();
    world.run(secs(60));
    assert_eq!(
        world.orders.len(),
        orders,
        "nothing happens while nobody reads"
    );

    world.client.programs[program].reads = true;
    world.run(secs(60));
    assert!(world.client.programs[program].received == bytes);
}

#[test]
fn the_target_takes_as_much_as_it_asks_for() {
    let mut world = World::new(Manner::Deaf);
    let (program, stream) = world.connected(40000, 5432);
    world.client.send(program, b"abcdefgh");
    world.run(ms(100));

    assert_eq!(world.stack.read(stream, 0), "");
    assert_eq!(world.stack.read(stream, 3), "abc");
    assert_eq!(world.stack.read(stream, 100), "defgh");
    assert_eq!(world.stack.read(stream, 100), "");
}

#[test]
fn what_is_left_unread_is_offered_again() {
    let mut world = World::new(Manner::Deaf);
    let (program, stream) = world.connected(40000, 5432);
    world.client.send(program, b"abcdefgh");
    world.run(ms(100));
    world.orders.clear();

    world.stack.read(stream, 3);
    world.run(ms(1));

    assert_eq!(world.orders, [Order::Readable(stream)]);
}

#[test]
fn a_target_may_speak_first() {
    let mut world = World::new(Manner::Eager);
    let program = world.connect(40000, 5432);
    world.run(ms(6));
    let stream = world.last_stream();

    // The client's side of the handshake is still on its way.
    world.target_sends(stream, b"220 ready");
    assert_eq!(world.client.state(program), State::SynSent);
    world.run(ms(100));

    assert_eq!(world.client.programs[program].received, b"220 ready");
}

#[test]
fn a_stream_that_is_gone_takes_and_gives_nothing() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    world.client.socket(program).abort();
    world.run(ms(50));

    assert_eq!(world.stack.read(stream, 100), "");
    assert_eq!(
        world.stack.write(stream, b"too late"),
        8,
        "a writer must not wait for room that never comes"
    );
    for event in [
        TargetEvent::Connected,
        TargetEvent::Finished,
        TargetEvent::Reset,
        TargetEvent::Refused,
    ] {
        world.report(stream, event);
    }
    world.stack.write_datagram(stream, b"x", world.now);
    assert_eq!((world.drain(), world.new_orders()), (vec![], vec![]));
}

#[test]
fn the_same_seed_gives_the_same_packets_and_another_one_other_sequence_numbers() {
    let run = |seed| {
        let mut world = World::seeded(Manner::Eager, seed);
        let (program, stream) = world.connected(40000, 5432);
        world.client.send(program, &noise(5_000, 1));
        world.target_sends(stream, &noise(5_000, 2));
        world.run(secs(1));
        world.to_client
    };
    let sequence = |packets: &[Vec<u8>]| packets[0][24..28].to_vec();
    let first = run(3);
    assert_eq!(first, run(3));
    assert_ne!(sequence(&first), sequence(&run(4)));
}

#[test]
fn connections_start_at_sequence_numbers_of_their_own() {
    let mut world = World::new(Manner::Eager);
    for port in 40000..40010 {
        world.connected(port, 5432);
    }
    let mut starts: Vec<_> = world
        .to_client
        .iter()
        .filter(|packet| flags(packet).unwrap().syn())
        .map(|packet| packet[24..28].to_vec())
        .collect();
    starts.sort();
    starts.dedup();
    assert_eq!(starts.len(), 10);
}

#[test]
fn the_counts_tell_what_is_open_and_what_has_been() {
    let mut world = World::new(Manner::Eager);
    let database = key(Protocol::Tcp, "5432");
    assert_eq!(counts(&world.stack, database), (0, 0));

    let (first, _) = world.connected(40000, 5432);
    world.connected(40001, 5432);
    world.connected(40002, 8000);
    assert_eq!(counts(&world.stack, database), (2, 2));
    assert_eq!(
        counts(&world.stack, key(Protocol::Tcp, "8000-8010")),
        (1, 1)
    );

    world.client.socket(first).abort();
    world.run(ms(50));
    assert_eq!(counts(&world.stack, database), (1, 2));
}
