//! The command line, as a value: for the program and for its manual pages.

mod pairing;
mod paste;
mod ports;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use punch_api::{Endpoint, PeerId, PeerName, PortRange, Protocol, ServerKind, Target};

pub use self::pairing::{InviteArguments, JoinArguments};
use crate::complete;

pub use self::paste::{AnswerArguments, OfferArguments, ShowArguments};

/// The help: the commands in groups, which clap does not know.
const HELP: &str = "\
{about}

{usage-heading} {usage}

Connect:
  invite     Make a code by which another machine becomes a peer, and wait for it
  join       Become a peer of the machine that has made a code, and connect
  id         Show this machine's key and overlay addresses
  server     Add, remove and list signalling and STUN servers, and the public DHT
  peer       Add, remove, rename and list peers
  up         Connect to a peer, now and after every restart
  down       Disconnect from a peer, and refuse it until `up`; what it shares and may use is kept
  offer      Make a line to carry to a peer by hand: it needs no server
  answer     Read a line that was carried here, and print its answer

Share:
  forward    Share a port of this machine, or of one that it reaches, with peers
  unforward  Stop sharing a port
  forwards   Show what is shared
  allow      Let a peer reach every port of this machine, or meet other peers here
  deny       Take back what `allow` has given

Look:
  status     Show everything: this machine, servers, peers, forwards
  peers      Show the peers
  events     Follow what happens, until Ctrl-C
  ping       Measure the round trip to a peer through the tunnel
  why        Explain the path to a peer: both NATs, what was tried, what would help
  netcheck   Find out how this machine's NAT behaves
  key        Show this machine's keys
  help       Print this message or the help of the given subcommand(s)

Options:
{options}{after-help}";

const FIRST_TUNNEL: &str = "\
First tunnel:
  punchctl invite --forward tcp:5432        on db: share its port 5432, and print a code
  punchctl join CODE                        on the laptop: connect, and print the address to use

In one network that is all. Else they meet over the public DHT, which both commands ask about once
(punchctl server add public), or over a server (on db first: punchctl server add signal wss://HOST).

`punchctl help COMMAND` explains each command, with examples.
Exit status: 0 done, 1 refused or failed, 2 wrong usage.";

/// Open private tunnels to your other machines, and share exactly the ports that you choose.
#[derive(Debug, Parser)]
#[command(
    name = "punchctl",
    version,
    arg_required_else_help = true,
    help_template = HELP,
    after_help = FIRST_TUNNEL
)]
pub struct Arguments {
    /// The control socket of punchd
    #[arg(long, global = true, value_name = "PATH", env = "PUNCH_SOCKET", default_value = punch_api::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print the answer, or the error that punchd answers with, as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Reads the arguments of a process, its name first.
    ///
    /// # Errors
    /// They are wrong usage, or ask for help; the error is what to print.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let read = Self::try_parse_from(ports::split(words)).and_then(|arguments| {
            arguments.check()?;
            Ok(arguments)
        });
        read.map_err(|mut error| {
            // clap proposes to pass an unknown option as a value, which is never meant here.
            if error.kind() == ErrorKind::UnknownArgument {
                error.remove(ContextKind::Suggested);
            }
            error
        })
    }

    /// Checks what clap would refuse without saying why.
    ///
    /// # Errors
    /// The arguments do not go together.
    fn check(&self) -> Result<(), clap::Error> {
        let Command::Peer(PeerCommand::Add(add)) = &self.command else {
            return Ok(());
        };
        let details =
            add.endpoint.is_some() || add.address.is_some() || add.preshared_key.is_some();
        if add.wireguard.is_none() && details {
            return Err(Self::command().error(
                ErrorKind::ArgumentConflict,
                "--endpoint, --address and --preshared-key belong to --wireguard BASE64; a peer with a KEY needs none of them",
            ));
        }
        Ok(())
    }
}

/// Reads the name of a new peer; a key in its place is a likely mistake.
fn new_name(text: &str) -> Result<PeerName, String> {
    if text.parse::<PeerId>().is_ok() {
        return Err(
            "that is a key, and the name comes first: punchctl peer add NAME KEY".to_owned(),
        );
    }
    text.parse::<PeerName>().map_err(|error| error.to_string())
}

/// The commands of `punchctl`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a code by which another machine becomes a peer, and wait for it
    ///
    /// Whoever types the code on another machine first, while it can be used, becomes a peer of this one: the code is for one machine.
    /// Both connect, now and after every restart. Ctrl-C, and the end of punchd, withdraw the code. A machine that uses no server is asked
    /// once, on a terminal, whether to use the public DHT; a no is kept until `punchctl server add public`.
    #[command(
        after_help = "Examples:\n  punchctl invite\n  punchctl invite --forward tcp:5432\n  punchctl invite --name tablet --host --expires 1h\n\nThe code is six words, and the server where this machine is found. It is a password: tell it only to whom you trust, and not on the server's own pages. 8 invitations can be open at once."
    )]
    Invite(InviteArguments),
    /// Become a peer of the machine that has made a code, and connect
    ///
    /// Words may be typed in any case, and by their first four letters. There is no way to tell a wrong code from one that nobody has made:
    /// it finds nobody. Machines in one network find each other at once; else, what this machine does not use yet, the server of the code or
    /// the public DHT, is asked about before it is used.
    #[command(
        after_help = "Examples:\n  punchctl join acorn-window-maple-radio-river-zebra@signal.example\n  punchctl join acorn window maple radio river zebra\n  punchctl join --yes --name db acorn-window-maple-radio-river-zebra@signal.example\n  punchctl join --yes - < code.txt\n\nOther users of this machine see what programs are called with, and whoever is first has the code: where there are such users, use `punchctl join -`."
    )]
    Join(JoinArguments),
    /// Show this machine's key and overlay addresses
    #[command(
        after_help = "Examples:\n  punchctl id\n  punchctl id --json | jq -r .id            the key alone"
    )]
    Id,
    /// Add, remove and list signalling and STUN servers, and the public DHT
    #[command(subcommand)]
    Server(ServerCommand),
    /// Add, remove, rename and list peers
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Connect to a peer, now and after every restart
    #[command(
        after_help = "Examples:\n  punchctl up db\n  punchctl up db --timeout 60\n  punchctl up db --no-wait\n  punchctl up db --direct-only           never over a relay, until --direct-only=false"
    )]
    Up {
        /// The peer to connect to
        #[arg(add = ArgValueCandidates::new(complete::peers))]
        peer: PeerName,
        /// Do not wait for the connection
        #[arg(long)]
        no_wait: bool,
        /// Seconds to wait for the connection, 1 to 600; without it 15, or 120 where only the DHT may lead to the peer
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
        timeout: Option<u64>,
        /// Never let packets go over a relay between the two machines; kept until it is said otherwise with --direct-only=false
        #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
        direct_only: Option<bool>,
    },
    /// Disconnect from a peer, and refuse it until `up`; what it shares and may use is kept
    #[command(after_help = "Examples:\n  punchctl down db")]
    Down {
        /// The peer to disconnect from
        #[arg(add = ArgValueCandidates::new(complete::peers))]
        peer: PeerName,
    },
    /// Make a line to carry to a peer by hand: it needs no server
    ///
    /// Whoever carries it, by mail, by chat, on paper or on a stick, can read and forge nothing: it is sealed for that peer. The peer prints an
    /// answer, which is carried back; then the two connect by themselves. Both lines are good for ten minutes. What mail programs do to
    /// long lines is passed over.
    #[command(
        after_help = "Examples:\n  punchctl offer db\n  punchctl offer db --qr\n\nOver there: punchctl answer LINE. On a stick: punchctl offer db --file offer.txt, and over there punchctl answer --file offer.txt --write answer.txt. A NAT that forgets within ten minutes is kept open by the machine that answers. A STUN server helps here, too: punchctl server add stun HOST"
    )]
    Offer(OfferArguments),
    /// Read a line that was carried here, and print its answer
    ///
    /// An offer gets an answer, to be carried back. An answer begins the connection, which is waited for as by `up`.
    #[command(
        after_help = "Examples:\n  punchctl answer punch-offer1…\n\nOn a stick: punchctl answer --file offer.txt --write answer.txt, and back on the first machine: punchctl answer --file answer.txt. Pieces of a line may stand one after the other, and `-` reads standard input."
    )]
    Answer(AnswerArguments),
    /// Share a port of this machine, or of one that it reaches, with peers
    #[command(
        after_help = "Examples:\n  punchctl forward tcp 5432\n  punchctl forward tcp 8080 --to 127.0.0.1:80 --peer laptop\n  punchctl forward udp 53 --to 192.168.1.1:53\n  punchctl forward tcp 9000-9010\n\nOne peer can have 12,288 TCP connections and 3,072 UDP flows open at once, all peers together 16,384 and 4,096. There can be 4,096 forwards."
    )]
    Forward {
        /// tcp or udp
        #[arg(value_parser = ports::protocol, add = ArgValueCandidates::new(complete::protocols))]
        protocol: Protocol,
        /// The port that peers use, or a range FIRST-LAST
        #[arg(value_parser = ports::ports)]
        ports: PortRange,
        /// Where it leads, HOST:PORT; unless given, the same port of 127.0.0.1
        #[arg(long, value_name = "TARGET")]
        to: Option<Target>,
        /// Share only with this peer; may be given several times. Without it: with all peers
        #[arg(long = "peer", value_name = "NAME", add = ArgValueCandidates::new(complete::peers))]
        peers: Vec<PeerName>,
    },
    /// Stop sharing a port
    #[command(
        after_help = "Examples:\n  punchctl unforward tcp 5432\n  punchctl unforward tcp 9000-9010"
    )]
    Unforward {
        /// tcp or udp
        #[arg(value_parser = ports::protocol, add = ArgValueCandidates::new(complete::protocols))]
        protocol: Protocol,
        /// The port or range, as it was shared
        #[arg(value_parser = ports::ports, add = ArgValueCandidates::new(complete::forwarded_ports))]
        ports: PortRange,
    },
    /// Show what is shared
    #[command(after_help = "Examples:\n  punchctl forwards")]
    Forwards,
    /// Let a peer reach every port of this machine, or meet other peers here
    ///
    /// Two machines that both were allowed --relay on a third one find each other there, and it relays between them while they have
    /// no direct path: up to 100 Mbit/s of each, 1,000 Mbit/s in all. They must be peers of each other; this machine reads nothing
    /// of what they say. With [relay] enabled = false in punchd.toml they only meet.
    #[command(
        after_help = "Examples:\n  punchctl allow laptop --host\n  punchctl allow laptop --relay"
    )]
    Allow(Access),
    /// Take back what `allow` has given
    #[command(
        after_help = "Examples:\n  punchctl deny laptop --host\n  punchctl deny laptop --relay"
    )]
    Deny(Access),
    /// Show everything: this machine, servers, peers, forwards
    #[command(
        after_help = "Examples:\n  punchctl status\n  punchctl status --json | jq '.peers[] | select(.state != \"connected\") | .name'"
    )]
    Status,
    /// Show the peers
    #[command(
        after_help = "Examples:\n  punchctl peers\n  punchctl peers | cut -f 1                 their names: without a terminal, columns are separated by tabs\n\nFOR is how long packets have taken the path, LOSS the part of the connectivity checks of the last ten minutes that was not answered, told from ten checks on. Below the table stands why they take that path, and why it is no direct one. `punchctl why PEER` says more."
    )]
    Peers,
    /// Show the servers and whether they answer
    #[command(hide = true, after_help = "Examples:\n  punchctl servers")]
    Servers,
    /// Follow what happens, until Ctrl-C
    #[command(
        after_help = "Examples:\n  punchctl events\n  punchctl events --json                     one JSON object a line\n\nEach change of a path is told with its reason, and each change of how long packets may be on it."
    )]
    Events,
    /// Measure the round trip to a peer through the tunnel
    #[command(after_help = "Examples:\n  punchctl ping db\n  punchctl ping db --count 1")]
    Ping {
        /// The peer to ping
        #[arg(add = ArgValueCandidates::new(complete::peers))]
        peer: PeerName,
        /// How many pings, 1 to 1000
        #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
    },
    /// Explain the path to a peer: both NATs, what was tried, what would help
    #[command(after_help = "Examples:\n  punchctl why db")]
    Why {
        /// The peer whose path is to be explained
        #[arg(add = ArgValueCandidates::new(complete::peers))]
        peer: PeerName,
    },
    /// Find out how this machine's NAT behaves
    #[command(after_help = "Examples:\n  punchctl netcheck")]
    Netcheck,
    /// Show this machine's keys
    #[command(subcommand)]
    Key(KeyCommand),
}

/// The arguments of `punchctl allow` and `punchctl deny`.
#[derive(Debug, Args)]
pub struct Access {
    /// The peer whose access changes
    #[arg(add = ArgValueCandidates::new(complete::peers))]
    pub peer: PeerName,
    /// What it may do, or no longer.
    #[command(flatten)]
    pub grant: Grant,
}

/// One of the rights that a peer may be given beside forwards.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Grant {
    /// Reach every port of this machine
    #[arg(long, display_order = 0)]
    pub host: bool,
    /// Meet the other peers that are allowed this, and be relayed to them by this machine
    #[arg(long, display_order = 0)]
    pub relay: bool,
}

/// The kinds of servers that have an address.
const NEED_ADDRESS: [(&str, &str); 3] = [("kind", "signal"), ("kind", "stun"), ("kind", "dht")];

/// The commands of `punchctl server`.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Use a server from now on
    #[command(
        after_help = "Examples:\n  punchctl server add public\n  punchctl server add signal wss://signal.example\n  punchctl server add stun stun.example\n\npublic is the BitTorrent DHT, over which peers are found without a server, and some public STUN servers.\nWhat others can see then: strangers store sealed notes for this machine, without knowing whose or for whom,\nand see its public address and that of the peer that reads them; the STUN servers see that address, too. `server remove public` ends it, and\nrefuses it before anybody is asked."
    )]
    Add {
        /// signal, stun, dht or public
        #[arg(add = ArgValueCandidates::new(complete::server_kinds))]
        kind: ServerKind,
        /// ws://HOST[:PORT] or wss://HOST[:PORT] for signal, HOST[:PORT] for stun and dht, nothing for public
        #[arg(required_if_eq_any = NEED_ADDRESS)]
        address: Option<String>,
    },
    /// Stop using a server
    #[command(
        alias = "rm",
        after_help = "Examples:\n  punchctl server remove signal wss://signal.example\n  punchctl server remove stun stun.example\n  punchctl server remove public"
    )]
    Remove {
        /// signal, stun, dht or public
        #[arg(add = ArgValueCandidates::new(complete::server_kinds))]
        kind: ServerKind,
        /// The address, as it was added
        #[arg(required_if_eq_any = NEED_ADDRESS, add = ArgValueCandidates::new(complete::servers))]
        address: Option<String>,
    },
    /// Show the servers and whether they answer
    #[command(alias = "ls", after_help = "Examples:\n  punchctl server list")]
    List,
}

/// The commands of `punchctl peer`.
#[derive(Debug, Subcommand)]
pub enum PeerCommand {
    /// Add another machine as a peer
    #[command(
        after_help = "Examples:\n  punchctl peer add db punch1…\n  punchctl peer add router --wireguard BASE64 --endpoint 192.0.2.1:51820 --address 10.9.0.1"
    )]
    Add(AddPeerArguments),
    /// Forget a peer
    #[command(alias = "rm", after_help = "Examples:\n  punchctl peer remove db")]
    Remove {
        /// The peer to remove
        #[arg(add = ArgValueCandidates::new(complete::peers))]
        name: PeerName,
    },
    /// Show the peers
    #[command(alias = "ls", after_help = "Examples:\n  punchctl peer list")]
    List,
    /// Give a peer another name
    #[command(after_help = "Examples:\n  punchctl peer rename db database")]
    Rename {
        /// The peer to rename
        #[arg(add = ArgValueCandidates::new(complete::peers))]
        name: PeerName,
        /// Its new name
        to: PeerName,
    },
}

/// The arguments of `punchctl peer add`.
#[derive(Debug, Args)]
pub struct AddPeerArguments {
    /// The name to give it
    #[arg(value_parser = new_name)]
    pub name: PeerName,
    /// Its key: the first line of `punchctl id` on that machine
    #[arg(required_unless_present = "wireguard", conflicts_with = "wireguard")]
    pub key: Option<String>,
    /// Use only IPv6 with it
    #[arg(long, conflicts_with = "wireguard")]
    pub ipv6_only: bool,
    /// Add an unmodified WireGuard with this public key
    #[arg(long, value_name = "BASE64", requires = "address")]
    pub wireguard: Option<String>,
    /// Where that WireGuard listens, an address or a name; without it, it must call this machine
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<Endpoint>,
    /// Its address inside the tunnel
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// A file with a WireGuard preshared key
    #[arg(long, value_name = "FILE")]
    pub preshared_key: Option<PathBuf>,
    /// Also print a configuration for that WireGuard, as wg-quick reads it
    #[arg(long, requires = "wireguard")]
    pub show_config: bool,
}

/// The commands of `punchctl key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Show the public keys, and which file holds the secret
    #[command(after_help = "Examples:\n  punchctl key show")]
    Show,
}
