use punch_api::error::ErrorBody;
use punch_api::{ApiError, ErrorCode, ValueError};

#[test]
fn every_code_has_its_word_and_its_http_status() {
    for (code, word, status) in [
        (ErrorCode::Invalid, "invalid", 400),
        (ErrorCode::NotFound, "not_found", 404),
        (ErrorCode::Conflict, "conflict", 409),
        (ErrorCode::Unavailable, "unavailable", 422),
        (ErrorCode::Internal, "internal", 500),
        (ErrorCode::Timeout, "timeout", 504),
    ] {
        assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{word}\""));
        assert_eq!(code.http_status(), status, "{word}");
    }
}

#[test]
fn an_error_stands_in_an_envelope_with_code_and_message() {
    let body = ErrorBody {
        error: ApiError::conflict("there is a peer called `db` already"),
    };
    let text = serde_json::to_string(&body).unwrap();
    assert_eq!(
        text,
        r#"{"error":{"code":"conflict","message":"there is a peer called `db` already"}}"#
    );
    let back: ErrorBody = serde_json::from_str(&text).unwrap();
    assert_eq!(back.error, body.error);
}

#[test]
fn an_error_is_made_of_whatever_can_be_shown_and_shows_its_message_only() {
    let error = ApiError::invalid(ValueError::Backwards(2, 1));
    assert_eq!(error.code, ErrorCode::Invalid);
    assert_eq!(error.to_string(), "the range 2-1 runs backwards: write 1-2");
    assert_eq!(ApiError::not_found("x").code, ErrorCode::NotFound);
    assert_eq!(
        ApiError::new(ErrorCode::Timeout, "slow"),
        ApiError {
            code: ErrorCode::Timeout.into(),
            message: "slow".to_owned()
        }
    );
}
