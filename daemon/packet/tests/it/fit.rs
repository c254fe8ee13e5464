//! Whether a packet fits, and what may be done with one that does not.

use punch_packet::{Fit, GsoKind, Offload, Packet, fit};

use crate::{ACK, ping, tcp, udp};

const PLAIN: Offload = Offload {
    checksum: None,
    gso: None,
};

fn cut(kind: GsoKind, size: u16) -> Offload {
    Offload {
        gso: Some((kind, size)),
        ..PLAIN
    }
}

fn kind(v6: bool) -> GsoKind {
    if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 }
}

fn ask(packet: &[u8], offload: Offload, mtu: usize) -> Fit {
    fit(&Packet::parse(packet).unwrap(), offload, mtu)
}

#[test]
fn what_is_short_enough_passes_as_it_is() {
    for v6 in [false, true] {
        let headers = if v6 { 48 } else { 28 };
        let packet = udp(v6, &vec![7; 1400 - headers]);
        assert_eq!(ask(&packet, PLAIN, 1400), Fit::Passes(PLAIN));
        let packet = tcp(v6, ACK, 1, 1, b"short");
        assert_eq!(ask(&packet, PLAIN, 1400), Fit::Passes(PLAIN));
    }
}

#[test]
fn tcp_passes_in_segments_that_fit() {
    for v6 in [false, true] {
        let headers = if v6 { 60 } else { 40 };
        let long = tcp(v6, ACK, 1, 1, &[7; 9000]);
        let room = 1200 - headers;
        let right = Fit::Passes(cut(kind(v6), room));
        assert_eq!(ask(&long, PLAIN, 1200), right);
        assert_eq!(ask(&long, cut(kind(v6), 1400), 1200), right);
        // Segments that are short enough stay as they are.
        let short = cut(kind(v6), 500);
        assert_eq!(ask(&long, short, 1200), Fit::Passes(short));
        // No room for anything.
        assert_eq!(ask(&long, PLAIN, usize::from(headers)), Fit::TooLong);
    }
}

#[test]
fn ipv4_in_fragments_unless_it_is_forbidden() {
    let mut packet = udp(false, &[7; 1400]);
    packet[6] &= !0x40;
    assert_eq!(ask(&packet, PLAIN, 1200), Fit::Passes(PLAIN));
    packet[6] |= 0x40;
    assert_eq!(ask(&packet, PLAIN, 1200), Fit::TooLong);
}

#[test]
fn ipv6_of_1280_bytes_passes_always_and_no_more() {
    for length in [1201, 1280, 1281] {
        let packet = udp(true, &vec![7; length - 48]);
        let right = if length <= 1280 {
            Fit::Passes(PLAIN)
        } else {
            Fit::TooLong
        };
        assert_eq!(ask(&packet, PLAIN, 1200), right, "{length}");
    }
    let echo = ping(true, &[7; 2000]);
    assert_eq!(ask(&echo, PLAIN, 1200), Fit::TooLong);
}

#[test]
fn datagrams_that_the_kernel_has_joined_are_too_long_when_one_of_them_is() {
    for v6 in [false, true] {
        let mut joined = udp(v6, &[7; 9000]);
        if !v6 {
            joined[6] |= 0x40;
        }
        let short = cut(GsoKind::Udp, 1000);
        assert_eq!(ask(&joined, short, 1200), Fit::Passes(short));
        assert_eq!(ask(&joined, cut(GsoKind::Udp, 1300), 1200), Fit::TooLong);
    }
}

#[test]
fn datagrams_that_the_kernel_has_joined_may_be_cut_where_one_alone_may() {
    let mut joined = udp(false, &[7; 9000]);
    let long = cut(GsoKind::Udp, 1300);
    joined[6] |= 0x40;
    assert_eq!(ask(&joined, long, 1200), Fit::TooLong);
    joined[6] &= !0x40;
    assert_eq!(ask(&joined, long, 1200), Fit::Passes(long));
}

#[test]
fn an_offload_that_does_not_fit_is_left_to_whoever_cuts() {
    let packet = udp(false, &[7; 9000]);
    let wrong = cut(GsoKind::Tcp4, 1000);
    assert_eq!(ask(&packet, wrong, 1200), Fit::Passes(wrong));
}
