//! Where a run has seen too few mappings.
//!
//! Perhaps the NAT has given it no more after the first ones: then as many as it gave are all that there are.
//! That many samples stay unanswered may have another reason: a firewall lets only some ports of the server through. So endpoints
//! that have answered before are asked from another socket, which needs new mappings for that.
//!
//! And of a NAT that makes one mapping for each address, a socket sees no more than the servers have addresses: the others see as many.

use std::net::SocketAddr;
use std::time::Instant;

use punch_signal_protocol::Mapping;

use super::{FILTERS, Netcheck, SAMPLES, Server};
use crate::evidence::{Probe, ProbeOutcome};
use crate::profile::SearchBasis;

/// So many samples that stay unanswered are no accident.
pub(super) const MIN_SILENT: usize = 8;
/// Endpoints that are asked again.
const ASKED_AGAIN: usize = 3;

/// What is known of a shortage of ports.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// Endpoints that are asked again, once they are.
    again: Option<Vec<SocketAddr>>,
    /// Whether the other sockets were asked for mappings, too.
    more: bool,
}

/// How many samples no server has answered.
pub(super) fn silent_samples(run: &Netcheck) -> usize {
    run.servers.iter().map(silent_at).sum()
}

fn silent_at(server: &Server) -> usize {
    let probes = server.check.probes.iter();
    let silent = probes.filter(|(probe, outcome)| {
        matches!(probe, Probe::Sample(_)) && *outcome == ProbeOutcome::Silence
    });
    silent.count()
}

/// The run is over: asks again where the answers have ceased in the middle. Once.
pub(super) fn look_again(run: &mut Netcheck, now: Instant) {
    if run.shortage.again.is_some() || !run.is_dependent() {
        return;
    }
    let mut servers = run.servers.iter();
    let index = servers.position(|server| silent_at(server) >= MIN_SILENT);
    let Some(index) = index else { return };
    let server = run.servers[index].check.server;
    let by_samples = run.sockets.get(SAMPLES).map(|socket| socket.port);
    let answered = run.samples.iter().filter(|sample| {
        // The other socket has a mapping towards the server itself.
        Some(sample.local) == by_samples && sample.to != server
    });
    let again: Vec<_> = answered.map(|sample| sample.to).take(ASKED_AGAIN).collect();
    for to in &again {
        run.ask((index, Probe::Sample(*to), FILTERS), *to, now);
    }
    run.shortage.again = Some(again);
}

/// Whether what was seen does not tell how ports are allotted, and other sockets may tell more of it.
pub(super) fn wants_more(run: &Netcheck) -> bool {
    let seen = || run.behaviour(&run.samples_in_order());
    !run.shortage.more && run.is_dependent() && seen() == (Some(Mapping::AddressDependent), None)
}

/// The run is over: asks each server at its other address, too, from the sockets that were not used for samples. Once, and only then:
/// the packets open filters that were under test.
pub(super) fn ask_more(run: &mut Netcheck, now: Instant) {
    if !wants_more(run) {
        return;
    }
    run.shortage.more = true;
    for index in 0..run.servers.len() {
        let Some(other) = run.servers[index].other else {
            continue;
        };
        for socket in (0..run.sockets.len()).filter(|socket| *socket != SAMPLES) {
            run.ask((index, Probe::Sample(other), socket), other, now);
        }
    }
}

/// What a search must know beside the NAT's behaviour; `made` is how many mappings servers have seen.
pub(super) fn search_basis(run: &Netcheck, made: usize) -> SearchBasis {
    let by_filters = run.sockets.get(FILTERS).map(|socket| socket.port);
    let answered = |again: &[SocketAddr]| {
        run.samples
            .iter()
            .any(|sample| Some(sample.local) == by_filters && again.contains(&sample.to))
    };
    let over = run.poll_timeout().is_none();
    let again = run.shortage.again.as_deref().unwrap_or_default();
    let used_up = over && !again.is_empty() && !answered(again);
    let made = u32::try_from(made + run.own()).unwrap_or(u32::MAX);
    SearchBasis {
        measuring: !run.is_settled(),
        capacity: used_up.then_some(made),
        used_up,
    }
}
