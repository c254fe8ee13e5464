//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use punch_api::{PeerName, PortRange, Protocol, ServerKind, Target};

/// Open private tunnels to your other machines, and share exactly the ports that you choose.
#[derive(Debug, Parser)]
#[command(
    name = "punchctl",
    version,
    arg_required_else_help = true,
    after_help = "First tunnel:\n  punchctl id                          print this machine's key, for the other side\n  punchctl peer add db punch1…         know the other machine by a name\n  punchctl up db                       connect\n  punchctl forward tcp 5432            on the other machine: share its port 5432\n\nExit status: 0 done, 1 refused or failed, 2 wrong usage."
)]
pub(crate) struct Arguments {
    /// The control socket of punchd
    #[arg(long, global = true, value_name = "PATH", env = "PUNCH_SOCKET", default_value = punch_api::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show this machine's key and overlay addresses
    Id,
    /// Show everything: this machine, servers, peers, forwards
    Status,
    /// Show the peers
    Peers,
    /// Follow what happens, until Ctrl-C
    Events,
    /// Signalling and STUN servers
    #[command(subcommand)]
    Server(ServerCommand),
    /// Add, remove and rename peers
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Connect to a peer, now and after every restart
    Up {
        /// The peer
        peer: PeerName,
        /// Do not wait for the connection
        #[arg(long)]
        no_wait: bool,
        /// How long to wait for it, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=60))]
        timeout: u64,
    },
    /// Disconnect from a peer, and refuse it until `up`; what it shares and may use is kept
    Down {
        /// The peer
        peer: PeerName,
    },
    /// Share a port of this machine, or of one that it reaches, with peers
    #[command(
        after_help = "Examples:\n  punchctl forward tcp 5432\n  punchctl forward tcp 8080 --to 127.0.0.1:80 --peer laptop\n  punchctl forward udp 53 --to 192.168.1.1:53\n  punchctl forward tcp 9000-9010"
    )]
    Forward {
        /// tcp or udp
        protocol: Protocol,
        /// The port that peers use, or a range FIRST-LAST
        ports: PortRange,
        /// Where it leads, HOST:PORT; unless given, the same port of 127.0.0.1
        #[arg(long, value_name = "TARGET")]
        to: Option<Target>,
        /// Only for this peer; may be given several times. Without it: for all peers
        #[arg(long = "peer", value_name = "NAME")]
        peers: Vec<PeerName>,
    },
    /// Show what is shared
    Forwards,
    /// No longer share a port
    Unforward {
        /// tcp or udp
        protocol: Protocol,
        /// The port or range, as it was shared
        ports: PortRange,
    },
    /// Let a peer reach every port of this machine
    Allow(HostAccess),
    /// No longer let a peer reach every port of this machine
    Deny(HostAccess),
    /// Measure the round trip to a peer through the tunnel
    Ping {
        /// The peer
        peer: PeerName,
        /// How often
        #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
    },
    /// Why the path to a peer is as it is: both NATs, what was tried, what would help
    Why {
        /// The peer
        peer: PeerName,
    },
    /// Find out how this machine's NAT behaves
    Netcheck,
    /// This machine's key
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Args)]
pub(crate) struct HostAccess {
    /// The peer
    pub(crate) peer: PeerName,
    /// Confirms that the whole machine is meant
    #[arg(long, required = true)]
    pub(crate) host: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Use a server from now on
    #[command(
        after_help = "Examples:\n  punchctl server add signal wss://signal.example\n  punchctl server add stun stun.example"
    )]
    Add {
        /// signal or stun
        kind: ServerKind,
        /// ws://HOST[:PORT] or wss://HOST[:PORT] for signal, HOST[:PORT] for stun
        address: String,
    },
    /// No longer use a server
    Remove {
        /// signal or stun
        kind: ServerKind,
        /// As it was added
        address: String,
    },
    /// Show the servers and how they do
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// Know another machine by a name
    #[command(
        after_help = "Examples:\n  punchctl peer add db punch1…\n  punchctl peer add router --wireguard BASE64 --endpoint 192.0.2.1:51820 --address 10.9.0.1"
    )]
    Add(AddPeerArguments),
    /// Forget a peer
    Remove {
        /// The peer
        name: PeerName,
    },
    /// Give a peer another name
    Rename {
        /// The peer
        name: PeerName,
        /// Its new name
        to: PeerName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddPeerArguments {
    /// What to call it
    pub(crate) name: PeerName,
    /// Its key, as `punchctl id` prints it there
    #[arg(required_unless_present = "wireguard", conflicts_with = "wireguard")]
    pub(crate) key: Option<String>,
    /// Use only IPv6 with it
    #[arg(long, conflicts_with = "wireguard")]
    pub(crate) ipv6_only: bool,
    /// It is an unmodified WireGuard with this public key
    #[arg(
        long,
        value_name = "BASE64",
        requires = "endpoint",
        requires = "address"
    )]
    pub(crate) wireguard: Option<String>,
    /// Where that WireGuard listens
    #[arg(long, value_name = "ADDR:PORT", requires = "wireguard")]
    pub(crate) endpoint: Option<SocketAddr>,
    /// Its address inside the tunnel
    #[arg(long, value_name = "IP", requires = "wireguard")]
    pub(crate) address: Option<IpAddr>,
    /// A file with a WireGuard preshared key
    #[arg(long, value_name = "FILE", requires = "wireguard")]
    pub(crate) preshared_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Show the public keys, and which file holds the secret
    Show,
}
