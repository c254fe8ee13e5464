//! The calls about invitations.

use axum::extract::State;
use axum::response::Response;
use punch_api::{ApiError, PairingView};

use super::calls::{Body, Control, Name, ask, ask_with};
use crate::controller::request::{Answer, PairingAsk, Request};
use crate::refusal::refuse;

pub(super) async fn invite(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, |body, answer| {
        Request::Pairing(PairingAsk::Invite(body, answer))
    })
    .await
}

pub(super) async fn join(context: State<Control>, Body(body): Body) -> Response {
    ask_with(context, &body, |body, answer| {
        Request::Pairing(PairingAsk::Join(body, answer))
    })
    .await
}

pub(super) async fn pairings(context: State<Control>) -> Response {
    ask(context, |answer| Request::Pairing(PairingAsk::List(answer))).await
}

pub(super) async fn pairing(context: State<Control>, number: Name) -> Response {
    ask_one(context, number, PairingAsk::Look).await
}

pub(super) async fn end_pairing(context: State<Control>, number: Name) -> Response {
    ask_one(context, number, PairingAsk::End).await
}

async fn ask_one(
    context: State<Control>,
    number: Name,
    request: impl FnOnce(u32, Answer<PairingView>) -> PairingAsk,
) -> Response {
    match number.0.parse() {
        Ok(number) => ask(context, |answer| Request::Pairing(request(number, answer))).await,
        Err(_) => refuse(ApiError::not_found("an invitation has a number")),
    }
}
