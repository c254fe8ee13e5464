//! What the name server of this machine's network says of `ipv4only.arpa` (RFC 7050). An answer that is of an earlier network counts for
//! nothing.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_platform::clock;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::dial::look_up;
use crate::tasks::{Spawner, Task, sleep_until};

/// Nobody connects there. The dot at its end keeps the system's search domains out.
const NAME: &str = "ipv4only.arpa.:443";
/// The most addresses that are looked at; a name server tells two for each of its prefixes.
const MAX_ADDRESSES: usize = 16;
/// A question without an answer has failed after this.
const SILENCE: Duration = Duration::from_secs(60);

/// The addresses of the name, or why there are none.
pub(super) type Answer = io::Result<Vec<IpAddr>>;

/// An answer, and the number of the network that it is of.
type Found = (u64, Answer);

/// See the module.
pub(super) struct Question {
    spawner: Spawner,
    results: (mpsc::Sender<Found>, mpsc::Receiver<Found>),
    /// Counts networks.
    network: u64,
    /// When the name server is asked next; `None` while it is being asked, and while it is not to be.
    next: Option<Instant>,
    task: Option<Task>,
}

impl Question {
    /// A question that is not asked yet.
    pub(super) fn new(spawner: Spawner) -> Self {
        Self {
            spawner,
            results: mpsc::channel(1),
            network: 0,
            next: None,
            task: None,
        }
    }

    /// The name server of another network is asked, at once.
    pub(super) fn begin(&mut self) {
        self.end();
        self.next = Some(clock::now());
    }

    /// The name server is not asked any more.
    pub(super) fn end(&mut self) {
        self.network += 1;
        self.next = None;
        self.task = None;
    }

    /// The name server is asked again after this.
    pub(super) fn ask_after(&mut self, after: Duration) {
        self.next = Some(clock::now() + after);
    }

    /// Waits for an answer, and asks when it is time. Nothing is lost if the wait is given up.
    pub(super) async fn answer(&mut self) -> Answer {
        loop {
            tokio::select! {
                Some((network, answer)) = self.results.1.recv() => {
                    if network == self.network {
                        return answer;
                    }
                }
                () = sleep_until(self.next) => self.ask(),
            }
        }
    }

    fn ask(&mut self) {
        self.next = None;
        let (network, results) = (self.network, self.results.0.clone());
        let ask = async move {
            let found = timeout(SILENCE, look_up(NAME, MAX_ADDRESSES)).await;
            let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let answer = found.map(|found| found.iter().map(|at| at.ip()).collect());
            let _ = results.send((network, answer)).await;
        };
        self.task = Some(self.spawner.spawn("translator", ask));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_of_an_earlier_network_counts_for_nothing() {
        let mut question = Question::new(Spawner::new(tokio::runtime::Handle::current()));
        let [old, new] = ["2001:db8:64::c000:aa", "64:ff9b::c000:aa"].map(|ip| ip.parse().unwrap());
        question.begin();
        let earlier = question.network;
        question.begin();
        question.next = None;
        let (network, sender) = (question.network, question.results.0.clone());
        let send = async move {
            sender.send((earlier, Ok(vec![old]))).await.unwrap();
            sender.send((network, Ok(vec![new]))).await.unwrap();
        };
        let ((), answer) = tokio::join!(send, question.answer());
        assert_eq!(answer.unwrap(), [new]);
    }
}
