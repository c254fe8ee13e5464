//! Protocols and ports as people write them.

use std::ffi::OsString;

use punch_api::{PortRange, Protocol};

/// Writes `tcp/5432` and `5432/tcp` behind `forward` and `unforward` as the two words that they are here.
pub(super) fn split(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<_> = words.into_iter().collect();
    let command = words
        .iter()
        .position(|word| word == "forward" || word == "unforward");
    let Some(at) = command.map(|command| command + 1) else {
        return words;
    };
    let text = words.get(at).and_then(|word| word.to_str());
    let Some((left, right)) = text.and_then(|text| text.split_once('/')) else {
        return words;
    };
    let (protocol, ports) = match (protocol(left), protocol(right)) {
        (Ok(_), Err(_)) => (left, right),
        (Err(_), Ok(_)) => (right, left),
        _ => return words,
    };
    let both = [protocol, ports].map(OsString::from);
    words.splice(at..=at, both);
    words
}

/// Reads a protocol, in small letters or capitals.
pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    let lower = text.to_ascii_lowercase();
    lower.parse::<Protocol>().map_err(|error| {
        if text.parse::<PortRange>().is_ok() {
            format!("the protocol comes first; write: tcp {text}")
        } else {
            error.to_string()
        }
    })
}

/// Reads a port or a range.
pub(super) fn ports(text: &str) -> Result<PortRange, String> {
    text.parse::<PortRange>()
        .map_err(|error| match text.split_once(':') {
            Some((port, target)) if target.parse::<PortRange>().is_ok() => format!(
                "to lead port {port} to port {target} write: {port} --to 127.0.0.1:{target}"
            ),
            _ => error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_text(text: &str) -> String {
        let words = split(text.split(' ').map(OsString::from));
        let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
        words.join(" ")
    }

    #[test]
    fn a_protocol_and_a_port_may_be_one_word() {
        for (written, read) in [
            ("punchctl forward tcp/5432", "punchctl forward tcp 5432"),
            (
                "punchctl forward 5432/tcp --peer db",
                "punchctl forward tcp 5432 --peer db",
            ),
            (
                "punchctl --json unforward UDP/53",
                "punchctl --json unforward UDP 53",
            ),
            ("punchctl forward tcp 5432", "punchctl forward tcp 5432"),
            ("punchctl forward a/b", "punchctl forward a/b"),
            ("punchctl forward", "punchctl forward"),
            ("punchctl up tcp/5432", "punchctl up tcp/5432"),
        ] {
            assert_eq!(split_text(written), read);
        }
    }

    #[test]
    fn capitals_are_read_and_what_was_meant_is_told() {
        assert_eq!(protocol("TCP"), Ok(Protocol::Tcp));
        assert_eq!(
            protocol("5432"),
            Err("the protocol comes first; write: tcp 5432".to_owned())
        );
        assert_eq!(
            ports("8080:80"),
            Err("to lead port 8080 to port 80 write: 8080 --to 127.0.0.1:80".to_owned())
        );
        assert!(ports("0").is_err() && ports("a:b").is_err() && protocol("sctp").is_err());
    }
}
