//! The names of STUN servers and of plain WireGuard peers, looked up now and then; each beside everything else, so that a name server that is silent keeps
//! nobody waiting.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_engine::Nat64;
use punch_platform::clock;
use tokio::sync::{mpsc, watch};

use crate::dial::{look_up, whose};
use crate::tasks::{Spawner, Task, sleep_until};

/// Names are looked up anew this often.
const PERIOD: Duration = Duration::from_secs(600);
/// After a look-up that failed, all are looked up again sooner.
const RETRY: Duration = Duration::from_secs(15);
/// The most addresses of one name that are used, of both families if it has both.
const MAX_ADDRESSES: usize = 4;

/// What a look-up brought.
type Found = (String, Result<Vec<SocketAddr>, String>);

/// Looks up names, and keeps what was found.
pub(crate) struct Resolver {
    spawner: Spawner,
    results: (mpsc::Sender<Found>, mpsc::Receiver<Found>),
    /// By `HOST:PORT`.
    names: HashMap<String, Name>,
    /// When all names are looked up anew.
    next: Instant,
    /// What lies below this prefix is shown as the IPv4 addresses that it stands for.
    nat64: watch::Receiver<Option<Nat64>>,
}

/// A name, or an address that needs no look-up.
#[derive(Default)]
struct Name {
    /// The addresses of the last look-up that succeeded, as the name server has told them.
    addresses: Vec<SocketAddr>,
    /// Why the last look-up failed.
    trouble: Option<String>,
    task: Option<Task>,
}

impl Resolver {
    /// Knows no name yet. A name server in front of a translator may give IPv4 addresses below this prefix (DNS64, RFC 6147).
    pub(crate) fn behind(spawner: Spawner, nat64: watch::Receiver<Option<Nat64>>) -> Self {
        Self {
            spawner,
            results: mpsc::channel(4),
            names: HashMap::new(),
            next: clock::now() + PERIOD,
            nat64,
        }
    }

    /// Looks up this name from now on.
    pub(crate) fn add(&mut self, place: String) {
        let name = Name {
            addresses: literal(&place).into_iter().collect(),
            ..Name::default()
        };
        if name.addresses.is_empty() {
            self.refresh();
        }
        self.names.insert(place, name);
    }

    /// Forgets a name.
    pub(crate) fn remove(&mut self, place: &str) {
        self.names.remove(place);
    }

    /// Looks up all names at once.
    pub(crate) fn refresh(&mut self) {
        self.next = clock::now();
    }

    /// What the name was resolved to, at last.
    pub(crate) fn addresses(&self, place: &str) -> Vec<SocketAddr> {
        let name = self.names.get(place);
        let told = name.map(|name| name.addresses.clone());
        whose(told.unwrap_or_default(), *self.nat64.borrow())
    }

    /// Why the name is not found.
    pub(crate) fn trouble(&self, place: &str) -> Option<&str> {
        self.names.get(place)?.trouble.as_deref()
    }

    /// Waits until a look-up has ended, or addresses are shown otherwise. Nothing is lost if the wait is given up.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(found) = self.results.1.recv() => return self.take(found),
                Ok(()) = self.nat64.changed() => return,
                () = sleep_until(Some(self.next)) => self.look_up(),
            }
        }
    }

    fn look_up(&mut self) {
        self.next = clock::now() + PERIOD;
        for (place, name) in &mut self.names {
            let running = name.task.as_ref().is_some_and(Task::is_running);
            if running || literal(place).is_some() {
                continue;
            }
            let (place, results) = (place.clone(), self.results.0.clone());
            let look_up = async move {
                let found = look_up(place.as_str(), MAX_ADDRESSES).await;
                let found = found.map_err(|error| error.to_string());
                let _ = results.send((place, found)).await;
            };
            name.task = Some(self.spawner.spawn("resolve", look_up));
        }
    }

    fn take(&mut self, (place, found): Found) {
        let Some(name) = self.names.get_mut(&place) else {
            return;
        };
        name.task = None;
        match found {
            Ok(addresses) => {
                name.addresses = addresses;
                name.trouble = None;
            }
            // The addresses of an earlier look-up stay.
            Err(error) => {
                name.trouble = Some(format!("its name is not found: {error}"));
                self.next = clock::now() + RETRY;
            }
        }
    }
}

fn literal(place: &str) -> Option<SocketAddr> {
    place.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use tokio::runtime::Handle;

    use super::*;

    #[tokio::test]
    async fn an_address_below_the_prefix_is_shown_as_what_it_stands_for_as_long_as_the_prefix_is_used()
     {
        let prefix = watch::Sender::new(None);
        let mut resolver = Resolver::behind(Spawner::new(Handle::current()), prefix.subscribe());
        let place = "[64:ff9b::cb00:7101]:3478";
        resolver.add(place.to_owned());
        let literal: SocketAddr = place.parse().unwrap();
        assert_eq!(resolver.addresses(place), [literal]);
        prefix.send_replace(Some(Nat64::WELL_KNOWN));
        resolver.changed().await;
        let shown: SocketAddr = "203.0.113.1:3478".parse().unwrap();
        assert_eq!(resolver.addresses(place), [shown]);
        prefix.send_replace(None);
        resolver.changed().await;
        assert_eq!(resolver.addresses(place), [literal]);
    }
}
