//! The threads that compute the steps of handshakes, so that no packet waits for one: nothing else runs on them.

use std::num::NonZero;

use punch_engine::{Job, JobDone};
use tokio::sync::mpsc;

/// Jobs that wait for one thread; what does not fit waits in the engine, which bounds it.
const JOBS: usize = 16;
/// Steps that are done and not yet taken.
const DONE: usize = 64;

/// The driver's end.
pub(crate) struct Workers {
    threads: Vec<mpsc::Sender<Job>>,
    /// The thread that is asked first.
    next: usize,
    done: mpsc::Receiver<JobDone>,
}

/// One thread's end.
pub(crate) struct Worker {
    jobs: mpsc::Receiver<Job>,
    done: mpsc::Sender<JobDone>,
}

impl Worker {
    /// Performs jobs until the driver is gone.
    pub(crate) fn run(mut self) {
        while let Some(job) = self.jobs.blocking_recv() {
            if self.done.blocking_send(job.perform()).is_err() {
                return;
            }
        }
    }
}

/// A thread has ended, which it does by a panic only.
#[derive(Debug)]
pub(crate) struct Ended;

impl Workers {
    /// As many as suit a machine of `cores`, and what each of the threads is to run.
    pub(crate) fn new(cores: Option<NonZero<usize>>) -> (Self, Vec<Worker>) {
        let (done_in, done) = mpsc::channel(DONE);
        let count = cores.map_or(2, NonZero::get).clamp(2, 4);
        let (threads, workers) = (0..count)
            .map(|_| {
                let (sender, jobs) = mpsc::channel(JOBS);
                let done = done_in.clone();
                (sender, Worker { jobs, done })
            })
            .unzip();
        let workers_end = Self {
            threads,
            next: 0,
            done,
        };
        (workers_end, workers)
    }

    /// Gives the threads what `next` has, as long as they have room.
    pub(crate) fn fill(&mut self, mut next: impl FnMut() -> Option<Job>) -> Result<(), Ended> {
        loop {
            if self.threads.iter().any(mpsc::Sender::is_closed) {
                return Err(Ended);
            }
            let count = self.threads.len();
            let order = (0..count).map(|offset| (self.next + offset) % count);
            let Some((thread, room)) = order
                .filter_map(|at| Some((at, self.threads.get(at)?.try_reserve().ok()?)))
                .next()
            else {
                return Ok(());
            };
            let Some(job) = next() else {
                return Ok(());
            };
            room.send(job);
            self.next = thread + 1;
        }
    }

    /// The next step that is done, if there is one.
    pub(crate) fn try_recv(&mut self) -> Option<JobDone> {
        self.done.try_recv().ok()
    }

    /// Waits for the next step that is done.
    pub(crate) async fn recv(&mut self) -> Option<JobDone> {
        self.done.recv().await
    }
}
