//! Frames of the relay.

use proptest::prelude::*;
use punch_signal_protocol::{
    DecodeError, Frame, MAX_RELAY_FRAME, MAX_RELAY_PACKET, RelayBuilder, RelayFrame, RelayLink,
    is_relay_frame, turn_relay_frame,
};

use crate::hex;

#[test]
fn a_frame_has_its_link_and_its_packets() {
    for (mut frame, first) in [
        (RelayBuilder::to_server(RelayLink(0x0102_0304)), "20"),
        (RelayBuilder::to_client(RelayLink(0x0102_0304)), "60"),
    ] {
        assert!(frame.is_empty());
        assert!(frame.push(b"one"));
        assert!(frame.push(b"further"));
        assert!(!frame.is_empty());
        let bytes = frame.finish();
        let expected = format!("{first} 01020304 0003 6f6e65 0007 66757274686572");
        assert_eq!(bytes, hex(&expected));
        assert!(is_relay_frame(&bytes));
        let (read, other) = match first {
            "20" => (
                RelayFrame::read_at_server(&bytes),
                RelayFrame::read_at_client(&bytes),
            ),
            _ => (
                RelayFrame::read_at_client(&bytes),
                RelayFrame::read_at_server(&bytes),
            ),
        };
        let read = read.unwrap();
        assert_eq!(read.link, RelayLink(0x0102_0304));
        assert_eq!(
            read.packets().collect::<Vec<_>>(),
            [&b"one"[..], b"further"]
        );
        assert!(matches!(other, Err(DecodeError::UnknownMessage(_))));
        // No version of the other frames takes it for one of its own.
        assert!(Frame::decode(&bytes).is_err());
    }
}

#[test]
fn a_frame_is_turned_where_it_lies() {
    let mut frame = RelayBuilder::to_server(RelayLink(1));
    assert!(frame.push(b"one"));
    let mut bytes = frame.finish();
    turn_relay_frame(&mut bytes, RelayLink(0x0A0B_0C0D));
    assert_eq!(bytes, hex("60 0a0b0c0d 0003 6f6e65"));
    let mut short = [32, 0, 0];
    turn_relay_frame(&mut short, RelayLink(1));
    assert_eq!(short, [32, 0, 0], "what is no frame stays as it is");
}

#[test]
fn what_does_not_fit_is_not_taken() {
    let mut frame = RelayBuilder::to_server(RelayLink(0));
    assert!(!frame.push(b""));
    assert!(!frame.push(&[0; MAX_RELAY_PACKET + 1]));
    let longest = [7; MAX_RELAY_PACKET];
    let mut count = 0;
    while frame.push(&longest) {
        count += 1;
    }
    assert_eq!(count, 7);
    assert!(frame.len() <= MAX_RELAY_FRAME);
    let bytes = frame.finish();
    let read = RelayFrame::read_at_server(&bytes).unwrap();
    assert_eq!(read.packets().count(), 7);
}

#[test]
fn nonsense_is_refused() {
    let read = |bytes: &str| RelayFrame::read_at_server(&hex(bytes)).map(|_| ());
    assert_eq!(read(""), Err(DecodeError::Truncated));
    assert_eq!(read("20 000000"), Err(DecodeError::Truncated));
    assert_eq!(read("21 00000000"), Err(DecodeError::UnknownMessage(0x21)));
    // No packet is no harm.
    assert_eq!(read("20 00000000"), Ok(()));
    assert_eq!(read("20 00000000 00"), Err(DecodeError::Truncated));
    assert_eq!(
        read("20 00000000 0000"),
        Err(DecodeError::BadValue("packet"))
    );
    assert_eq!(
        read("20 00000000 0801"),
        Err(DecodeError::BadValue("packet"))
    );
    assert_eq!(read("20 00000000 0002 aa"), Err(DecodeError::Truncated));
    let long = vec![0x20; MAX_RELAY_FRAME + 1];
    assert_eq!(
        RelayFrame::read_at_server(&long),
        Err(DecodeError::TooLong("relay frame"))
    );
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let reads = [RelayFrame::read_at_server(&bytes), RelayFrame::read_at_client(&bytes)];
        for frame in reads.into_iter().flatten() {
            let total: usize = frame.packets().map(|packet| packet.len() + 2).sum();
            prop_assert_eq!(total + 5, bytes.len());
            prop_assert_eq!(frame.packets().count(), frame.packet_count() as usize);
        }
    }

    #[test]
    fn what_is_built_is_read(
        link in any::<u32>(),
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..=MAX_RELAY_PACKET), 0..12),
    ) {
        let mut frame = RelayBuilder::to_client(RelayLink(link));
        let taken: Vec<_> = packets.iter().take_while(|packet| frame.push(packet)).collect();
        let bytes = frame.finish();
        let read = RelayFrame::read_at_client(&bytes).unwrap();
        prop_assert_eq!(read.link, RelayLink(link));
        prop_assert!(read.packets().eq(taken.into_iter().map(Vec::as_slice)));
    }
}
