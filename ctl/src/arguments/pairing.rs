//! The arguments of `punchctl invite` and `punchctl join`.

use clap::Args;
use punch_api::{ForwardKey, PeerName};

use super::ports;

/// The arguments of `punchctl invite`.
#[derive(Debug, Args)]
pub struct InviteArguments {
    /// The name to give the other machine; without it, the name that it proposes
    #[arg(long, value_name = "NAME")]
    pub name: Option<PeerName>,
    /// Share this port with it, and with nobody else; may be given several times
    #[arg(long = "forward", value_name = "tcp|udp:PORT[-PORT]", value_parser = shared)]
    pub forwards: Vec<ForwardKey>,
    /// Let it reach every port of this machine
    #[arg(long)]
    pub host: bool,
    /// How long the code can be used: seconds, or with s, m or h behind it; 24h at most
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = seconds)]
    pub expires: u64,
    /// Print no QR code
    #[arg(long)]
    pub no_qr: bool,
}

/// The arguments of `punchctl join`.
#[derive(Debug, Args)]
pub struct JoinArguments {
    /// The code that `punchctl invite` has printed: six words, with hyphens or spaces between them; `-` reads it from standard input
    #[arg(required = true, value_name = "CODE")]
    pub code: Vec<String>,
    /// The name to give the other machine; without it, the name that it proposes
    #[arg(long, value_name = "NAME")]
    pub name: Option<PeerName>,
    /// Use the servers that the other machine names, without asking
    #[arg(long, short)]
    pub yes: bool,
    /// Seconds to look for the other machine, 5 to 3600
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub timeout: u64,
}

/// Reads `tcp:5432`, also with a slash.
fn shared(text: &str) -> Result<ForwardKey, String> {
    let Some((protocol, ports)) = text.split_once([':', '/']) else {
        return Err("write the protocol and the port: tcp:5432".to_owned());
    };
    Ok(ForwardKey {
        protocol: ports::protocol(protocol)?,
        ports: ports::ports(ports)?,
    })
}

/// Reads a time of 10 seconds to 24 hours.
fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let factor = match text.strip_prefix(digits) {
        Some("" | "s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        _ => 0,
    };
    let number: Option<u64> = digits.parse().ok();
    let seconds = number.and_then(|number| number.checked_mul(factor));
    seconds
        .filter(|seconds| (10..=86_400).contains(seconds))
        .ok_or_else(|| "write a time from 10s to 24h, such as 90s, 10m or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ports_are_read_as_people_write_them() {
        for (text, read) in [("90", 90), ("90s", 90), ("10m", 600), ("24h", 86_400)] {
            assert_eq!(seconds(text), Ok(read), "{text}");
        }
        for text in [
            "",
            "m",
            "9",
            "25h",
            "10d",
            "-1",
            "10mm",
            "99999999999999999999h",
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
        for text in ["tcp:5432", "TCP/5432"] {
            assert_eq!(
                shared(text).map(|key| key.to_string()),
                Ok("tcp 5432".to_owned())
            );
        }
        for text in ["5432", "tcp", "tcp:0", "sctp:1", "5432:tcp"] {
            assert!(shared(text).is_err(), "{text}");
        }
    }
}
