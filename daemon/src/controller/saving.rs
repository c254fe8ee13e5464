//! What must outlast a restart, and when it is written: the state before a change of it is answered, the history soon after it has
//! changed. What could not be saved is tried again until it is.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use punch_api::{ApiError, ErrorCode};
use punch_platform::clock;
use punch_service::Repeats;
use punch_state::State;

use super::history::{History, Which};
use crate::store::writer::{Desk, Done, Job, Standing, StateJob};
use crate::store::{Changes, Saved, Store};

/// A client that changes something waits so long for the disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// What could not be saved is tried again after this, and then after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest time until what could not be saved is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Until the end of punchd the disk has this long.
const FAREWELL: Duration = Duration::from_secs(1);

/// What was kept from before the start.
pub(crate) struct Kept {
    state: State,
    history: History,
    identity_path: PathBuf,
    /// Why nothing can be written.
    trouble: Option<io::Error>,
}

impl Kept {
    /// Reads it. The thread that writes must not have begun.
    pub(crate) fn read(store: &mut Store) -> Result<Self> {
        Ok(Self {
            state: store.load()?,
            history: History::read(store)?,
            identity_path: store.identity_path(),
            trouble: store.take_trouble(),
        })
    }
}

/// The answer to a change that is not in force because it could not be saved.
pub(super) fn refusal(error: &io::Error) -> ApiError {
    let text = match error.kind() {
        ErrorKind::TimedOut => format!(
            "nothing is changed now, but {error}: should punchd or this machine restart before it does, the change may have been saved all the same"
        ),
        _ => format!("nothing was changed, because it could not be saved: {error}"),
    };
    ApiError::new(ErrorCode::Internal, text)
}

fn timed_out() -> io::Error {
    let seconds = PATIENCE.as_secs();
    let text = format!("the disk has not answered for {seconds} s");
    io::Error::new(ErrorKind::TimedOut, text)
}

/// See the module.
pub(super) struct Saving {
    desk: Desk,
    /// The file that holds the identity.
    identity_path: PathBuf,
    pub(super) history: History,
    /// How many states have been handed in or come into force: the number of the newest.
    version: u64,
    /// The state that is being written.
    under_way: Option<u64>,
    /// The files of the history that are being written.
    history_under_way: Which,
    /// Whether the state in force is not, or not surely, the one on the disk.
    unsaved: bool,
    /// Whether the history that was written last could not be.
    history_unsaved: bool,
    /// Why something is not saved.
    trouble: Option<String>,
    pause: Duration,
    /// When what is not saved is tried again.
    again: Option<Instant>,
    /// What the log has been told of troubles.
    repeats: Repeats,
    /// Whether the log has been told of the trouble that lasts.
    is_told: bool,
}

impl Saving {
    /// Saves by `desk`; also gives what is to be in force first.
    pub(super) fn new(desk: Desk, kept: Kept) -> (Self, State) {
        let Kept {
            state,
            history,
            identity_path,
            trouble,
        } = kept;
        let mut saving = Self {
            desk,
            identity_path,
            history,
            version: 0,
            under_way: None,
            history_under_way: Which::default(),
            unsaved: false,
            history_unsaved: false,
            trouble: None,
            pause: FIRST_PAUSE,
            again: None,
            repeats: Repeats::default(),
            is_told: false,
        };
        if let Some(error) = trouble {
            saving.unsaved = true;
            saving.failed(&error, clock::now());
        }
        (saving, state)
    }

    /// The file that holds the identity.
    pub(super) fn identity_path(&self) -> &Path {
        &self.identity_path
    }

    /// Saves a state that a user has asked for, and tells what comes of it. The state in force stays the caller's business.
    pub(super) async fn save(&mut self, state: &State, takes: bool) -> Standing {
        self.version += 1;
        let is_known = self.is_stalled().await;
        let outcome = if is_known {
            Err(timed_out())
        } else {
            let saving = tokio::time::timeout(PATIENCE, self.write_state(state, takes));
            saving.await.unwrap_or_else(|_| Err(timed_out()))
        };
        let standing = Standing::of(takes, outcome);
        let now = clock::now();
        match &standing {
            Standing::Saved => {
                self.unsaved = false;
                if !self.history_unsaved {
                    self.succeeded();
                }
            }
            // Whatever ends the job that is under way has the state in force written again, and soon.
            Standing::Unsaved(_) if is_known && self.trouble.is_some() => self.unsaved = true,
            Standing::Refused(_) if is_known && self.trouble.is_some() => {
                self.version += 1;
                self.unsaved = true;
            }
            Standing::Unsaved(error) => {
                self.unsaved = true;
                self.failed(error, now);
            }
            // It may still be written, and is then to be replaced by the one in force.
            Standing::Refused(error) if error.kind() == ErrorKind::TimedOut => {
                self.version += 1;
                self.unsaved = true;
                self.failed(error, now);
            }
            Standing::Refused(error) => {
                tracing::error!(%error, "a change was refused, because it could not be saved");
            }
        }
        standing
    }

    /// Whether what is under way has been for so long that nobody should wait for it: each change would wait anew, and nothing else
    /// is done meanwhile.
    async fn is_stalled(&mut self) -> bool {
        let since = self.desk.busy_since();
        let is_old = since.is_some_and(|since| clock::now() >= since + PATIENCE);
        is_old
            && tokio::time::timeout(Duration::ZERO, self.finished())
                .await
                .is_err()
    }

    async fn write_state(&mut self, state: &State, takes: bool) -> io::Result<Saved> {
        if self.desk.is_busy() {
            let done = self.desk.finished().await;
            self.take_note(done, clock::now());
        }
        self.under_way = Some(self.version);
        let job = StateJob {
            state: state.clone(),
            takes,
        };
        let job = Job {
            state: Some(job),
            ..Job::default()
        };
        self.desk.hand_in(job, clock::now());
        let done = self.desk.finished().await;
        self.under_way = None;
        let none = || Err(io::Error::other("the state was not written"));
        done.state.unwrap_or_else(none)
    }

    /// When [`Saving::write`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.desk.is_busy() {
            return None;
        }
        // After a failure nothing is tried before its time.
        self.again.or(self.history.due())
    }

    /// Has written what is not saved, or has changed: this state, if the one on the disk is another.
    pub(super) fn write(&mut self, state: &State) {
        if self.desk.is_busy() {
            return;
        }
        self.again = None;
        let changes = self.history.take();
        self.history_under_way = Which::of(&changes);
        let history = (changes != Changes::default()).then_some(changes);
        self.under_way = self.unsaved.then_some(self.version);
        let state = self.unsaved.then(|| StateJob {
            state: state.clone(),
            takes: true,
        });
        if state.is_some() || history.is_some() {
            self.desk.hand_in(Job { state, history }, clock::now());
        }
    }

    /// Waits for the end of what is being written, and takes note of what has come of it.
    pub(super) async fn finished(&mut self) {
        let done = self.desk.finished().await;
        self.take_note(done, clock::now());
    }

    fn take_note(&mut self, done: Done, now: Instant) {
        let newest = self.under_way.take() == Some(self.version);
        let mut failure = None;
        match done.state {
            Some(Ok(Saved::Surely)) if newest => self.unsaved = false,
            Some(Ok(Saved::Unsure(error)) | Err(error)) => failure = Some(error),
            _ => {}
        }
        let under_way = std::mem::take(&mut self.history_under_way);
        match done.history {
            Some(Ok(Saved::Surely)) => self.history_unsaved = false,
            Some(Ok(Saved::Unsure(error)) | Err(error)) => {
                self.history_unsaved = true;
                self.history.put_back(under_way, now);
                failure.get_or_insert(error);
            }
            None => {}
        }
        match failure {
            Some(error) => self.failed(&error, now),
            None if self.unsaved || self.history_unsaved => self.again = Some(now + self.pause),
            None => self.succeeded(),
        }
    }

    fn failed(&mut self, error: &io::Error, now: Instant) {
        self.again = Some(now + self.pause);
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
        let text = error.to_string();
        if let Some(unsaid) = self.repeats.note(&text, now) {
            tracing::error!(
                error = text,
                unsaid,
                "the state directory cannot be written"
            );
            self.is_told = true;
        }
        self.trouble = Some(text);
    }

    fn succeeded(&mut self) {
        self.again = None;
        self.pause = FIRST_PAUSE;
        self.trouble = None;
        if std::mem::take(&mut self.is_told) {
            tracing::info!("the state directory is written again");
        }
    }

    /// Why something is not saved, and what that means.
    pub(super) fn not_saved(&self) -> Option<String> {
        let error = self.trouble.as_ref()?;
        Some(match self.unsaved {
            true => format!(
                "{error}: what is taken away holds until punchd or this machine restarts, and may then come back; what is given is refused if it cannot be saved; punchd tries to save again and again"
            ),
            false => format!(
                "{error}: what punchd remembers of peers is older than it should be, so an offer from before a restart may be answered once more; punchd tries to save again and again"
            ),
        })
    }

    /// What whoever has taken something away must know, if that is not saved.
    pub(super) fn warning(&self) -> Option<String> {
        let error = self.trouble.as_ref().filter(|_| self.unsaved)?;
        Some(format!(
            "this is in force, but not saved: {error}; it may come undone when punchd or this machine restarts, until `punchctl status` no longer says that something is not saved"
        ))
    }

    /// Writes for the last time, as long as the disk answers.
    pub(super) async fn stop(&mut self, state: &State) {
        let last = async {
            if self.desk.is_busy() {
                self.finished().await;
            }
            if self.unsaved || self.history.due().is_some() {
                self.write(state);
            }
            if self.desk.is_busy() {
                self.finished().await;
            }
        };
        if tokio::time::timeout(FAREWELL, last).await.is_err() {
            tracing::warn!("the disk does not answer: what is newest may not be saved");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use std::fs;
    use std::thread;

    use punch_engine::StepKind;
    use punch_signal_protocol::Identity;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::store::writer::Writer;

    /// A state directory that goes away again. The thread that writes has not begun: the disk does not answer.
    struct Bench {
        place: PathBuf,
        runtime: Runtime,
        writer: Option<Writer>,
    }

    impl Bench {
        fn new(name: &str) -> (Self, Saving) {
            let place = format!("punch-test-saving-{name}-{}", std::process::id());
            let place = std::env::temp_dir().join(place);
            let mut store = Store::open(&place).unwrap();
            let kept = Kept::read(&mut store).unwrap();
            let (desk, writer) = Writer::new(store);
            let bench = Self {
                runtime: Builder::new_current_thread().enable_time().build().unwrap(),
                writer: Some(writer),
                place,
            };
            (bench, Saving::new(desk, kept).0)
        }

        /// The disk answers from now on, until the work is done.
        fn answer(&mut self, saving: Saving, work: impl FnOnce(&Self, Saving)) {
            let writer = self.writer.take().unwrap();
            thread::scope(|scope| {
                scope.spawn(move || writer.run());
                work(self, saving);
            });
        }

        fn finish(&self, saving: &mut Saving) {
            self.runtime.block_on(saving.finished());
        }

        fn text(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.place.join(name)).ok()
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.place);
        }
    }

    #[test]
    fn nobody_waits_for_a_disk_that_stalls_and_then_it_gets_the_newest() {
        let (mut bench, mut saving) = Bench::new("stall");
        let (state, now) = (State::default(), clock::now());
        let id = Identity::from_seed(&[1; 32]).id();
        saving.history.record_stamps(id, (1, 1), now);
        assert!(saving.due().is_some());
        saving.write(&state);
        for stamp in 2..100 {
            saving.history.record_stamps(id, (1, stamp), now);
            assert_eq!(saving.due(), None, "one write at a time");
            saving.write(&state);
        }
        let others = bench.runtime.block_on(async {
            tokio::time::timeout(Duration::from_millis(20), saving.finished()).await
        });
        assert!(others.is_err(), "the runtime goes on meanwhile");

        bench.answer(saving, |bench, mut saving| {
            let stamps = || bench.text("stamps.json").unwrap();
            bench.finish(&mut saving);
            assert!(stamps().contains("[1,1]"));
            assert!(saving.due().is_some());
            saving.write(&state);
            bench.finish(&mut saving);
            assert!(stamps().contains("[1,99]"), "the newest alone");
            assert_eq!(saving.due(), None);
            assert_eq!(bench.text("paths.json"), None, "it has not changed");

            // Both at once, and the end waits for what is under way.
            saving.history.record_stamps(id, (2, 2), now);
            saving.history.remember(id, 7, StepKind::Meet, now);
            bench.runtime.block_on(saving.stop(&state));
            assert!(stamps().contains("[2,2]"));
            assert!(bench.text("paths.json").unwrap().contains("meet"));
        });
    }

    #[test]
    fn what_could_not_be_saved_is_said_and_tried_again_until_it_is() {
        let (mut bench, saving) = Bench::new("again");
        let in_the_way = bench.place.join("state.json");
        fs::create_dir_all(in_the_way.join("full")).unwrap();
        let state = State::default();
        bench.answer(saving, |bench, mut saving| {
            let refused = bench.runtime.block_on(saving.save(&state, false));
            assert!(matches!(refused, Standing::Refused(_)), "{refused:?}");
            assert_eq!(saving.not_saved(), None, "what is in force is saved");
            assert_eq!(saving.due(), None);

            let taken = bench.runtime.block_on(saving.save(&state, true));
            assert!(matches!(taken, Standing::Unsaved(_)), "{taken:?}");
            for told in [saving.not_saved(), saving.warning()] {
                assert!(told.unwrap().contains("state.json"));
            }
            let mut pauses = Vec::new();
            for _ in 0..12 {
                let due = saving.due().unwrap();
                let pause = due.saturating_duration_since(clock::now());
                pauses.push(pause.as_secs_f64().ceil());
                saving.write(&state);
                bench.finish(&mut saving);
            }
            assert_eq!(
                pauses,
                [1., 2., 4., 8., 16., 32., 64., 128., 256., 300., 300., 300.]
            );

            fs::remove_dir_all(&in_the_way).unwrap();
            saving.write(&state);
            bench.finish(&mut saving);
            assert_eq!((saving.not_saved(), saving.due()), (None, None));
            assert!(bench.text("state.json").unwrap().contains("peers"));
        });
    }

    #[test]
    fn a_change_that_the_disk_does_not_answer_is_undone_as_soon_as_it_does() {
        let (mut bench, mut saving) = Bench::new("late");
        let state = State::default();
        let refused = bench.runtime.block_on(saving.save(&state, false));
        let Standing::Refused(error) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(saving.warning().is_some(), "it may yet be written");
        // Whatever is asked for while the same job is under way is answered at once.
        let began = clock::now();
        for _ in 0..100 {
            let refused = bench.runtime.block_on(saving.save(&state, false));
            let Standing::Refused(error) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(error.kind(), ErrorKind::TimedOut);
        }
        let taken = bench.runtime.block_on(saving.save(&state, true));
        assert!(matches!(taken, Standing::Unsaved(_)), "{taken:?}");
        assert!(clock::now().saturating_duration_since(began) < PATIENCE);
        assert_eq!(saving.pause, 2 * FIRST_PAUSE, "one trouble, not a hundred");
        bench.answer(saving, |bench, mut saving| {
            bench.finish(&mut saving);
            assert!(saving.due().is_some(), "and is replaced then");
            saving.write(&state);
            bench.finish(&mut saving);
            assert_eq!((saving.not_saved(), saving.due()), (None, None));
        });
    }
}
