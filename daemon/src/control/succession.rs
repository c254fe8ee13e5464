//! A new process of punchd asks to take over from this one.

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use punch_api::{ApiError, ErrorCode};
use punch_platform::handover;

use super::caller::Caller;
use super::calls::Control;
use crate::handover::takeover::{self, Asked};
use crate::refusal::refuse;

/// Lets in root and this process's own user, and hands the connection to whoever can stop everything.
pub(super) async fn take_over(
    State(context): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    mut request: Request,
) -> Response {
    match admit(&context, caller, &headers, &mut request) {
        Ok(()) => {
            let headers = [(CONNECTION, "upgrade"), (UPGRADE, takeover::UPGRADE)];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }
        Err(error) => refuse(error),
    }
}

fn admit(
    context: &Control,
    caller: Caller,
    headers: &HeaderMap,
    request: &mut Request,
) -> Result<(), ApiError> {
    let own = handover::own_user();
    let user = caller.user();
    if user.is_none_or(|user| user != 0 && user != own) {
        tracing::warn!(uid = user, "a take-over was asked for by another user");
        return Err(ApiError::new(
            ErrorCode::Unavailable,
            format!("only root and user {own}, as whom punchd runs, may take over from it"),
        ));
    }
    if handover::is_managed() {
        return Err(ApiError::conflict(
            "this punchd runs as a service, which would lose sight of the new one; restart it there, and the tunnels go on: systemctl restart punchd",
        ));
    }
    if std::process::id() == 1 {
        return Err(ApiError::conflict(
            "this punchd is the first process of its container, which would end with it; restart the container instead",
        ));
    }
    let upgrade = headers.get(UPGRADE).map(|value| value.as_bytes());
    if upgrade != Some(takeover::UPGRADE.as_bytes()) {
        return Err(ApiError::invalid("this call is for punchd --take-over"));
    }
    let asked = Asked::new(hyper::upgrade::on(request));
    context
        .successors
        .try_send(asked)
        .map_err(|_| ApiError::conflict("another process is about to take over"))
}
