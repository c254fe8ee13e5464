//! How a call over HTTP is refused, on the control socket and where metrics are served.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use punch_api::ApiError;
use punch_api::error::ErrorBody;

/// The answer to a call that is refused: the error as JSON, with the HTTP status that goes with its code.
pub(crate) fn refuse(error: ApiError) -> Response {
    let status =
        StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(ErrorBody { error })).into_response()
}
