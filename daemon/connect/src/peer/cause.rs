//! What has brought a path of an attempt to serve.

use punch_traversal::{LinkHealth, chosen, is_doubtful};

use super::attempts::Attempts;
use crate::course::{Cause, Left};
use crate::path::Path;

/// The cause of a link that takes the place of a direct path.
pub(super) const SILENT: Cause = Cause::Silent;

/// The cause of a direct path that the agent of this attempt has selected.
pub(super) fn of_path(attempts: &mut Attempts, index: usize) -> Cause {
    match attempts.first() {
        Some(attempt) if index == 0 => Cause::Chosen(chosen(&attempt.agent)),
        _ => of_exchange(attempts, index),
    }
}

/// The cause of a link of this attempt, which serves where `before` did.
pub(super) fn of_link(attempts: &mut Attempts, index: usize, before: Option<Path>) -> Cause {
    let attempt = attempts.first().filter(|_| index == 0);
    let Some(attempt) = attempt else {
        return of_exchange(attempts, index);
    };
    let links = &attempt.links;
    Cause::Link(match before {
        Some(Path::Relayed(link)) => match links.relayed.health(link) {
            Some(LinkHealth::Answers | LinkHealth::New) => Left::Slower,
            Some(LinkHealth::Silent | LinkHealth::Dead) => Left::Silent,
            None => Left::Gone,
        },
        Some(Path::Tcp(link)) if links.tcp.is_authentic(link) => Left::Silent,
        _ => Left::Gone,
    })
}

fn of_exchange(attempts: &mut Attempts, index: usize) -> Cause {
    let attempt = attempts.get_mut(index);
    let ours = attempt.is_some_and(|attempt| attempt.offered);
    let answers = attempts
        .first()
        .is_some_and(|first| match first.agent.path() {
            Some(_) => !is_doubtful(&first.agent),
            None => first.links.path().is_some(),
        });
    Cause::Exchange { ours, answers }
}
