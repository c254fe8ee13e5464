//! What systemd hears of a service (sd_notify(3)): that it is ready, how it does, that it is alive. Without systemd nobody
//! listens, and nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager was not told");
    }
}

/// Whether there is a service manager that listens.
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The service works from now on.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(&one_line(status))]);
}

/// The service is ending, as it was told to.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How often [`alive`] must be said, with room to spare, if anybody waits for it.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|patience| patience / 3)
}

/// The service does what it is there for. Without this word systemd starts it anew.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// The protocol has a line for each variable, so that a line end would begin another one.
fn one_line(text: &str) -> String {
    text.split('\n')
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_several_lines_is_one() {
        assert_eq!(
            one_line("bad:\n\n  mtu = 100\nREADY=1"),
            "bad: /   mtu = 100 / READY=1"
        );
    }
}
