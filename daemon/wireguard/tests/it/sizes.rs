//! Destination buffers are large enough for whatever comes: boringtun panics where they are not.

use proptest::prelude::*;
use rand_core::RngCore;

use crate::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_datagram_of_any_size_is_taken_or_refused(
        kind in 0_u8..6,
        length in prop_oneof![0_usize..300, 0_usize..65_536],
        receiver in any::<[u8; 4]>(),
        right_receiver in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut world = World::connected();
        let right = world.ends[B].seal(1, world.now).unwrap();
        let mut datagram = vec![0; length];
        ChaCha20Rng::seed_from_u64(seed).fill_bytes(&mut datagram);
        let receiver = if right_receiver { *right[4..].first_chunk().unwrap() } else { receiver };
        let head = [kind, 0, 0, 0].into_iter().chain(receiver);
        datagram.iter_mut().zip(head).for_each(|(byte, head)| *byte = head);
        let (now, a) = (world.now, &mut world.ends[A]);

        prop_assert_eq!(a.open(&datagram, now), Opened::Refused);
        a.session.handle_answer(&datagram, address(2));
        a.receive(&datagram, address(2), now);
        if datagram.len() >= 32 {
            sign(&mut datagram, &public(1));
            a.receive(&datagram, address(2), now);
        }

        prop_assert_eq!(a.open(&right, now), Opened::Packet);
    }

    #[test]
    fn a_packet_of_any_size_is_sealed_padded_and_comes_out_again(
        length in prop_oneof![20_usize..1600, 20_usize..65_000],
    ) {
        let mut world = World::connected();
        let mut packet = vec![0x5A; length];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        let (now, [a, b]) = (world.now, &mut world.ends);
        let (mut sealed, mut out) = (Buffer::default(), Batch::default());
        a.session.seal(&packet, now, &mut sealed);

        let padded = sealed.len() - OVERHEAD;
        prop_assert!(padded.is_multiple_of(16) || padded == MTU || length > MTU);
        prop_assert_eq!(b.session.open(&sealed, now, &mut out), Opened::Packet);
        prop_assert_eq!(out.get(0), packet.as_slice());
    }
}

#[test]
fn what_is_authentic_and_no_ip_packet_comes_out_with_its_padding() {
    let mut world = World::connected();
    let (now, [a, b]) = (world.now, &mut world.ends);
    for text in [&b"hello"[..], &[0x45; 30], &[0x60; 60]] {
        let (mut sealed, mut out) = (Buffer::default(), Batch::default());
        a.session.seal(text, now, &mut sealed);
        assert_eq!(b.session.open(&sealed, now, &mut out), Opened::Packet);
        assert_eq!(out.get(0).len(), text.len().next_multiple_of(16));
        assert!(out.get(0).starts_with(text));
        assert_eq!(b.session.open(&sealed, now, &mut out), Opened::Refused);
    }
}
