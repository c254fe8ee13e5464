//! A client's TCP connection, which counts as flushed only when the kernel asks for more.
//!
//! What is given to the kernel before that waits there, and what was taken to be given to it waits as well; neither is dropped when it is
//! old, nor overtaken. So nothing is to be taken from a client's queue as long as there is still something to send.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The kernel asks for more while it has less than this to send.
const UNSENT: u32 = 8 * 1024;

/// One connection.
pub(super) struct Line(TcpStream);

impl Line {
    /// A connection that was accepted.
    pub(super) fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        Self(stream)
    }

    /// Tokio remembers that the kernel once asked for more, and only a write that fails would teach it better.
    fn wants_more(&self) -> io::Result<()> {
        let mut asked = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        while let Err(error) = poll(&mut asked, PollTimeout::ZERO) {
            if error != Errno::EINTR {
                return Err(error.into());
            }
        }
        // An error or the end counts, too: the next write tells it.
        if asked.iter().any(|asked| asked.any().unwrap_or(true)) {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_io(Interest::WRITABLE, || self.wants_more()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
