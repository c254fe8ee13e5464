//! The native protocol of systemd's journal: one datagram of named fields for each entry.
//!
//! An entry's MESSAGE holds the fields in words too, as the lines for people do, so that `journalctl` shows them unasked; each
//! field is also one of its own, PUNCH_NAME, to search by.

use std::fmt::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

const SOCKET: &str = "/run/systemd/journal/socket";
/// Below what a datagram may be everywhere (net.core.wmem_default is 212,992).
const MAX_ENTRY: usize = 64 * 1024;

/// Sends events to the journal.
pub(crate) struct Journal {
    socket: UnixDatagram,
    program: &'static str,
}

impl Journal {
    /// The journal, where standard error leads there.
    pub(crate) fn connect(program: &'static str) -> Option<Self> {
        if !Self::is_stderr() {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        // An entry is lost rather than waited for.
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, program })
    }

    /// Whether standard error is the stream that systemd has named in JOURNAL_STREAM (systemd.exec(5)).
    pub(crate) fn is_stderr() -> bool {
        let Ok(named) = std::env::var("JOURNAL_STREAM") else {
            return false;
        };
        let stderr = std::io::stderr().as_fd().try_clone_to_owned();
        let Ok(there) = stderr.and_then(|fd| std::fs::File::from(fd).metadata()) else {
            return false;
        };
        named == format!("{}:{}", there.dev(), there.ino())
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let entry = entry(self.program, event);
        // Where the journal is gone there is nobody left to tell.
        let _ = self.socket.send(&entry);
    }
}

fn entry(program: &str, event: &Event<'_>) -> Vec<u8> {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut message = fields.message;
    for (name, value) in &fields.others {
        let _ = write!(message, " {name}={value}");
    }
    let metadata = event.metadata();
    let priority = match *metadata.level() {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    };
    // The short ones first: they always have room.
    let mut entry = Vec::new();
    put(&mut entry, "PRIORITY", priority);
    put(&mut entry, "SYSLOG_IDENTIFIER", program);
    put(&mut entry, "PUNCH_TARGET", metadata.target());
    put(&mut entry, "MESSAGE", &message);
    for (name, value) in &fields.others {
        let name = name.to_ascii_uppercase();
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        put(&mut entry, &format!("PUNCH_{name}"), value);
    }
    entry
}

/// Adds a field in the form that takes any bytes: a value cannot end its field, and so begins none.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let room = MAX_ENTRY.saturating_sub(entry.len() + name.len() + 10);
    if room == 0 {
        return;
    }
    let value = &value.as_bytes()[..value.floor_char_boundary(room)];
    entry.extend(name.as_bytes());
    entry.push(b'\n');
    entry.extend((value.len() as u64).to_le_bytes());
    entry.extend(value);
    entry.push(b'\n');
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.others.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    struct Collect(Arc<Mutex<Vec<u8>>>);

    impl<S: Subscriber> Layer<S> for Collect {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            *self.0.lock().unwrap() = entry("punchd", event);
        }
    }

    /// What journald reads of what is logged meanwhile.
    fn logged(work: impl FnOnce()) -> BTreeMap<String, String> {
        let collected = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Collect(collected.clone()));
        tracing::subscriber::with_default(subscriber, work);
        let mut rest = &collected.lock().unwrap()[..];
        let mut fields = BTreeMap::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
            let name = String::from_utf8(rest[..end].to_vec()).unwrap();
            let length = u64::from_le_bytes(rest[end + 1..end + 9].try_into().unwrap());
            let (value, after) = rest[end + 9..].split_at(usize::try_from(length).unwrap());
            fields.insert(name, String::from_utf8_lossy(value).into_owned());
            rest = after.strip_prefix(b"\n").unwrap();
        }
        fields
    }

    #[test]
    fn a_field_is_part_of_the_message_and_one_of_its_own() {
        let fields = logged(|| tracing::warn!(port_v4 = 5, family = %"IPv4", "is not used"));
        assert_eq!(fields["MESSAGE"], "is not used port_v4=5 family=IPv4");
        assert_eq!(fields["PRIORITY"], "4");
        assert_eq!(fields["SYSLOG_IDENTIFIER"], "punchd");
        assert_eq!(fields["PUNCH_PORT_V4"], "5");
        assert_eq!(fields["PUNCH_FAMILY"], "IPv4");
    }

    #[test]
    fn a_value_with_line_ends_begins_no_field() {
        let fields = logged(|| tracing::info!(url = "a\nPRIORITY=0\n\nMESSAGE=b", "connected"));
        assert_eq!(fields["PRIORITY"], "6");
        assert_eq!(fields["PUNCH_URL"], "a\nPRIORITY=0\n\nMESSAGE=b");
        assert_eq!(fields.len(), 5);
    }

    #[test]
    fn an_entry_stays_within_a_datagram() {
        let long = "ü".repeat(1 << 20);
        let fields = logged(|| tracing::error!(long, "much"));
        let size: usize = fields
            .iter()
            .map(|(name, value)| name.len() + 10 + value.len())
            .sum();
        assert!(size <= MAX_ENTRY, "{size}");
        assert_eq!(fields["PRIORITY"], "3");
        assert!(fields["MESSAGE"].starts_with("much long=ü") && fields["MESSAGE"].ends_with('ü'));
    }
}
