//! When a run knows enough for an attempt at a path.
//!
//! That a filter lets nothing in shows by an answer that does not come. It is waited for until the run is over, since a packet may be
//! slow or lost; but soon after the time in which the server has answered other questions it is presumed not to come.

use std::time::{Duration, Instant};

use punch_signal_protocol::{Allocation, Mapping};

use super::{Netcheck, Planned, shortage};
use crate::evidence::Probe;

/// What is added to the server's round trip before an answer is presumed not to come: three sends, 90 ms apart.
const PATIENCE: Duration = Duration::from_millis(270);
/// A server that answers more slowly than this is waited for until the run is over.
const SLOWEST: Duration = Duration::from_secs(1);

/// The probes whose answers are late.
#[derive(Debug, Default)]
pub(super) struct Presumed {
    /// Those that may still be answered in time, and until when that is.
    expected: Vec<(Instant, usize, Probe)>,
    /// Those to servers that have not answered anything, and when they left.
    first: Vec<(Instant, usize, Probe)>,
    silent: Vec<(usize, Probe)>,
}

impl Presumed {
    /// A question goes to a server that has this round trip, as far as that is known.
    pub(super) fn expect(
        &mut self,
        server: usize,
        probe: Probe,
        rtt: Option<Duration>,
        now: Instant,
    ) {
        match rtt {
            Some(rtt) if rtt <= SLOWEST => {
                self.expected.push((now + rtt + PATIENCE, server, probe));
            }
            Some(_) => {}
            None => self.first.push((now, server, probe)),
        }
    }

    /// A server has answered after this time: another one that has not, by then and a while, is presumed to be dead.
    pub(super) fn handle_answer(&mut self, rtt: Duration) {
        if rtt <= SLOWEST {
            let late = |(sent, server, probe)| (sent + rtt + PATIENCE, server, probe);
            self.expected.extend(self.first.drain(..).map(late));
        }
    }

    /// What has come of a probe is known.
    pub(super) fn forget(&mut self, server: usize, probe: Probe) {
        let other = |entry: (usize, Probe)| entry != (server, probe);
        self.expected.retain(|(_, at, asked)| other((*at, *asked)));
        self.first.retain(|(_, at, asked)| other((*at, *asked)));
        self.silent.retain(|entry| other(*entry));
    }

    pub(super) fn is_silent(&self, server: usize, probe: Probe) -> bool {
        self.silent.contains(&(server, probe))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let silent = &mut self.silent;
        self.expected.retain(|(until, server, probe)| {
            let late = *until <= now;
            if late {
                silent.push((*server, *probe));
            }
            !late
        });
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.expected.iter().map(|(until, ..)| *until).min()
    }

    /// How many samples are late.
    fn silent_samples(&self) -> usize {
        let samples = self.silent.iter();
        let samples = samples.filter(|(_, probe)| matches!(probe, Probe::Sample(_)));
        samples.count()
    }
}

/// See [`Netcheck::is_settled`].
pub(super) fn is_settled(run: &Netcheck) -> bool {
    if run.poll_timeout().is_none() {
        return true;
    }
    // Where samples get no answers, the ports may be used up: the end of the run tells.
    let unanswered = shortage::silent_samples(run) + run.presumed.silent_samples();
    if unanswered >= shortage::MIN_SILENT {
        return false;
    }
    let waits = |wanted: fn(&Probe) -> bool| {
        let mut asked = run.requests.tags();
        asked.any(|(server, probe, _)| wanted(probe) && !run.presumed.is_silent(*server, *probe))
    };
    let mut servers = 0..run.servers.len();
    let filter_known = servers.any(|server| run.filtering(server).is_some());
    if !filter_known && waits(|probe| *probe == Probe::Primary || probe.changes_source()) {
        return false;
    }
    let opens = |planned: &Planned| match planned {
        Planned::Opening(..) => true,
        Planned::Ask((_, probe, _), _) => probe.changes_address(),
        Planned::Hairpin => false,
    };
    let opening = waits(|probe| matches!(probe, Probe::Another | Probe::Opened(_)));
    if opening || run.planned.iter().any(|(_, planned)| opens(planned)) {
        return false;
    }
    let sampling = waits(|probe| matches!(probe, Probe::Sample(_)));
    let late = |(_, planned): &(Instant, Planned)| matches!(planned, Planned::Ask(..));
    match run.behaviour(&run.samples_in_order()) {
        (None, _) => !sampling && !waits(|probe| *probe == Probe::Primary),
        (Some(Mapping::None | Mapping::EndpointIndependent), _) => !sampling,
        // How fast others take the ports of a sequence, the late samples tell; too few of them are followed by more.
        (Some(_), Some(Allocation::Sequential { .. }) | None) => {
            !sampling && !run.planned.iter().any(late) && !shortage::wants_more(run)
        }
        (Some(_), Some(_)) => !sampling,
    }
}
