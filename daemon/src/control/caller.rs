//! The processes at the other end of the control socket, and what the log says of their changes.

use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

/// The user and the process that have connected, as the kernel knows them.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Caller {
    pub(super) fn user(self) -> Option<u32> {
        self.uid
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self {
            uid: credentials.as_ref().map(|caller| caller.uid()),
            pid: credentials.and_then(|caller| caller.pid()),
        }
    }
}

/// Passes a call on, and has the log tell who has changed something by it.
pub(super) async fn note(request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<ConnectInfo<Caller>>().copied();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    if let Some(ConnectInfo(Caller { uid, pid })) = caller
        && changes(&method, &path)
        && response.status().is_success()
    {
        tracing::info!(uid, pid, %method, path, "a change was asked for and made");
    }
    response
}

/// Whether a call changes the configuration.
fn changes(method: &Method, path: &str) -> bool {
    match *method {
        Method::GET | Method::HEAD => false,
        Method::POST => {
            !path.ends_with("/ping") && path != "/v1/netcheck" && path != "/v1/take-over"
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_told_from_what_asks() {
        for (method, path, expected) in [
            (Method::GET, "/v1/peers", false),
            (Method::POST, "/v1/peers", true),
            (Method::DELETE, "/v1/peers/ping", true),
            (Method::POST, "/v1/peers/db/ping", false),
            (Method::POST, "/v1/peers/db/up", true),
            (Method::PUT, "/v1/peers/db/host", true),
            (Method::DELETE, "/v1/peers/db/relay", true),
            (Method::POST, "/v1/netcheck", false),
            (Method::DELETE, "/v1/servers", true),
        ] {
            assert_eq!(changes(&method, path), expected, "{method} {path}");
        }
    }
}
