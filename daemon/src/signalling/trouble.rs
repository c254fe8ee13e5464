//! Why a signalling server is not reached, in words that say what to do.

use std::error::Error;
use std::io;

use tokio_tungstenite::tungstenite;

use super::tunnel::ProxyTrouble;
use crate::dial;
use crate::proxy::Proxy;

/// The error and its causes, without what a cause repeats; the commonest mistakes in an address have words of their own. The proxy is
/// named, if one is on the way.
pub(super) fn explain(
    error: &anyhow::Error,
    url: &str,
    proxy: Result<Option<&Proxy>, String>,
) -> String {
    if let Some(trouble) = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ProxyTrouble>())
    {
        return trouble.to_string();
    }
    let known = error.chain().find_map(|cause| known(cause, url));
    let text = known.unwrap_or_else(|| dial::explain(error));
    match proxy {
        Ok(Some(proxy)) if !text.contains(proxy.place()) => {
            format!("{text} (through the proxy {proxy})")
        }
        _ => text,
    }
}

/// Whether nothing listens where the server should be.
pub(super) fn is_refusal(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

fn known(cause: &(dyn Error + 'static), url: &str) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        return match (error.kind(), tls) {
            (io::ErrorKind::ConnectionRefused, _) => Some(match port(url) {
                Some(port) => format!("refused on port {port}"),
                None => "refused".to_owned(),
            }),
            (_, Some(rustls::Error::InvalidMessage(_))) => Some(format!(
                "the server does not speak TLS there: try {}",
                other_scheme(url)
            )),
            _ => None,
        };
    }
    let speaks_no_http = matches!(
        cause.downcast_ref(),
        Some(tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::HttparseError(_)
        ))
    );
    (speaks_no_http && url.starts_with("ws://")).then(|| {
        format!(
            "the server does not speak WebSocket there; if it has TLS, try {}",
            other_scheme(url)
        )
    })
}

/// The port, which stands in every address of a server.
fn port(url: &str) -> Option<u16> {
    let authority = url.trim_end_matches('/');
    authority.rsplit_once(':')?.1.parse().ok()
}

/// The same server with TLS, if `url` has none, and the other way round.
fn other_scheme(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.strip_prefix("wss://") {
        Some(rest) => format!("ws://{rest}"),
        None => url.replacen("ws://", "wss://", 1),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test stops where it fails")]
mod tests {
    use anyhow::Context;

    use super::*;

    fn explain_io(error: io::Error, url: &str) -> String {
        let error = Err::<(), _>(tungstenite::Error::Io(error)).context("cannot connect");
        explain(&error.expect_err("it is one"), url, Ok(None))
    }

    /// What a server with TLS says to a client without: an alert (RFC 8446 §6).
    #[derive(Debug)]
    struct TlsServer;

    impl io::Read for TlsServer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let alert = [0x15, 3, 3, 0, 2, 2, 70];
            buffer[..alert.len()].copy_from_slice(&alert);
            Ok(alert.len())
        }
    }

    impl io::Write for TlsServer {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_refused_connection_names_the_port() {
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = explain_io(error, "ws://203.0.113.1:80/");
        assert_eq!(text, "refused on port 80");
    }

    #[test]
    fn a_server_without_tls_is_told_from_one_with_it() {
        let tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let error = io::Error::new(io::ErrorKind::InvalidData, tls);
        assert_eq!(
            explain_io(error, "wss://203.0.113.1:8080/"),
            "the server does not speak TLS there: try ws://203.0.113.1:8080"
        );
        let client = tungstenite::client("ws://a/", TlsServer);
        let Err(tungstenite::HandshakeError::Failure(error)) = client else {
            panic!("it speaks no HTTP");
        };
        let error = Err::<(), _>(error).context("cannot connect");
        assert_eq!(
            explain(
                &error.expect_err("it is one"),
                "ws://[2001:db8::1]:443/",
                Ok(None)
            ),
            "the server does not speak WebSocket there; if it has TLS, try wss://[2001:db8::1]:443"
        );
    }

    #[test]
    fn other_errors_are_told_with_their_causes_once() {
        let error = anyhow::anyhow!("no route to host").context("cannot connect");
        assert_eq!(
            explain(&error, "ws://a:80/", Ok(None)),
            "cannot connect: no route to host"
        );
        let proxy = Proxy::parse("u:secret@p:3128").expect("it is one");
        assert_eq!(
            explain(&error, "ws://a:80/", Ok(Some(&proxy))),
            "cannot connect: no route to host (through the proxy http://p:3128)"
        );
    }
}
