//! A way through an HTTP proxy: one CONNECT request and the head of its answer (RFC 9110 §9.3.6), bounded in bytes and in time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::proxy::Proxy;

/// A proxy has this long to take the connection and to answer; shorter than what is behind it may take, so that its silence is told as
/// its own.
const PATIENCE: Duration = Duration::from_secs(8);
/// The head of an answer that is longer is not read to its end.
const MAX_HEAD: usize = 8 * 1024;
/// Lines that a head may have.
const MAX_HEADERS: usize = 64;

/// What a proxy did instead of leading to a server.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {proxy} {why}")]
pub(super) struct ProxyTrouble {
    proxy: String,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("is not found: {0}")]
    Name(io::Error),
    #[error("refuses connections: look whether it runs, and at the port in its address")]
    Refused,
    #[error("is not reached: {0}")]
    Unreached(io::Error),
    #[error(
        "has not answered for {} s: it may be no HTTP proxy, or cannot reach {target} itself",
        PATIENCE.as_secs()
    )]
    Silent { target: String },
    #[error("closed the connection instead of leading to {target}: it may be no HTTP proxy")]
    Closed { target: String },
    #[error("broke the connection: {0}")]
    Broke(io::Error),
    #[error("does not speak HTTP: look at the port in its address")]
    NotHttp,
    #[error("answers without an end: it may be no HTTP proxy")]
    Endless,
    #[error(
        "answers CONNECT with a page (a web server, or the login of a network?): look at its address"
    )]
    Page,
    #[error(
        "wants a user and a password (407): give them as http://USER:PASSWORD@HOST:PORT, best in [signal] proxy of punchd.toml"
    )]
    WantsCredentials,
    #[error("does not take this user and password (407)")]
    RefusesCredentials,
    #[error("wants a login by {0} (407), and punchd knows Basic only")]
    WantsOther(String),
    #[error(
        "does not let this machine reach {target} ({code}): ask whoever runs it; most let CONNECT through to port 443 only"
    )]
    Forbids { target: String, code: u16 },
    #[error("cannot reach {target} ({code}): look at the server's address, and whether it runs")]
    CannotReach { target: String, code: u16 },
    #[error(
        "answered {code} instead of leading to {target}: it may be no proxy, or allow no CONNECT"
    )]
    Status { target: String, code: u16 },
}

/// The proxy's name is not found.
pub(super) fn not_found(proxy: &Proxy, error: io::Error) -> ProxyTrouble {
    trouble(proxy, Why::Name(error))
}

fn trouble(proxy: &Proxy, why: Why) -> ProxyTrouble {
    ProxyTrouble {
        proxy: proxy.to_string(),
        why,
    }
}

/// Connects to the proxy at one of its addresses, and through it to `target`, a `HOST:PORT` that the proxy looks up.
///
/// # Errors
/// The proxy does not lead there, or says nothing; the text tells what to do.
pub(super) async fn connect(
    address: SocketAddr,
    proxy: &Proxy,
    target: &str,
) -> Result<TcpStream, ProxyTrouble> {
    let way = async {
        let connected = TcpStream::connect(address).await;
        let mut stream = connected.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Why::Refused,
            _ => Why::Unreached(error),
        })?;
        ask(&mut stream, proxy, target).await?;
        Ok(stream)
    };
    let silent = Why::Silent {
        target: target.to_owned(),
    };
    let way = timeout(PATIENCE, way).await.unwrap_or(Err(silent));
    way.map_err(|why| trouble(proxy, why))
}

/// Sends the request and reads the head of the answer. Behind it the server is silent until it is spoken to, so nothing is lost by
/// reading more than the head; more is refused.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    target: &str,
) -> Result<(), Why> {
    let request = request(proxy, target);
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(Why::Broke)?;
    let mut head = Vec::with_capacity(512);
    // Bytes of interim answers, which count as the rest.
    let mut passed = 0;
    loop {
        let mut part = [0; 512];
        let length = match stream.read(&mut part).await {
            Ok(0) => {
                let target = target.to_owned();
                return Err(Why::Closed { target });
            }
            Ok(length) => length,
            Err(error) => return Err(Why::Broke(error)),
        };
        head.extend_from_slice(&part[..length]);
        while let Some(answer) = Answer::parse(&head[passed..])? {
            if !answer.is_interim() {
                return answer.judge(proxy, target, head.len() - passed);
            }
            passed += answer.length;
        }
        if head.len() > MAX_HEAD {
            return Err(Why::Endless);
        }
    }
}

/// CONNECT (RFC 9110 §9.3.6) with Basic credentials (RFC 7617), if there are any.
fn request(proxy: &Proxy, target: &str) -> Zeroizing<String> {
    let authorization = proxy.basic().map_or(Zeroizing::default(), |basic| {
        Zeroizing::new(format!("Proxy-Authorization: Basic {basic}\r\n"))
    });
    Zeroizing::new(format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n",
        *authorization
    ))
}

/// The head of an answer.
struct Answer {
    code: u16,
    /// Bytes of the head.
    length: usize,
    /// The names of the ways to log in that the proxy offers (RFC 9110 §11.7.1), as letters, digits and hyphens.
    schemes: Vec<String>,
}

impl Answer {
    /// Nothing while the head is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Why> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let length = match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Why::Endless),
            Err(_) => return Err(Why::NotHttp),
        };
        let offers = answer
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case("proxy-authenticate"));
        Ok(Some(Self {
            code: answer.code.unwrap_or(0),
            length,
            schemes: offers
                .filter_map(|offer| scheme(offer.value))
                .take(4)
                .collect(),
        }))
    }

    /// Whether the answer itself is still to come (RFC 9110 §15.2). Nobody has asked for another protocol (101).
    fn is_interim(&self) -> bool {
        (100..200).contains(&self.code) && self.code != 101
    }

    /// What the answer to a request of `total` bytes so far means.
    fn judge(self, proxy: &Proxy, target: &str, total: usize) -> Result<(), Why> {
        let (code, target) = (self.code, target.to_owned());
        let knows_basic =
            self.schemes.is_empty() || self.schemes.iter().any(|name| name == "basic");
        Err(match code {
            200..=299 if total == self.length => return Ok(()),
            200..=399 => Why::Page,
            407 if !knows_basic => Why::WantsOther(self.schemes.join(" or ")),
            407 if proxy.basic().is_some() => Why::RefusesCredentials,
            407 => Why::WantsCredentials,
            403 | 451 => Why::Forbids { target, code },
            502..=504 => Why::CannotReach { target, code },
            _ => Why::Status { target, code },
        })
    }
}

/// The name of a way to log in, in lower case; what else stands in the line is the proxy's own.
fn scheme(value: &[u8]) -> Option<String> {
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-';
    let name: Vec<u8> = value.iter().take_while(is_part).take(20).copied().collect();
    let name = String::from_utf8(name).ok()?.to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    const TARGET: &str = "signal.example:443";

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(test)
    }

    /// What comes of an answer, and what the proxy was sent.
    fn hear(proxy: &str, answer: &[u8]) -> (Result<(), String>, String) {
        run(async {
            let proxy = Proxy::parse(proxy).unwrap();
            let (mut near, mut far) = tokio::io::duplex(64 * 1024);
            far.write_all(answer).await.unwrap();
            let mut asked = vec![0; 4096];
            let end = async {
                let length = far.read(&mut asked).await.unwrap();
                asked.truncate(length);
                drop(far);
            };
            let (result, ()) = tokio::join!(ask(&mut near, &proxy, TARGET), end);
            let result = result.map_err(|why| trouble(&proxy, why).to_string());
            (result, String::from_utf8(asked).unwrap())
        })
    }

    fn refusal(proxy: &str, answer: &[u8]) -> String {
        hear(proxy, answer).0.unwrap_err()
    }

    #[test]
    fn a_proxy_is_asked_with_and_without_credentials() {
        let yes = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 x\r\n\r\n";
        let (result, asked) = hear("http://p:3128", yes);
        assert_eq!(result, Ok(()));
        let plain = "CONNECT signal.example:443 HTTP/1.1\r\nHost: signal.example:443\r\n";
        assert_eq!(asked, format!("{plain}\r\n"));
        let (result, asked) = hear("http://u:secret@p:3128", yes);
        assert_eq!(result, Ok(()));
        let basic = "Proxy-Authorization: Basic dTpzZWNyZXQ=\r\n";
        assert_eq!(asked, format!("{plain}{basic}\r\n"));
        assert_eq!(hear("p:1", b"HTTP/1.0 201 ok\r\n\r\n").0, Ok(()));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        let yes = format!("{interim}HTTP/1.1 200 ok\r\n\r\n");
        assert_eq!(hear("p:1", yes.as_bytes()).0, Ok(()));
        let endless = interim.repeat(2 * MAX_HEAD / interim.len());
        for (answer, words) in [
            (format!("{interim}HTTP/1.1 403 no\r\n\r\n"), "(403)"),
            (format!("{yes}<html>"), "with a page"),
            (interim.to_owned(), "closed the connection"),
            (endless, "answers without an end"),
            ("HTTP/1.1 101 other\r\n\r\n".to_owned(), "answered 101"),
        ] {
            let text = refusal("p:1", answer.as_bytes());
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn each_refusal_says_what_to_do_and_never_the_password() {
        let endless = [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; 2 * MAX_HEAD]].concat();
        let lines = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(MAX_HEADERS + 1));
        for (answer, words) in [
            (&b"HTTP/1.1 407 no\r\n\r\n"[..], "does not take this user and password"),
            (
                b"HTTP/1.1 407 no\r\nProxy-Authenticate: NTLM\r\nproxy-authenticate: Negotiate x\r\n\r\n",
                "by ntlm or negotiate (407)",
            ),
            (
                b"HTTP/1.1 407 no\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: BASIC realm=\"x\"\r\n\r\n",
                "does not take this user and password",
            ),
            (b"HTTP/1.1 403 no\r\n\r\n", "does not let this machine reach signal.example:443 (403)"),
            (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "cannot reach signal.example:443 (502)"),
            (b"HTTP/1.1 504 x\r\n\r\n", "cannot reach signal.example:443 (504)"),
            (b"HTTP/1.1 405 \x1b[2J\r\n\r\n", "does not speak HTTP"),
            (b"HTTP/1.1 405 no\r\n\r\n", "answered 405"),
            (b"HTTP/1.1 302 x\r\nLocation: http://login/\r\n\r\n", "with a page"),
            (b"HTTP/1.1 200 OK\r\n\r\n<html>", "with a page"),
            (b"<html><body>hello</body></html>", "does not speak HTTP"),
            (b"SSH-2.0-x\r\n", "does not speak HTTP"),
            (b"", "closed the connection"),
            (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
            (&endless, "answers without an end"),
            (lines.as_bytes(), "answers without an end"),
        ] {
            let text = refusal("http://user:secret@p:3128", answer);
            assert!(text.starts_with("the proxy http://p:3128 "), "{text}");
            assert!(text.contains(words), "{words}: {text}");
            assert!(!text.contains("secret") && !text.contains('\x1b'), "{text}");
        }
        let wants = refusal("http://p:3128", b"HTTP/1.1 407 no\r\n\r\n");
        assert!(wants.contains("USER:PASSWORD@"), "{wants}");
    }
}
