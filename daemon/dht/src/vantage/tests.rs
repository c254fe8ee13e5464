use proptest::prelude::*;
use punch_stun_protocol::ChangeRequest;

use super::*;

const OWN: NodeId = NodeId([7; 20]);
const ID: TransactionId = TransactionId(*b"abcdefghijkl");

fn node(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(198, 51, last, 1), 6881)
}

fn gateway() -> Gateway {
    let mut gateway = Gateway::new(OWN);
    gateway.set_nodes(&[node(1), node(2)]);
    gateway
}

fn request(id: TransactionId) -> Vec<u8> {
    Writer::new(Class::Request, id).finish()
}

fn seen() -> SocketAddrV4 {
    "203.0.113.5:40007".parse().unwrap()
}

fn answer(transaction: &[u8], seen: Option<SocketAddrV4>) -> Vec<u8> {
    let body = Body::Done {
        id: OWN,
        nodes: Vec::new(),
        token: None,
        item: None,
    };
    let transaction = transaction.to_vec();
    let answer = Answer {
        transaction,
        seen,
        body,
    };
    answer.encode()
}

#[test]
fn a_binding_request_becomes_a_ping_and_its_answer_a_binding_response() {
    let mut gateway = gateway();
    let Outwards::Ping(ping) = gateway.outwards(node(1).into(), &request(ID)) else {
        panic!("a ping")
    };
    assert_eq!(
        Query::decode(&ping),
        Ok((Query::Ping, b"abcd".to_vec(), OWN))
    );
    assert!(ping.windows(7).any(|part| part == b"2:roi1e"), "BEP 43");

    let told = answer(b"abcd", Some(seen()));
    let Inwards::Binding(bytes) = gateway.inwards(node(1).into(), &told) else {
        panic!("a response")
    };
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class, message.transaction), (Class::Success, ID));
    assert_eq!(message.mapped, Some(seen().into()));
    // A second answer, and one of another node, answer nothing.
    for from in [node(1), node(2)] {
        assert_eq!(gateway.inwards(from.into(), &told), Inwards::Nothing);
    }
}

#[test]
fn whatever_a_node_could_not_answer_stays_here() {
    let mut gateway = gateway();
    let to = node(1).into();
    let new = || Writer::new(Class::Request, ID);
    let change = ChangeRequest {
        ip: true,
        port: true,
    };
    for bytes in [
        new().change(change).finish(),
        new().response_port(9).finish(),
        new().username(b"a:b").finish_with_integrity(b"key"),
        Writer::new(Class::Success, ID).finish(),
        vec![4, 0, 0, 0],
        Vec::new(),
    ] {
        assert_eq!(gateway.outwards(to, &bytes), Outwards::Nothing, "{bytes:?}");
    }
    let elsewhere = "198.51.1.1:3478".parse().unwrap();
    assert_eq!(
        gateway.outwards(elsewhere, &request(ID)),
        Outwards::Unchanged
    );
    let told = answer(b"abcd", Some(seen()));
    assert_eq!(gateway.inwards(elsewhere, &told), Inwards::Unchanged);
    assert_eq!(gateway.inwards(to, &told), Inwards::Nothing, "unasked");
    assert_eq!(gateway.inwards(to, &[1, 2, 3]), Inwards::Unchanged);
}

#[test]
fn who_does_not_tell_an_address_is_replaced_unless_nobody_answers() {
    let mut gateway = gateway();
    let ask = |gateway: &mut Gateway, to: SocketAddrV4, turn: u8| {
        let id = TransactionId([turn; 12]);
        gateway.outwards(to.into(), &request(id));
        // Sent once more, it is the same question.
        gateway.outwards(to.into(), &request(id));
    };
    for turn in 0..MAX_UNANSWERED {
        ask(&mut gateway, node(1), turn);
        ask(&mut gateway, node(2), turn);
        let without = answer(&[turn; 4], None);
        assert_eq!(
            gateway.inwards(node(1).into(), &without),
            Inwards::Nothing,
            "it does not tell where it sees this machine"
        );
    }
    assert_eq!(gateway.poll_silent(), None, "nobody has answered");
    let last = answer(&[MAX_UNANSWERED - 1; 4], Some(seen()));
    let told = gateway.inwards(node(2).into(), &last);
    assert!(matches!(told, Inwards::Binding(_)));
    assert_eq!(gateway.poll_silent(), Some(node(1)));
    assert_eq!(gateway.poll_silent(), None);
    let asked = gateway.outwards(node(1).into(), &request(ID));
    assert!(
        matches!(asked, Outwards::Ping(_)),
        "until another one is named, nothing else than a ping goes there"
    );
}

#[test]
fn nodes_of_different_networks_are_chosen_and_stay() {
    let mut choice = Choice::default();
    for last in 1..MIN_VANTAGE as u8 {
        choice.offer(node(last), Scope::Internet);
        let neighbour = SocketAddrV4::new(Ipv4Addr::new(198, 51, last, 9), 6881);
        choice.offer(neighbour, Scope::Internet);
    }
    assert_eq!(choice.nodes(), [], "too few");
    for last in 1..100 {
        choice.offer(node(last), Scope::Internet);
    }
    let expected: Vec<_> = (1..=8).map(node).collect();
    assert_eq!(choice.nodes(), expected);
    choice.refuse(node(2));
    choice.offer(node(2), Scope::Internet);
    choice.offer(node(50), Scope::Internet);
    assert!(!choice.nodes().contains(&node(2)));
    assert_eq!(choice.nodes().last(), Some(&node(50)));
    for last in 1..100 {
        choice.remove(node(last));
    }
    choice.offer(node(60), Scope::Internet);
    assert_eq!(choice.nodes(), [], "too few once more");

    let mut own = Choice::default();
    for last in 1..=4 {
        let address = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), 6881);
        own.offer(address, Scope::Own);
        own.offer(SocketAddrV4::new(*address.ip(), 6882), Scope::Own);
    }
    assert_eq!(own.nodes().len(), 4, "one network, but other machines");
}

proptest! {
    /// Whatever comes, nothing panics, and only what was asked is answered, with the transaction of the question.
    #[test]
    fn answers_belong_to_questions(
        steps in proptest::collection::vec((any::<bool>(), 0u8..4, 0u8..8, any::<Option<u16>>()), 0..600),
        noise in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut gateway = Gateway::new(OWN);
        gateway.set_nodes(&[node(1), node(2), node(3)]);
        let mut open = std::collections::BTreeSet::new();
        for (asks, to, number, port) in steps {
            let at = node(to);
            let is_node = to != 0;
            if asks {
                let out = gateway.outwards(at.into(), &request(TransactionId([number; 12])));
                prop_assert_eq!(matches!(out, Outwards::Ping(_)), is_node);
                if is_node {
                    open.insert((to, number));
                }
            } else {
                let seen = port.filter(|port| *port != 0).map(|port| SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), port));
                let read = gateway.inwards(at.into(), &answer(&[number; 4], seen));
                let expected = match seen {
                    _ if !is_node => Inwards::Unchanged,
                    Some(seen) if open.remove(&(to, number)) => {
                        let writer = Writer::new(Class::Success, TransactionId([number; 12]));
                        Inwards::Binding(writer.xor_mapped(seen.into()).finish())
                    }
                    _ => Inwards::Nothing,
                };
                prop_assert_eq!(read, expected);
            }
        }
        for from in [node(0), node(1)] {
            let mut message = noise.clone();
            gateway.outwards(from.into(), &message);
            gateway.inwards(from.into(), &message);
            message.insert(0, DICTIONARY);
            gateway.inwards(from.into(), &message);
        }
        prop_assert!(gateway.asked.len() <= MAX_ASKED);
    }

    /// However many questions nobody answers, no more than so many are kept, and the newest is answered.
    #[test]
    fn questions_are_bounded(count in 0u32..700) {
        let mut gateway = gateway();
        for number in 1..=count {
            let mut id = [0; 12];
            id[..4].copy_from_slice(&number.to_be_bytes());
            gateway.outwards(node(1).into(), &request(TransactionId(id)));
        }
        prop_assert!(gateway.asked.len() <= MAX_ASKED);
        let told = gateway.inwards(node(1).into(), &answer(&count.to_be_bytes(), Some(seen())));
        prop_assert_eq!(matches!(told, Inwards::Binding(_)), count > 0);
    }
}
