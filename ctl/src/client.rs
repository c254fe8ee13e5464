//! Calls to punchd over its control socket.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use punch_api::ApiError;
use punch_api::error::ErrorBody;
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;

/// The reason why a command failed; its text says what to do.
#[derive(Debug)]
pub(crate) enum Failure {
    NotRunning(PathBuf),
    NoPermission(PathBuf),
    /// What punchd itself says.
    Api(ApiError),
    Refused(String),
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(socket) => write!(
                f,
                "punchd is not running (nothing answers on {}); start it with: sudo systemctl start punchd, or: sudo punchd",
                socket.display()
            ),
            Self::NoPermission(socket) => write!(
                f,
                "no permission to use {}: run this with sudo, or add yourself to the group punch: sudo usermod -aG punch $USER, and log in again",
                socket.display()
            ),
            Self::Api(error) => error.fmt(f),
            Self::Refused(message) | Self::Other(message) => f.write_str(message),
        }
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self::Other(format!("the connection to punchd broke: {error}"))
    }
}

pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, &()).await
    }

    /// Makes a call and reads the answer. `()` stands for no body.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Value, Failure> {
        let response = self.send(method, path, body).await?;
        let bytes = response.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::Other(format!("punchd's answer is not understood: {error}")))
    }

    /// Calls `each` with the data of every server-sent event, until the stream ends.
    pub(crate) async fn listen(
        &self,
        path: &str,
        mut each: impl FnMut(&str),
    ) -> Result<(), Failure> {
        let mut body = self.send(Method::GET, path, &()).await?.into_body();
        let mut line = Vec::new();
        // A punchd that stops breaks the stream off, which is its end as well.
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else {
                continue;
            };
            for byte in data {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let text = String::from_utf8_lossy(&line);
                if let Some(data) = text.strip_prefix("data:") {
                    each(data.trim());
                }
                line.clear();
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.explain(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = serde_json::to_vec(body).map_err(|error| Failure::Other(error.to_string()))?;
        let body = if body == b"null" { Vec::new() } else { body };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "punch")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::Other(error.to_string()))?;
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Failure::Api(body.error),
            Err(_) => Failure::Other(format!("punchd answers with status {status}")),
        })
    }

    fn explain(&self, error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Failure::NotRunning(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => Failure::NoPermission(self.socket.clone()),
            _ => Failure::Other(format!(
                "cannot connect to {}: {error}",
                self.socket.display()
            )),
        }
    }
}
