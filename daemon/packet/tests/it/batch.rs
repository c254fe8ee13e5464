//! Many packets in one reused allocation.

use proptest::prelude::*;
use punch_packet::Batch;

#[test]
fn packets_come_out_in_the_order_in_which_they_went_in() {
    let mut batch = Batch::with_capacity(4, 1500);
    assert!(batch.is_empty());

    batch.push(b"first");
    batch.push(b"");
    batch.push(b"third");

    assert_eq!((batch.len(), batch.is_empty()), (3, false));
    assert_eq!(
        batch.iter().collect::<Vec<_>>(),
        [&b"first"[..], b"", b"third"]
    );
}

#[test]
fn a_packet_is_written_in_place() {
    let mut batch = Batch::default();
    batch.push(b"before");

    let added = batch.push_with(8, |room| {
        assert_eq!(room.len(), 8);
        room[..3].copy_from_slice(b"abc");
        Some(3)
    });
    batch.push(b"after");

    assert!(added);
    assert_eq!(
        batch.iter().collect::<Vec<_>>(),
        [&b"before"[..], b"abc", b"after"]
    );
}

#[test]
fn a_writer_that_gives_up_adds_nothing() {
    let mut batch = Batch::default();
    batch.push(b"before");

    let added = batch.push_with(8, |room| {
        room.fill(0xEE);
        None
    });
    batch.push(b"after");

    assert!(!added);
    assert_eq!(batch.iter().collect::<Vec<_>>(), [&b"before"[..], b"after"]);
}

#[test]
fn a_writer_that_claims_more_than_it_had_gets_what_it_had() {
    let mut batch = Batch::default();

    assert!(batch.push_with(4, |_| Some(usize::MAX)));

    assert_eq!(batch.iter().collect::<Vec<_>>(), [[0; 4]]);
}

#[test]
fn a_cleared_batch_is_empty() {
    let mut batch = Batch::default();
    batch.push(b"before");

    batch.clear();
    batch.push(b"after");

    assert_eq!(batch.iter().collect::<Vec<_>>(), [b"after"]);
}

#[test]
fn the_last_packet_can_be_shortened_and_taken_away() {
    let mut batch = Batch::default();
    batch.pop();
    batch.shorten(3);
    assert_eq!(batch.last(), None);
    batch.push(b"first");
    batch.push(b"second");

    batch.shorten(3);
    assert_eq!(batch.last(), Some(&b"sec"[..]));
    batch.shorten(100);
    assert_eq!((batch.last(), batch.total()), (Some(&b"sec"[..]), 8));
    batch.pop();

    assert_eq!(batch.iter().collect::<Vec<_>>(), [b"first"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_batch_is_a_list_of_packets(
        steps in proptest::collection::vec((any::<bool>(), prop::option::of(0..40_usize), 0..40_usize, any::<u8>()), 0..30),
    ) {
        let (mut batch, mut list) = (Batch::default(), Vec::new());

        for (in_place, length, size, byte) in steps {
            if in_place {
                batch.push_with(size, |room| {
                    room.fill(byte);
                    length
                });
                list.extend(length.map(|length| vec![byte; length.min(size)]));
            } else {
                batch.push(&vec![byte; size]);
                list.push(vec![byte; size]);
            }
        }

        prop_assert_eq!(batch.len(), list.len());
        prop_assert_eq!(batch.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), list);
    }
}
