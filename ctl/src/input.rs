//! Standard input, where a text is read from it and not from the command line.

use std::io::Read;

use crate::client::Failure;

/// No more is read: the longest line has 1,700 characters, and mail programs add a few.
const MAX_TEXT: u64 = 8_192;

/// As much of standard input as could be a code or a line, which `what` calls it.
pub(crate) fn text_from_stdin(what: &str) -> Result<String, Failure> {
    limited(std::io::stdin())
        .map_err(|error| Failure::Other(format!("cannot read {what}: {error}")))
}

/// As much of a text as could be one.
pub(crate) fn limited(from: impl Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
