//! `punchd --take-over`: one process asks the running one, over its control socket, for what it has opened.
//!
//! The new process has read configuration and state before it asks. The running one lets in root and its own user alone; it saves, lets
//! go of the state directory, stops its packet path and passes everything on; then it waits. It ends when the new one says that it
//! serves. If the new one goes before it has said so, the running one goes on with copies of the same descriptors: nothing is lost but
//! the time between.
//!
//! On the wire, after `POST /v1/take-over` and 101: how many descriptors, two bytes, and 0 if the running one cannot pass anything on;
//! the descriptors, of which the first is memory with the names of the others, a line each; then `serving`, a line from the new process,
//! and in answer `bye`, or `own` from one that has given up waiting and goes on. Whoever ends without either is gone: no process is
//! looked for by its number, which is that of whoever began to listen, and may have been reused.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use punch_api::error::ErrorBody;
use punch_platform::handover::{self, Named};

use super::Inheritance;
use super::heir::MAX_DESCRIPTORS;

/// What the connection is used for after the request.
pub(crate) const UPGRADE: &str = "punch-take-over";
/// The running process has to save first, and a disk may stall.
const PATIENCE: Duration = Duration::from_secs(15);
/// The new process must serve by then.
const READY: Duration = Duration::from_secs(20);
/// The answer to its request is out by then.
const UPGRADED: Duration = Duration::from_secs(5);
const SERVING: &[u8; 8] = b"serving\n";
const BYE: &[u8; 4] = b"bye\n";
/// The running process has waited for long enough, and serves itself.
const OWN: &[u8; 4] = b"own\n";
/// The longest answer that is not a hand-over.
const MAX_ANSWER: u64 = 16 * 1024;

/// The process that is taken over from: it waits to hear that this one serves.
pub(crate) struct Predecessor(UnixStream);

/// How the process that was taken over from has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// When it heard that this one serves.
    ByWord,
    /// Before that: it may have removed the control socket's file.
    ByItself,
}

/// A connection over which everything is to be passed on.
pub(crate) struct Asked(OnUpgrade);

/// The process that takes over.
pub(crate) struct Successor(UnixStream);

// --- the new process ---

/// Asks the punchd that listens at `socket` for everything, and waits until it has stopped and passed it on.
pub(crate) fn ask(socket: &Path, state_dir: &Path) -> Result<(Inheritance, Predecessor)> {
    let place = socket.display();
    let stream = UnixStream::connect(socket).with_context(|| {
        format!("no punchd answers on {place} to take over from: start without --take-over")
    })?;
    let user =
        handover::peer(&stream).with_context(|| format!("cannot tell who answers on {place}"))?;
    let owner = std::fs::metadata(state_dir).map(|directory| directory.uid());
    if user != 0 && user != handover::own_user() && owner.ok() != Some(user) {
        bail!(
            "user {user} answers on {place}, who is neither root nor the owner of {}: nothing is taken from there",
            state_dir.display()
        );
    }
    let inheritance = receive(&stream)
        .with_context(|| format!("the punchd that answers on {place} was not taken over from"))?;
    Ok((inheritance, Predecessor(stream)))
}

fn receive(stream: &UnixStream) -> Result<Inheritance> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!(
        "POST /v1/take-over HTTP/1.1\r\nHost: punchd\r\nConnection: upgrade\r\nUpgrade: {UPGRADE}\r\nContent-Length: 0\r\n\r\n"
    );
    let mut writer = stream;
    writer.write_all(request.as_bytes())?;
    let head = read_head(stream)?;
    if !head.starts_with("HTTP/1.1 101 ") {
        bail!("{}", refusal(stream, &head));
    }
    let mut descriptors = handover::receive(stream, MAX_DESCRIPTORS)?.into_iter();
    let manifest = descriptors
        .next()
        .context("it has passed on nothing and goes on (its log says why)")?;
    let manifest = handover::read_memory(&File::from(manifest))?;
    let names = str::from_utf8(&manifest).context("its list of names is no text")?;
    let named: Vec<Named> = names.lines().map(str::to_owned).zip(descriptors).collect();
    Ok(Inheritance::of(named))
}

/// Reads up to the empty line and not one byte further: descriptors follow.
fn read_head(mut stream: &UnixStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() as u64 > MAX_ANSWER {
            return Err(io::Error::new(ErrorKind::InvalidData, "an endless answer"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// What an answer says that is none of ours.
fn refusal(stream: &UnixStream, head: &str) -> String {
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse::<u64>().ok());
    let mut body = Vec::new();
    let _ = stream
        .take(length.unwrap_or(0).min(MAX_ANSWER))
        .read_to_end(&mut body);
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(body) => body.error.message,
        Err(_) => {
            let status = head.lines().next().unwrap_or_default();
            format!("it answers: {status} (an older version? restart it)")
        }
    }
}

impl Predecessor {
    /// Says that this process serves, whereupon the other one ends.
    ///
    /// # Errors
    /// When the other one has gone on itself.
    pub(crate) fn dismiss(self) -> Result<Ended> {
        let Self(mut stream) = self;
        stream.set_read_timeout(Some(PATIENCE))?;
        // What the other one has said last can be read even if it hears nothing any more.
        let _ = stream.write_all(SERVING);
        let mut answer = [0; BYE.len()];
        match stream.read_exact(&mut answer) {
            Ok(()) if answer == *BYE => Ok(Ended::ByWord),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                tracing::warn!(
                    "the punchd that was taken over from has ended before it was told to"
                );
                Ok(Ended::ByItself)
            }
            Ok(()) | Err(_) => {
                bail!("the punchd that was to be taken over from goes on itself; this one ends")
            }
        }
    }
}

// --- the running process ---

impl Asked {
    /// By a request that was let in.
    pub(crate) fn new(upgrade: OnUpgrade) -> Self {
        Self(upgrade)
    }

    /// The connection of the process that takes over, once it was answered.
    ///
    /// # Errors
    /// When it has gone, or says more than it may.
    pub(crate) async fn successor(self) -> io::Result<Successor> {
        let upgraded = tokio::time::timeout(UPGRADED, self.0).await?;
        match downcast::<TokioIo<tokio::net::UnixStream>>(upgraded.map_err(io::Error::other)?) {
            Ok(parts) if parts.read_buf.is_empty() => {
                Ok(Successor(parts.io.into_inner().into_std()?))
            }
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}

impl Successor {
    /// Passes everything on, and waits until the other one serves.
    ///
    /// # Errors
    /// When it does not come to that: this process is to go on.
    pub(crate) fn instate(self, named: &[Named]) -> Result<()> {
        let outcome = self.wait(named);
        if outcome.is_err() {
            // Without this it would take this process for gone.
            let _ = (&self.0).write_all(OWN);
        }
        outcome
    }

    /// Tells it that nothing can be passed on.
    pub(crate) fn refuse(self) {
        let _ = handover::send(&self.0, &[]);
    }

    fn wait(&self, named: &[Named]) -> Result<()> {
        let Self(stream) = self;
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(READY))?;
        let mut manifest = String::new();
        for (name, _) in named {
            manifest.push_str(name);
            manifest.push('\n');
        }
        let manifest = handover::sealed(manifest.as_bytes())?;
        let mut descriptors = vec![manifest.as_fd()];
        descriptors.extend(named.iter().map(|(_, descriptor)| descriptor.as_fd()));
        handover::send(stream, &descriptors).context("it does not take the descriptors")?;
        let mut said = Vec::new();
        let line = BufReader::new(stream.take(SERVING.len() as u64)).read_until(b'\n', &mut said);
        match line {
            Ok(_) if said == SERVING => {}
            Ok(_) => bail!("it has ended, or says something else than that it serves"),
            Err(error) => return Err(error).context("it does not say that it serves"),
        }
        // Whether or not it hears it, there must be one that serves.
        (&mut &*stream)
            .write_all(BYE)
            .context("it has ended as soon as it served")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    /// What the new process says of a running one that answers with this, and then is gone.
    fn said(answer: &[u8]) -> String {
        let (one, mut other) = UnixStream::pair().unwrap();
        other.write_all(answer).unwrap();
        other.shutdown(std::net::Shutdown::Write).unwrap();
        format!("{:#}", receive(&one).err().unwrap())
    }

    #[test]
    fn whatever_answers_something_else_is_not_taken_over_from() {
        let refused = br#"{"error":{"code":"invalid","message":"only root"}}"#;
        let head = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n",
            refused.len()
        );
        assert_eq!(said(&[head.as_bytes(), refused].concat()), "only root");
        let older = said(b"HTTP/1.1 404 Not Found\r\n\r\n");
        assert!(older.contains("404 Not Found"), "{older}");
        said(b"");
        said(b"SSH-2.0-OpenSSH_9.6\r\n");
        said(&vec![b'x'; 20_000]);
        said(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        said(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x00\x00");
        said(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\xff\xff\xff");
    }

    #[test]
    fn a_successor_that_goes_before_it_serves_is_none() {
        let nothing: OwnedFd = File::open("/dev/null").unwrap().into();
        let named = [("other".to_owned(), nothing)];
        for word in [&b""[..], b"serv", b"nothing\n", b"serving\n"] {
            let (one, mut other) = UnixStream::pair().unwrap();
            let outcome = std::thread::scope(|scope| {
                let running = scope.spawn(|| Successor(one).instate(&named));
                assert_eq!(handover::receive(&other, 9).unwrap().len(), 2);
                other.write_all(word).unwrap();
                other.shutdown(std::net::Shutdown::Write).unwrap();
                running.join().unwrap()
            });
            assert_eq!(outcome.is_ok(), word == SERVING, "{word:?}");
            let mut last = Vec::new();
            other.read_to_end(&mut last).unwrap();
            let expected = if outcome.is_ok() { BYE } else { OWN };
            assert_eq!(last, expected, "{word:?}");
        }
    }

    #[test]
    fn a_predecessor_is_gone_only_if_it_has_ended_without_a_word() {
        let dismissed = |word: &[u8], ends: bool| {
            let (one, mut other) = UnixStream::pair().unwrap();
            other.write_all(word).unwrap();
            let kept = (!ends).then_some(other);
            let outcome = Predecessor(one).dismiss().ok();
            drop(kept);
            outcome
        };
        assert_eq!(dismissed(BYE, false), Some(Ended::ByWord));
        assert_eq!(dismissed(BYE, true), Some(Ended::ByWord));
        assert_eq!(dismissed(b"", true), Some(Ended::ByItself));
        // It lives, whether or not it listens still.
        assert_eq!(dismissed(OWN, false), None);
        assert_eq!(dismissed(OWN, true), None);
    }
}
