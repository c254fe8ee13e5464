//! punchd's command line, as a value: for the program and for its manual page.

use std::path::PathBuf;

use clap::Parser;
use punch_service::log::parse_filter;
use tracing_subscriber::filter::Targets;

/// Where the configuration is unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/punch/punchd.toml";

/// The exit status when configuration or state are refused: starting again will not help (EX_CONFIG of sysexits(3)).
pub const REFUSED: u8 = 78;

/// The Punch daemon: owns the TUN device, the tunnels and the forwards, and serves the control socket.
///
/// punchd runs in the foreground. Control it with punchctl(1). Logs go to the journal as structured entries if standard error
/// leads there, and to standard error as lines otherwise.
///
/// It needs CAP_NET_ADMIN and /dev/net/tun, which is opened before anything is given up. Every other capability it gives up at its start, except CAP_NET_BIND_SERVICE where
/// the configured UDP port is below 1024. It executes no program, and writes nowhere but into its state directory and the
/// directory of its socket (Landlock, as far as the kernel has it). Started as root, it switches to the user who owns the state directory.
#[derive(Debug, Parser)]
#[command(
    name = "punchd",
    version,
    after_help = "Examples:\n  punchd                                        as the service runs it\n  punchd --check                                is the configuration right?\n  punchd --config a.toml --state-dir a --socket a.sock\n  punchd --take-over                            a new version goes on where the running one is\n\nExit status: 0 told to end, 1 failed, 2 wrong usage, 78 configuration or state refused."
)]
pub struct Arguments {
    /// The configuration file; without this option /etc/punch/punchd.toml, if it exists
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where identity, peers, servers and forwards are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/punch")]
    pub state_dir: PathBuf,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = punch_api::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// What to log: off, error, warn, info, debug or trace; also MODULE=LEVEL, separated by commas
    #[arg(long, value_name = "FILTER", default_value = "info", env = "PUNCH_LOG", value_parser = parse_filter)]
    pub log: Targets,
    /// Read configuration and state as a start would, say what is wrong with them, and end; a running punchd is not disturbed
    #[arg(long)]
    pub check: bool,
    /// Take over from the punchd that answers on the control socket: its interface, sockets and tunnels go on, and it ends once
    /// this one serves; with a service manager, restart the service instead
    #[arg(long, conflicts_with_all = ["check", "store_tun"])]
    pub take_over: bool,
    /// Open /dev/net/tun, leave it with the service manager for the punchd that it starts next, and end: the unit's step as root
    #[arg(long, hide_short_help = true, conflicts_with = "check")]
    pub store_tun: bool,
}
