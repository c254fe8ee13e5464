//! Other programs of a machine: flows that begin while a search is under way, through the same NAT.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use punch_stun_protocol::{Class, Message, TransactionId, Writer};

/// How long a flow waits for its answer before it has failed.
const PATIENCE: Duration = Duration::from_secs(1);

/// The ports of the sockets, each used once in a long while; nobody else's in the simulator.
const PORTS: (u16, u16) = (10_000, 39_999);

/// A program that opens a socket at fixed times, sends a STUN request and waits for the answer. Closing the socket frees
/// nothing in the NAT.
#[derive(Debug, Clone)]
pub struct FreshFlows {
    every: Duration,
    always: bool,
    next: Instant,
    /// Until then flows are opened although no search is under way any more.
    until: Option<Instant>,
    port: u16,
    /// Flows without an answer, by the socket's port: their place in `flows`.
    waiting: BTreeMap<u16, usize>,
    flows: Vec<Flow>,
    searches: u32,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    began: Instant,
    worked: bool,
}

/// What became of all flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Harm {
    /// Searches during which flows were opened.
    pub searches: u32,
    /// Flows that were opened.
    pub flows: u32,
    /// Those that were answered in time.
    pub worked: u32,
    /// The longest time in which no flow worked, from the start of one that failed to the start of the next one that
    /// worked.
    pub longest_gap: Duration,
}

impl FreshFlows {
    /// How long flows are opened after the end of a search, to see what it has left behind.
    pub const AFTERWARDS: Duration = Duration::from_millis(500);

    /// Nothing is open yet.
    pub fn new(every: Duration, always: bool, now: Instant) -> Self {
        Self {
            every,
            always,
            next: now,
            until: None,
            port: PORTS.0,
            waiting: BTreeMap::new(),
            flows: Vec::new(),
            searches: 0,
        }
    }

    /// When the next flow may be due.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// The port of a new socket, and the request that it sends, if a flow is due.
    pub fn poll(&mut self, is_searching: bool, now: Instant) -> Option<(u16, Vec<u8>)> {
        if now < self.next {
            return None;
        }
        self.next = now + self.every;
        let goes_on = self.until.is_some_and(|until| now < until);
        if is_searching {
            self.searches += u32::from(!goes_on);
            self.until = Some(now + Self::AFTERWARDS);
        } else if !goes_on && !self.always {
            return None;
        }
        let port = self.port;
        self.port = if port == PORTS.1 { PORTS.0 } else { port + 1 };
        self.waiting.insert(port, self.flows.len());
        self.flows.push(Flow {
            began: now,
            worked: false,
        });
        let request = Writer::new(Class::Request, transaction(port));
        Some((port, request.finish_plain()))
    }

    /// A datagram that has arrived at a port of the machine.
    pub fn handle(&mut self, port: u16, payload: &[u8], now: Instant) {
        let answer = Message::parse(payload);
        if !answer.is_ok_and(|answer| answer.transaction == transaction(port)) {
            return;
        }
        let flow = self.waiting.remove(&port).map(|at| &mut self.flows[at]);
        if let Some(flow) = flow {
            flow.worked = now <= flow.began + PATIENCE;
        }
    }

    /// What became of the flows, but for those that may still be answered at `now`.
    pub fn harm(&self, now: Instant) -> Harm {
        let mut harm = Harm {
            searches: self.searches,
            ..Harm::default()
        };
        // The first flow in a row of failures, and when the row ends if no further flow comes.
        let mut failing: Option<(Instant, Instant)> = None;
        for flow in &self.flows {
            if !flow.worked && now <= flow.began + PATIENCE {
                continue;
            }
            harm.flows += 1;
            harm.worked += u32::from(flow.worked);
            if let Some((first, end)) = failing {
                // What happened while no flow was opened, nobody knows.
                let end = if flow.began <= end { flow.began } else { end };
                harm.longest_gap = harm.longest_gap.max(end - first);
                if flow.worked || flow.began > end {
                    failing = None;
                }
            }
            if !flow.worked {
                let first = failing.map_or(flow.began, |(first, _)| first);
                failing = Some((first, flow.began + self.every));
            }
        }
        if let Some((first, end)) = failing {
            harm.longest_gap = harm.longest_gap.max(end - first);
        }
        harm
    }
}

impl Harm {
    /// Flows of several machines or runs together; the longest gap of any.
    pub fn and(self, other: Self) -> Self {
        Self {
            searches: self.searches + other.searches,
            flows: self.flows + other.flows,
            worked: self.worked + other.worked,
            longest_gap: self.longest_gap.max(other.longest_gap),
        }
    }

    /// Flows that worked, in 100; all of none.
    pub fn percent(&self) -> f64 {
        match self.flows {
            0 => 100.0,
            flows => 100.0 * f64::from(self.worked) / f64::from(flows),
        }
    }
}

/// One for each port, which no search has: theirs are random.
fn transaction(port: u16) -> TransactionId {
    let mut bytes = *b"fresh flow  ";
    bytes[10..].copy_from_slice(&port.to_be_bytes());
    TransactionId(bytes)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(100);

    /// One flow after the other; each is answered after 10 ms where the text has a `+`, and a `.` is time without a search.
    fn harm(text: &str) -> Harm {
        let start = Instant::now();
        let mut flows = FreshFlows::new(EVERY, false, start);
        let mut now = start;
        for mark in text.chars() {
            assert_eq!(flows.poll_timeout(), now);
            let request = flows.poll(mark != '.', now);
            if let Some((port, request)) = request.filter(|_| mark == '+') {
                let transaction = Message::parse(&request).unwrap().transaction;
                let answer = Writer::new(Class::Success, transaction).finish_plain();
                flows.handle(port + 1, &answer, now);
                flows.handle(port, &answer, now + Duration::from_millis(10));
            }
            now += EVERY;
        }
        flows.harm(now + PATIENCE)
    }

    #[test]
    fn flows_are_counted_and_gaps_are_measured() {
        for (text, flows, worked, gap) in [
            ("", 0, 0, 0),
            ("+++", 3, 3, 0),
            ("+-+", 3, 2, 100),
            ("+---+--", 7, 2, 300),
            ("-----", 5, 0, 500),
            // Four more follow the search, and none after that.
            ("+..........", 5, 1, 400),
            // Two rows of failures, with a pause in between.
            ("--.............--+", 9, 1, 600),
        ] {
            let harm = harm(text);
            assert_eq!((harm.flows, harm.worked), (flows, worked), "{text}");
            assert_eq!(harm.longest_gap, Duration::from_millis(gap), "{text}");
        }
        let both = harm("+-+").and(harm("---+"));
        assert_eq!((both.searches, both.flows, both.worked), (2, 7, 3));
        assert_eq!(both.longest_gap, Duration::from_millis(300));
        assert_eq!(harm("+---").percent(), 25.0);
        assert_eq!(Harm::default().percent(), 100.0);
    }

    #[test]
    fn an_answer_that_comes_too_late_does_not_count_and_a_young_flow_neither() {
        let start = Instant::now();
        let mut flows = FreshFlows::new(EVERY, true, start);
        let (port, _) = flows.poll(false, start).unwrap();
        let harm = flows.harm(start + PATIENCE);
        assert_eq!((harm.searches, harm.flows), (0, 0));
        let answer = Writer::new(Class::Success, transaction(port)).finish_plain();
        let late = start + PATIENCE + Duration::from_millis(1);
        flows.handle(port, &answer, late);
        let harm = flows.harm(late);
        assert_eq!((harm.flows, harm.worked), (1, 0));
    }
}
