//! Questions whose answer takes a while: they are waited for beside everything else.

use std::time::Duration;

use punch_api::{
    ApiError, Changed, ErrorCode, ForwardTrouble, ForwardView, NetcheckView, OpenEnum, PathView,
    PeerName, PingView, Protocol,
};
use punch_engine::NatProfile;
use punch_platform::clock;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::request::Answer;
use crate::driver::command::Pong;
use crate::portmap::Mapped;
use crate::streams::target;
use crate::views::netcheck;

/// A peer has this long to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// A netcheck takes a few seconds; one that hangs is given up.
const NETCHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no netcheck.
pub(super) fn nobody_to_ask() -> ApiError {
    ApiError::new(
        ErrorCode::Unavailable,
        "no STUN server is known to ask; add one with: punchctl server add stun HOST",
    )
}

/// Why there is no netcheck where the DHT has just begun.
pub(super) fn nobody_yet() -> ApiError {
    ApiError::new(
        ErrorCode::Unavailable,
        "no STUN server is known to ask, and too few nodes of the DHT have answered yet (punchctl status): try again in a few seconds, or add one with: punchctl server add stun HOST",
    )
}

/// Passes a peer's answer to a ping on.
pub(super) async fn ping(
    name: PeerName,
    is_up: bool,
    path: Option<PathView>,
    pong: oneshot::Receiver<Option<Pong>>,
    answer: Answer<PingView>,
) {
    let result = match timeout(PING_TIMEOUT, pong).await {
        Ok(Ok(Some(pong))) => Ok(PingView {
            address: pong.address,
            rtt_ms: pong.rtt.as_secs_f64() * 1000.0,
            path,
        }),
        Ok(_) => Err(ApiError::new(
            ErrorCode::Unavailable,
            if is_up {
                format!("{name} is not connected yet; to see why: punchctl why {name}")
            } else {
                format!("{name} is not connected; connect with: punchctl up {name}")
            },
        )),
        Err(_) => Err(ApiError::new(
            ErrorCode::Timeout,
            format!("no answer from {name} in 3 s"),
        )),
    };
    let _ = answer.send(result);
}

/// Tells of a new forward, and whether something listens at its target; a target that says nothing within a second may be slow.
pub(super) async fn target(
    mut changed: Changed<ForwardView>,
    answer: Answer<Changed<ForwardView>>,
) {
    let view = &mut changed.view;
    if view.protocol == OpenEnum::Known(Protocol::Tcp) && view.trouble.is_none() {
        let trouble = target::trouble(&view.target).await;
        view.trouble = trouble.map(|message| ForwardTrouble {
            at_ms: clock::wall_ms(),
            message,
        });
    }
    let _ = answer.send(Ok(changed));
}

/// Passes the findings of a netcheck on.
pub(super) async fn netcheck(
    port_mapping: watch::Receiver<Mapped>,
    profiles: oneshot::Receiver<Vec<NatProfile>>,
    answer: Answer<Vec<NetcheckView>>,
) {
    let result = match timeout(NETCHECK_TIMEOUT, profiles).await {
        Ok(Ok(profiles)) => {
            let port_mapping = port_mapping.borrow().view.clone();
            let view = |profile| netcheck::netcheck(profile, &port_mapping);
            Ok(profiles.iter().map(view).collect())
        }
        _ => Err(ApiError::new(
            ErrorCode::Timeout,
            "the check did not finish",
        )),
    };
    let _ = answer.send(result);
}
