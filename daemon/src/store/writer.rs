//! A thread that writes, so that no other waits for the disk: one job at a time, each with the newest there is when it begins.

use std::io;
use std::time::Instant;

use punch_state::State;
use tokio::sync::mpsc;

use super::{Changes, Saved, Store};

/// What is to be written.
#[derive(Default)]
pub(crate) struct Job {
    pub(crate) state: Option<StateJob>,
    pub(crate) history: Option<Changes>,
}

/// A state that is to be written.
pub(crate) struct StateJob {
    pub(crate) state: State,
    /// Whether it takes rights away, or nothing but what was in force before.
    pub(crate) takes: bool,
}

/// What came of a job, as far as it had a state, and a history.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) state: Option<io::Result<Saved>>,
    pub(crate) history: Option<io::Result<Saved>>,
}

/// What a new state comes to.
#[derive(Debug)]
pub(crate) enum Standing {
    /// It is in force and outlasts a power cut.
    Saved,
    /// It is in force, and must be written again: the one before may come back when punchd or the machine stops.
    Unsaved(io::Error),
    /// It is not in force, and was not saved.
    Refused(io::Error),
}

impl Standing {
    /// A right that is taken away goes whatever the disk says; one that is given must be saved first.
    pub(crate) fn of(takes: bool, outcome: io::Result<Saved>) -> Self {
        match outcome {
            Ok(Saved::Surely) => Self::Saved,
            Ok(Saved::Unsure(error)) => Self::Unsaved(error),
            Err(error) if takes => Self::Unsaved(error),
            Err(error) => Self::Refused(error),
        }
    }
}

/// The thread's end.
pub(crate) struct Writer {
    store: Store,
    jobs: mpsc::Receiver<Job>,
    done: mpsc::Sender<Done>,
}

/// The end of those who have something to write. There is one job at a time.
pub(crate) struct Desk {
    jobs: mpsc::Sender<Job>,
    done: mpsc::Receiver<Done>,
    busy_since: Option<Instant>,
}

impl Writer {
    /// A writer for this store, and how it is asked.
    pub(crate) fn new(store: Store) -> (Desk, Self) {
        let (jobs, jobs_out) = mpsc::channel(1);
        let (done_in, done) = mpsc::channel(1);
        let desk = Desk {
            jobs,
            done,
            busy_since: None,
        };
        let writer = Self {
            store,
            jobs: jobs_out,
            done: done_in,
        };
        (desk, writer)
    }

    /// Writes until nobody has anything to write any more.
    pub(crate) fn run(mut self) {
        while let Some(job) = self.jobs.blocking_recv() {
            let done = perform(&mut self.store, job);
            if self.done.blocking_send(done).is_err() {
                return;
            }
        }
    }
}

fn perform(store: &mut Store, job: Job) -> Done {
    let state = job.state.map(|job| store.save(&job.state, job.takes));
    let history = job.history.map(|changes| store.save_history(&changes));
    Done { state, history }
}

impl Desk {
    /// Whether a job is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy_since.is_some()
    }

    /// Since when a job is under way.
    pub(crate) fn busy_since(&self) -> Option<Instant> {
        self.busy_since
    }

    /// Has this written. Nothing else may be under way.
    pub(crate) fn hand_in(&mut self, job: Job, now: Instant) {
        debug_assert!(!self.is_busy(), "one job at a time");
        // The channel has room for the one job, and a writer that is gone shows in `finished`.
        let _ = self.jobs.try_send(job);
        self.busy_since = Some(now);
    }

    /// What came of the job that is under way; without one it waits for ever.
    pub(crate) async fn finished(&mut self) -> Done {
        if !self.is_busy() {
            return std::future::pending().await;
        }
        let done = self.done.recv().await;
        self.busy_since = None;
        done.unwrap_or_else(|| {
            let gone = || Some(Err(io::Error::other("the thread that writes has ended")));
            Done {
                state: gone(),
                history: gone(),
            }
        })
    }
}
