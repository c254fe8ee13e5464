//! Whether the NAT has given the run no more mappings after the first ones: then as many as it gave are all that there are.
//!
//! That many samples stay unanswered may have another reason: a firewall lets only some ports of the server through. So endpoints
//! that have answered before are asked from another socket, which needs new mappings for that.

use std::net::SocketAddr;
use std::time::Instant;

use super::{FILTERS, Netcheck, SAMPLES};
use crate::evidence::{Probe, ProbeOutcome};
use crate::profile::SearchBasis;

/// So many samples that stay unanswered are no accident.
const MIN_SILENT: usize = 8;
/// Endpoints that are asked again.
const ASKED_AGAIN: usize = 3;

/// What is known of a shortage of ports.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// Endpoints that are asked again, once they are.
    again: Option<Vec<SocketAddr>>,
}

/// The run is over: asks again where the answers have ceased in the middle. Once.
pub(super) fn look_again(run: &mut Netcheck, now: Instant) {
    if run.shortage.again.is_some() || !run.is_dependent() {
        return;
    }
    let index = run.servers.iter().position(|server| {
        let silent = server.check.probes.iter().filter(|(probe, outcome)| {
            matches!(probe, Probe::Sample(_)) && *outcome == ProbeOutcome::Silence
        });
        silent.count() >= MIN_SILENT
    });
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

/// What a search must know beside the NAT's behaviour; `made` is how many mappings servers have seen.
pub(super) fn search_basis(run: &Netcheck, made: usize) -> SearchBasis {
    let by_filters = run.sockets.get(FILTERS).map(|socket| socket.port);
    let answered = |again: &[SocketAddr]| {
        run.samples
            .iter()
            .any(|sample| Some(sample.local) == by_filters && again.contains(&sample.to))
    };
    let measuring = run.poll_timeout().is_some();
    let again = run.shortage.again.as_deref().unwrap_or_default();
    let used_up = !measuring && !again.is_empty() && !answered(again);
    let made = u32::try_from(made + run.own()).unwrap_or(u32::MAX);
    SearchBasis {
        measuring,
        capacity: used_up.then_some(made),
        used_up,
    }
}
