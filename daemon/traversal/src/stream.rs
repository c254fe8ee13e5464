//! Datagrams on a TCP connection: each with its length before it (RFC 4571 §2), two bytes in network order.

use std::error::Error;
use std::fmt;

/// The longest datagram in bytes, as over a relay.
pub const MAX_STREAM_DATAGRAM: usize = 2048;
/// The bytes before each datagram.
pub const STREAM_PREFIX: usize = 2;

/// The bytes are not those of a peer: no datagram is empty or longer than [`MAX_STREAM_DATAGRAM`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoDatagram;

impl fmt::Display for NoDatagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what has come are no datagrams with their lengths")
    }
}

impl Error for NoDatagram {}

/// The length that stands before a datagram.
///
/// # Errors
/// It is none that a peer sends.
pub fn stream_length(prefix: [u8; STREAM_PREFIX]) -> Result<usize, NoDatagram> {
    let length = usize::from(u16::from_be_bytes(prefix));
    match length {
        1..=MAX_STREAM_DATAGRAM => Ok(length),
        _ => Err(NoDatagram),
    }
}

/// Appends a datagram with its length; one that is empty or too long is left out. Returns whether it was appended.
pub fn put_stream_datagram(out: &mut Vec<u8>, datagram: &[u8]) -> bool {
    let length = u16::try_from(datagram.len()).unwrap_or(0);
    if stream_length(length.to_be_bytes()).is_err() {
        return false;
    }
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(datagram);
    true
}

/// How many bytes at the start of `bytes` are whole datagrams with their lengths.
///
/// # Errors
/// A length is none that a peer sends.
pub fn whole_datagrams(bytes: &[u8]) -> Result<usize, NoDatagram> {
    let mut end = 0;
    while let Some(prefix) = bytes.get(end..).and_then(|rest| rest.first_chunk()) {
        let next = end + STREAM_PREFIX + stream_length(*prefix)?;
        if next > bytes.len() {
            break;
        }
        end = next;
    }
    Ok(end)
}

/// The datagrams in `bytes`, up to the first that is not whole.
pub fn stream_datagrams(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = stream_length(*bytes.first_chunk()?).ok()?;
        let datagram = bytes.get(STREAM_PREFIX..STREAM_PREFIX + length)?;
        bytes = &bytes[STREAM_PREFIX + length..];
        Some(datagram)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_others_say_first_is_no_datagram() {
        for greeting in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"220 mail.example ESMTP\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            &[0, 0, 1],
            &[8, 1],
        ] {
            assert_eq!(whole_datagrams(greeting), Err(NoDatagram));
            assert_eq!(stream_datagrams(greeting).count(), 0);
        }
    }

    #[test]
    fn what_is_too_long_or_empty_is_left_out() {
        let mut out = Vec::new();
        assert!(!put_stream_datagram(&mut out, &[]));
        assert!(!put_stream_datagram(
            &mut out,
            &[7; MAX_STREAM_DATAGRAM + 1]
        ));
        assert!(!put_stream_datagram(&mut out, &[7; 65_536 + 5]));
        assert!(out.is_empty());
        assert!(put_stream_datagram(&mut out, &[7; MAX_STREAM_DATAGRAM]));
        assert_eq!(
            whole_datagrams(&out),
            Ok(STREAM_PREFIX + MAX_STREAM_DATAGRAM)
        );
    }

    proptest! {
        /// However the bytes are cut on their way.
        #[test]
        fn what_is_put_comes_out(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            for datagram in &datagrams {
                prop_assert!(put_stream_datagram(&mut bytes, datagram));
            }
            prop_assert_eq!(whole_datagrams(&bytes), Ok(bytes.len()));
            let first = whole_datagrams(&bytes[..cut.index(bytes.len() + 1)]).unwrap_or(0);
            let parts = [&bytes[..first], &bytes[first..]];
            let read: Vec<_> = parts.into_iter().flat_map(stream_datagrams).collect();
            prop_assert_eq!(read, datagrams);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            if let Ok(end) = whole_datagrams(&bytes) {
                prop_assert!(end <= bytes.len() && bytes.len() - end < STREAM_PREFIX + MAX_STREAM_DATAGRAM);
                let total: usize = stream_datagrams(&bytes[..end]).map(|d| STREAM_PREFIX + d.len()).sum();
                prop_assert_eq!(total, end);
            }
        }
    }
}
