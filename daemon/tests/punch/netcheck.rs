//! What `netcheck` finds out about real NATs.

use super::*;

/// What one host finds out about its NAT.
#[track_caller]
fn measures(
    host: &Host,
    mapping: Mapping,
    double: Option<bool>,
    words: &str,
    fits: impl Fn(Allocation) -> bool,
) {
    let view = host.netcheck();
    assert!(!view.udp_blocked && view.public.is_some(), "{view:#?}");
    assert_eq!(view.mapping, Some(mapping.into()), "{view:#?}");
    assert_eq!(
        view.filtering,
        Some(Filtering::AddressAndPortDependent.into()),
        "{view:#?}"
    );
    let known = |allocation: &AllocationView| match allocation {
        AllocationView::Known(allocation) => fits(*allocation),
        AllocationView::Unknown { .. } => false,
    };
    assert!(view.allocation.as_ref().is_some_and(known), "{view:#?}");
    assert_eq!(view.double_nat, double, "{view:#?}");
    assert_eq!(view.addresses.len(), 1, "{view:#?}");
    // Where each destination has a mapping of its own, nothing can be told.
    let hairpinning = (mapping != SYMMETRIC).then_some(false);
    assert_eq!(view.hairpinning, hairpinning, "{view:#?}");
    let answered = view.evidence.iter().filter(|probe| probe.mapped.is_some());
    assert!(answered.count() >= 4, "there is evidence: {view:#?}");
    let text = host.ctl_ok(&["netcheck"]);
    for part in [
        "servers see this machine as",
        "  ports      ",
        words,
        "samples, ports",
    ] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

const SYMMETRIC: Mapping = Mapping::AddressAndPortDependent;

#[test]
fn netcheck_tells_random_ports_from_a_block() {
    need_lab!();
    let normal = config("normal", "");
    let lab = lab("neta", "symmetric", "symmetric-block", [&normal, &normal]);
    measures(&lab.a, SYMMETRIC, None, "takes ports at random", |ports| {
        ports == Allocation::Random
    });
    measures(&lab.b, SYMMETRIC, None, "at random between", |ports| {
        let Allocation::Block { low, high } = ports else {
            return false;
        };
        // The block is within what is tried, and that is not much more.
        (39_000..=40_200).contains(&low) && (40_800..=42_200).contains(&high)
    });
}

#[test]
fn netcheck_tells_counting_from_keeping() {
    need_lab!();
    let normal = config("normal", "");
    let lab = lab(
        "netb",
        "sequential-3",
        "port-restricted",
        [&normal, &normal],
    );
    measures(
        &lab.a,
        SYMMETRIC,
        None,
        "the last port +3",
        |ports| matches!(ports, Allocation::Sequential { step: 3, others } if others <= 20),
    );
    measures(
        &lab.b,
        Mapping::EndpointIndependent,
        Some(false),
        "keeps the local port",
        |ports| ports == Allocation::Preserving,
    );
}

#[test]
fn netcheck_sees_the_second_nat() {
    need_lab!();
    let normal = config("normal", "");
    let kinds = ["double-port-restricted", "double-symmetric"];
    let lab = lab("netd", kinds[0], kinds[1], [&normal, &normal]);
    let easy = Mapping::EndpointIndependent;
    measures(
        &lab.a,
        easy,
        Some(true),
        "not the nearest router",
        |ports| ports == Allocation::Preserving,
    );
    // What opens the filter of a hard NAT opens another mapping than the one that is asked for: nothing can be told.
    measures(&lab.b, SYMMETRIC, None, "takes ports at random", |ports| {
        ports == Allocation::Random
    });
}

#[test]
fn netcheck_sees_that_others_use_the_nat() {
    need_lab!();
    let normal = config("normal", "");
    let kinds = ["sequential-5+20others", "open"];
    let lab = lab("neto", kinds[0], kinds[1], [&normal, &normal]);
    measures(
        &lab.a,
        SYMMETRIC,
        None,
        "others take about",
        |ports| matches!(ports, Allocation::Sequential { step: 5, others } if (5..=80).contains(&others)),
    );
}

#[test]
fn what_the_administrator_says_goes_before_what_is_measured() {
    need_lab!();
    let lie = config(
        "gentle",
        "mapping = \"address-dependent\"\nallocation = \"-2\"\naddresses = [\"192.0.2.7\", \"192.0.2.8\"]\n\
         hairpinning = true\nlifetime = 77\nopening_ttl = 9\n",
    );
    let lab = lab(
        "over",
        "port-restricted",
        "open",
        [&lie, &config("normal", "")],
    );
    let view = lab.a.netcheck();
    assert_eq!(view.mapping, Some(Mapping::AddressDependent.into()));
    assert_eq!(
        view.allocation,
        Some(
            Allocation::Sequential {
                step: -2,
                others: 0
            }
            .into()
        )
    );
    let addresses: Vec<_> = view.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.7", "192.0.2.8"]);
    assert_eq!(view.hairpinning, Some(true));
    assert_eq!(view.lifetime_s, Some(77));
    assert_eq!(view.opening_ttl, Some(9));
    let open = lab.b.netcheck();
    assert_eq!(open.mapping, Some(Mapping::None.into()), "{open:#?}");
    let why = lab.a.why("b");
    assert_eq!(why.budget.name, Budget::Gentle);
    assert_eq!(why.budget.mappings, 128);
    assert_eq!(why.budget.packets_per_s, 100);
}
