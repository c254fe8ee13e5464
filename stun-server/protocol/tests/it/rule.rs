//! The rule that answers one datagram.

use punch_stun_protocol::{
    ChangeRequest, Class, Endpoint, ErrorCode, MAX_AMPLIFICATION, Message, Writer, respond,
};

use crate::{TRANSACTION, addr, hex, message};

const SOURCE: &str = "203.0.113.9:40000";

fn alone() -> Endpoint {
    Endpoint {
        local: addr("192.0.2.1:3478"),
        other: None,
        samples: None,
    }
}

fn with_alternate() -> Endpoint {
    Endpoint {
        local: addr("192.0.2.1:3478"),
        other: Some(addr("192.0.2.2:3479")),
        samples: None,
    }
}

fn request() -> Writer {
    Writer::new(Class::Request, TRANSACTION)
}

#[test]
fn a_plain_request_is_answered_with_the_source_that_was_seen() {
    let answer = respond(&request().finish_plain(), addr(SOURCE), alone()).unwrap();

    let response = Message::parse(&answer.bytes).unwrap();
    assert_eq!(
        (answer.from, answer.to),
        (addr("192.0.2.1:3478"), addr(SOURCE))
    );
    assert_eq!(
        (response.class, response.transaction),
        (Class::Success, TRANSACTION)
    );
    assert_eq!(response.mapped, Some(addr(SOURCE)));
    assert_eq!(response.origin, Some(answer.from));
    assert_eq!(response.other, None);
}

#[test]
fn an_answer_has_its_bytes_for_ever() {
    let answer = respond(
        &request().finish(),
        addr("192.0.2.1:32853"),
        with_alternate(),
    )
    .unwrap();

    let expected = hex("0101 002c 2112a442 b7e7a701bc34d686fa87dfae
        0020 0008 0001a147 e112a643
        802b 0008 00010d96 c0000201
        802c 0008 00010d97 c0000202
        8028 0004 ff4d6ebc");
    assert_eq!(answer.bytes, expected);
}

#[test]
fn a_request_over_ipv6_is_answered_over_ipv6() {
    let endpoint = Endpoint {
        local: addr("[2001:db8::1]:3478"),
        other: Some(addr("[2001:db8::2]:3479")),
        samples: None,
    };

    let answer = respond(&request().finish(), addr("[2001:db8::9]:1"), endpoint).unwrap();

    let response = Message::parse(&answer.bytes).unwrap();
    assert_eq!(response.mapped, Some(addr("[2001:db8::9]:1")));
    assert_eq!(response.other, endpoint.other);
}

#[test]
fn change_request_chooses_the_socket_that_answers() {
    let choices = [
        (false, false, "192.0.2.1:3478"),
        (false, true, "192.0.2.1:3479"),
        (true, false, "192.0.2.2:3478"),
        (true, true, "192.0.2.2:3479"),
    ];
    for (ip, port, from) in choices {
        let datagram = request().change(ChangeRequest { ip, port }).finish();

        let answer = respond(&datagram, addr(SOURCE), with_alternate()).unwrap();

        let response = Message::parse(&answer.bytes).unwrap();
        assert_eq!(answer.from, addr(from));
        assert_eq!(response.origin, Some(addr(from)));
        assert_eq!(
            response.other,
            Some(addr("192.0.2.2:3479")),
            "the address that differs from where it was asked"
        );
        assert_eq!(response.mapped, Some(addr(SOURCE)));
    }
}

#[test]
fn change_request_without_alternate_is_a_bad_request() {
    for (ip, port) in [(false, true), (true, false), (true, true)] {
        let datagram = request().change(ChangeRequest { ip, port }).finish();

        let answer = respond(&datagram, addr(SOURCE), alone()).unwrap();

        let response = Message::parse(&answer.bytes).unwrap();
        assert_eq!(answer.from, addr("192.0.2.1:3478"));
        assert_eq!(
            (response.class, response.error),
            (Class::Error, Some(ErrorCode::BAD_REQUEST))
        );
        assert_eq!((response.transaction, response.mapped), (TRANSACTION, None));
    }
    let nothing = request().change(ChangeRequest::default()).finish();
    let answer = respond(&nothing, addr(SOURCE), alone()).unwrap();
    assert_eq!(Message::parse(&answer.bytes).unwrap().class, Class::Success);
}

#[test]
fn response_port_chooses_the_port_that_is_answered() {
    let both = ChangeRequest {
        ip: true,
        port: true,
    };
    for (datagram, from) in [
        (request().response_port(40_001), "192.0.2.1:3478"),
        (
            request().response_port(40_001).change(both),
            "192.0.2.2:3479",
        ),
    ] {
        let answer = respond(&datagram.finish(), addr(SOURCE), with_alternate()).unwrap();

        let response = Message::parse(&answer.bytes).unwrap();
        assert_eq!(
            (answer.from, answer.to),
            (addr(from), addr("203.0.113.9:40001"))
        );
        assert_eq!(
            response.mapped,
            Some(addr(SOURCE)),
            "the port that asked, not the one that is told"
        );
    }
}

#[test]
fn errors_go_to_who_asked_whatever_port_was_named() {
    let both = ChangeRequest {
        ip: true,
        port: true,
    };
    let padding = (0x0026, &[0; 64][..]);
    for (datagram, error) in [
        (request().response_port(0).finish(), ErrorCode::BAD_REQUEST),
        (
            request().response_port(40_001).change(both).finish(),
            ErrorCode::BAD_REQUEST,
        ),
        (
            message(0x0001, &[(0x0027, &hex("9c41")), padding]),
            ErrorCode::UNKNOWN_ATTRIBUTE,
        ),
    ] {
        let answer = respond(&datagram, addr(SOURCE), alone()).unwrap();

        let response = Message::parse(&answer.bytes).unwrap();
        assert_eq!(answer.to, addr(SOURCE));
        assert_eq!(
            (response.class, response.error),
            (Class::Error, Some(error))
        );
    }
}

#[test]
fn a_good_answer_tells_the_ports_to_sample_and_an_error_does_not() {
    let endpoint = Endpoint {
        samples: Some((3480, 3543)),
        ..alone()
    };
    let samples = |datagram: &[u8]| {
        let answer = respond(datagram, addr(SOURCE), endpoint).unwrap();
        Message::parse(&answer.bytes).unwrap().sample_ports
    };

    assert_eq!(samples(&request().finish()), Some((3480, 3543)));
    assert_eq!(samples(&request().response_port(0).finish()), None);
}

#[test]
fn an_unknown_attribute_that_must_be_understood_gets_420_and_its_number() {
    let datagram = message(
        0x0001,
        &[(0x7777, b"what"), (0x8777, b"fine"), (0x0026, b"")],
    );

    let answer = respond(&datagram, addr(SOURCE), with_alternate()).unwrap();

    let response = Message::parse(&answer.bytes).unwrap();
    assert_eq!(
        (response.class, response.error),
        (Class::Error, Some(ErrorCode::UNKNOWN_ATTRIBUTE))
    );
    assert_eq!(answer.bytes[48..56], hex("000a 0004 7777 0026"));
}

#[test]
fn indications_and_responses_are_never_answered() {
    for class in [Class::Indication, Class::Success, Class::Error] {
        let plain = Writer::new(class, TRANSACTION).finish();
        let changing = Writer::new(class, TRANSACTION)
            .change(ChangeRequest {
                ip: true,
                port: true,
            })
            .finish();

        assert_eq!(respond(&plain, addr(SOURCE), alone()), None);
        assert_eq!(respond(&changing, addr(SOURCE), alone()), None);
    }
}

#[test]
fn two_servers_never_talk_to_each_other_for_ever() {
    for datagram in [request().finish(), message(0x0001, &[(0x7777, b"")])] {
        let answer = respond(&datagram, addr(SOURCE), with_alternate()).unwrap();

        assert_eq!(respond(&answer.bytes, addr(SOURCE), with_alternate()), None);
    }
}

#[test]
fn what_does_not_parse_gets_silence() {
    let mut wrong_fingerprint = request().finish();
    wrong_fingerprint[27] ^= 1;

    for datagram in [
        &b""[..],
        b"hello",
        &wrong_fingerprint,
        &message(0x0001, &[(0x0024, b"")]),
        &message(0x0003, &[]),
    ] {
        assert_eq!(respond(datagram, addr(SOURCE), with_alternate()), None);
    }
}

#[test]
fn the_smallest_request_is_answered_within_the_amplification_limit() {
    let endpoint = Endpoint {
        local: addr("[2001:db8::1]:3478"),
        other: Some(addr("[2001:db8::2]:3479")),
        samples: Some((3480, 3543)),
    };

    let answer = respond(&request().finish_plain(), addr("[2001:db8::9]:1"), endpoint).unwrap();

    assert_eq!(answer.bytes.len(), 108);
    assert!(answer.bytes.len() <= 20 * MAX_AMPLIFICATION);
    assert_eq!(MAX_AMPLIFICATION, 6);
}
