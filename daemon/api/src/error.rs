//! Errors: why a request was refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;

/// The kind of an error, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request's values make no sense (400).
    Invalid,
    /// What is named does not exist (404).
    NotFound,
    /// What is to be made exists already, or collides with something else (409).
    Conflict,
    /// The request cannot be carried out in the present state (422), for instance a ping of a peer that is not connected.
    Unavailable,
    /// The request took too long (504).
    Timeout,
    /// punchd itself failed, for instance to write its state (500).
    Internal,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Unavailable => 422,
            Self::Internal => 500,
            Self::Timeout => 504,
        }
    }
}

/// An error, in an answer written as `{"error": {"code": "...", "message": "..."}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ApiError {
    /// The kind of the error, for programs.
    pub code: OpenEnum<ErrorCode>,
    /// What happened and what to do, for people.
    pub message: String,
}

impl ApiError {
    /// Makes an error with this message.
    pub fn new(code: ErrorCode, message: impl fmt::Display) -> Self {
        Self {
            code: code.into(),
            message: message.to_string(),
        }
    }

    /// The HTTP status that goes with the error.
    pub fn http_status(&self) -> u16 {
        let code = match self.code {
            OpenEnum::Known(code) => code,
            OpenEnum::Unknown(_) => ErrorCode::Internal,
        };
        code.http_status()
    }

    /// Makes an error with [`ErrorCode::Invalid`].
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    /// Makes an error with [`ErrorCode::NotFound`].
    pub fn not_found(message: impl fmt::Display) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// Makes an error with [`ErrorCode::Conflict`].
    pub fn conflict(message: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The JSON body of an answer that reports an error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error that is reported.
    pub error: ApiError,
}
