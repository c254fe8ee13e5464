//! The refusal of a peer, as the control API tells it: the reason with its value, and a sentence for people.

use std::time::Duration;

use punch_api::{PeerName, RefusalReason, RefusedView};
use punch_engine::PeerRefusal;

/// Below this, the clocks agree now, in seconds: one of them has been set since the offer was stamped.
const AGREED: u64 = 60;

/// Shows the newest refusal of a peer, and its age.
pub(super) fn view(peer: &PeerName, (refusal, age): (PeerRefusal, Duration)) -> RefusedView {
    let (reason, clock_ahead_s) = reason(refusal);
    RefusedView {
        reason: reason.into(),
        clock_ahead_s,
        ago_s: age.as_secs_f64(),
        message: sentence(peer, refusal),
    }
}

/// The reason, and for the clocks this machine's minus the peer's, in seconds.
pub(super) fn reason(refusal: PeerRefusal) -> (RefusalReason, Option<i64>) {
    match refusal {
        PeerRefusal::Clock { ahead_s } => (RefusalReason::Clock, Some(ahead_s)),
        PeerRefusal::Version => (RefusalReason::Version, None),
        PeerRefusal::NotWanted => (RefusalReason::NotWanted, None),
        PeerRefusal::Unknown => (RefusalReason::Other, None),
    }
}

/// The refusal in one sentence, without a full stop.
pub(super) fn sentence(peer: &PeerName, refusal: PeerRefusal) -> String {
    match refusal {
        PeerRefusal::Clock { ahead_s } if ahead_s.unsigned_abs() < AGREED => {
            format!("{peer} refuses: this machine's clock or {peer}'s was wrong a moment ago")
        }
        PeerRefusal::Clock { ahead_s } => {
            let which = if ahead_s < 0 { "behind" } else { "ahead of" };
            let off = thousands(ahead_s.unsigned_abs());
            format!("{peer} refuses: this machine's clock is {off} s {which} {peer}'s")
        }
        PeerRefusal::Version => {
            format!("{peer} refuses: its version of punchd does not understand this one")
        }
        PeerRefusal::NotWanted => {
            format!("{peer} refuses: its user has said down to this machine")
        }
        PeerRefusal::Unknown => {
            format!("{peer} refuses, for a reason that is newer than this version of punchd")
        }
    }
}

/// What ends the refusal.
pub(super) fn advice(peer: &PeerName, refusal: PeerRefusal) -> String {
    match refusal {
        PeerRefusal::Clock { .. } => format!(
            "Set the clocks of both machines, by NTP: timedatectl set-ntp true. punchd connects by itself once they differ by less than ten minutes; which of this machine's and {peer}'s is wrong, date tells."
        ),
        PeerRefusal::Version => format!("Upgrade punchd on {peer}."),
        PeerRefusal::NotWanted => {
            format!("On {peer}, run: punchctl up NAME, with the name that it has for this machine.")
        }
        PeerRefusal::Unknown => "Upgrade punchd on this machine to learn the reason.".to_owned(),
    }
}

/// A number with a comma between each three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_which_clock_is_ahead_and_by_how_much() {
        let db: PeerName = "db".parse().unwrap();
        let says = |ahead_s| sentence(&db, PeerRefusal::Clock { ahead_s });
        assert_eq!(
            says(7200),
            "db refuses: this machine's clock is 7,200 s ahead of db's"
        );
        assert_eq!(
            says(-1_234_567),
            "db refuses: this machine's clock is 1,234,567 s behind db's"
        );
        assert_eq!(
            says(-999),
            "db refuses: this machine's clock is 999 s behind db's"
        );
        assert_eq!(
            says(59),
            "db refuses: this machine's clock or db's was wrong a moment ago"
        );
        assert!(says(i64::MIN).contains("9,223,372,036,854,775,808 s behind"));
    }
}
