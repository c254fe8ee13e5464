//! The machine's clocks, read here and nowhere else.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock: stands still while the machine sleeps.
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970 by the wall clock, which may be set at any time.
pub fn wall_ms() -> u64 {
    u64::try_from(wall().as_millis()).unwrap_or(u64::MAX)
}

/// The same, as exact as it is.
pub(crate) fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Notices that the machine has slept: `CLOCK_BOOTTIME` goes on while `CLOCK_MONOTONIC` stands still.
#[derive(Debug)]
pub struct SleepWatch {
    offset: Duration,
}

impl SleepWatch {
    /// Less is not worth a new start: no mapping at a NAT expires in it.
    const WORTH_NOTICING: Duration = Duration::from_secs(5);

    /// Starts watching.
    pub fn new() -> Self {
        Self { offset: offset() }
    }

    /// How long the machine has slept since the last call, if it did.
    pub fn slept(&mut self) -> Option<Duration> {
        let offset = offset();
        let slept = offset.saturating_sub(self.offset);
        self.offset = offset;
        (slept >= Self::WORTH_NOTICING).then_some(slept)
    }
}

impl Default for SleepWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// How far `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`.
fn offset() -> Duration {
    read(libc::CLOCK_BOOTTIME).saturating_sub(read(libc::CLOCK_MONOTONIC))
}

#[expect(
    unsafe_code,
    reason = "clock_gettime has no safe wrapper in std for these clocks"
)]
fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec to write to, and both clocks exist on every Linux that Rust supports.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
