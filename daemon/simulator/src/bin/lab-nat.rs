//! The NATs that nftables cannot make: UDP over IPv4 through the simulator's [`Nat`], on a TUN device.
//!
//! scripts/lab starts it in a router's namespace, with the device as standard input, so that opening it is none of its
//! business. The kernel hands it what comes from either side, and routes what it writes. A hop here takes two turns
//! through the kernel, which count as one: the TTL gets back what the second one takes.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a program on the real network, in real time"
)]

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{Read, Write, stdin};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use punch_simulator::nat::{Allocation, Filtering, Mapping, Nat, NatSpec};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

const USAGE: &str = "usage: lab-nat --public IP --inside IP/BITS [FLAG VALUE]... <TUN DEVICE
  --public IP           the NAT's address outside
  --inside IP/BITS      the network inside
  --mapping eim|adm|apdm           (eim)
  --filtering eif|adf|apdf         (apdf)
  --allocation preserving|shared|random|sequential:STEP|block:LOW-HIGH   (preserving)
  --timeout SECONDS     how long a mapping outlives the last packet sent through it (120)
  --capacity N          the most mappings at once (65536)
  --host-limit N        the most mappings at once of one host inside (no limit)
  --others N            mappings a second made for other users (0)
  --exclusive           no port has two mappings, whatever their destinations
  --hairpinning         inside hosts reach each other through the public address";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        eprintln!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let router = match Router::new(&arguments, Instant::now()) {
        Ok(router) => router,
        Err(wrong) => {
            eprintln!("lab-nat: {wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match stdin().as_fd().try_clone_to_owned() {
        Ok(device) => run(router, File::from(device)),
        Err(error) => eprintln!("lab-nat: standard input: {error}"),
    }
    ExitCode::FAILURE
}

/// Until the device is gone.
fn run(mut router: Router, mut device: File) {
    let mut buffer = vec![0; 65_536];
    loop {
        match device.read(&mut buffer) {
            Ok(0) => return eprintln!("lab-nat: the device is gone"),
            Err(error) => return eprintln!("lab-nat: reading the device: {error}"),
            Ok(length) => {
                let packet = &mut buffer[..length];
                if router.pass(Instant::now(), packet).is_some() {
                    // A packet that the kernel does not want is a lost one.
                    let _ = device.write(packet);
                }
            }
        }
    }
}

/// A NAT between two networks.
#[derive(Debug)]
struct Router {
    nat: Nat,
    rng: ChaCha8Rng,
    public: Ipv4Addr,
    inside: Network,
    hairpinning: bool,
    others: Others,
}

impl Router {
    fn new(arguments: &[String], start: Instant) -> Result<Self, String> {
        let (mut public, mut inside, mut others) = (None, None, 0);
        let mut spec = NatSpec::port_restricted(Ipv4Addr::UNSPECIFIED.into());
        let mut words = arguments.iter();
        while let Some(flag) = words.next() {
            if flag == "--hairpinning" {
                spec.hairpinning = true;
                continue;
            }
            if flag == "--exclusive" {
                spec.exclusive = true;
                continue;
            }
            let value = words.next().ok_or(format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--public" => public = Some(parse(flag, value)?),
                "--inside" => inside = Some(parse(flag, value)?),
                "--mapping" => {
                    spec.mapping = match value.as_str() {
                        "eim" => Mapping::EndpointIndependent,
                        "adm" => Mapping::AddressDependent,
                        "apdm" => Mapping::AddressAndPortDependent,
                        _ => return Err(format!("{flag} {value}: it is eim, adm or apdm")),
                    }
                }
                "--filtering" => {
                    spec.filtering = match value.as_str() {
                        "eif" => Filtering::EndpointIndependent,
                        "adf" => Filtering::AddressDependent,
                        "apdf" => Filtering::AddressAndPortDependent,
                        _ => return Err(format!("{flag} {value}: it is eif, adf or apdf")),
                    }
                }
                "--allocation" => spec.allocation = allocation(flag, value)?,
                "--timeout" => spec.timeout = Duration::from_secs(parse(flag, value)?),
                "--capacity" => spec.capacity = parse(flag, value)?,
                "--host-limit" => spec.host_limit = parse(flag, value)?,
                "--others" => others = parse(flag, value)?,
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        let public: Ipv4Addr = public.ok_or("--public is missing")?;
        spec.public = vec![public.into()];
        Ok(Self {
            hairpinning: spec.hairpinning,
            nat: Nat::new(spec),
            rng: ChaCha8Rng::seed_from_u64(RandomState::new().hash_one(0)),
            public,
            inside: inside.ok_or("--inside is missing")?,
            others: Others::new(others, start),
        })
    }

    /// Translates a packet in place; nothing if it ends here.
    fn pass(&mut self, now: Instant, packet: &mut [u8]) -> Option<()> {
        self.others.work(now, &mut self.nat, &mut self.rng);
        let mut udp = Udp::parse(packet)?;
        let (from, to) = (udp.source(), udp.destination());
        if !self.inside.contains(*from.ip()) {
            let host = self.nat.inbound(now, from.into(), to.into())?;
            udp.set_destination(v4(host)?);
        } else if *to.ip() != self.public {
            udp.set_source(self.leave(now, from, to)?);
        } else if self.hairpinning {
            let public = self.leave(now, from, to)?;
            let host = self.nat.inbound(now, public.into(), to.into())?;
            udp.set_source(public);
            udp.set_destination(v4(host)?);
        } else {
            return None;
        }
        udp.give_back_a_hop();
        Some(())
    }

    fn leave(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        to: SocketAddrV4,
    ) -> Option<SocketAddrV4> {
        v4(self
            .nat
            .outbound(now, from.into(), to.into(), &mut self.rng)?)
    }
}

fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    }
}

fn parse<T: FromStr>(flag: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{flag} {value}: cannot be read"))
}

fn allocation(flag: &str, value: &str) -> Result<Allocation, String> {
    match value.split_once(':') {
        None if value == "preserving" => Ok(Allocation::Preserving),
        None if value == "shared" => Ok(Allocation::PreservingShared),
        None if value == "random" => Ok(Allocation::Random),
        Some(("sequential", step)) => {
            let step: i16 = parse(flag, step)?;
            let step = step.cast_unsigned();
            Ok(Allocation::Sequential { step })
        }
        Some(("block", ports)) => {
            let (low, high) = ports.split_once('-').ok_or("a block is LOW-HIGH")?;
            let (low, high) = (parse(flag, low)?, parse(flag, high)?);
            Ok(Allocation::RandomIn { low, high })
        }
        _ => Err(format!("{flag} {value}: unknown")),
    }
}

/// An IPv4 network.
#[derive(Debug, Clone, Copy)]
struct Network {
    address: u32,
    bits: u32,
}

impl Network {
    fn contains(self, ip: Ipv4Addr) -> bool {
        let differ = u64::from(self.address ^ ip.to_bits());
        differ >> (32 - self.bits) == 0
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ip, bits) = text.split_once('/').ok_or(())?;
        let (ip, bits): (Ipv4Addr, u32) = (ip.parse().map_err(drop)?, bits.parse().map_err(drop)?);
        let address = ip.to_bits();
        (bits <= 32).then_some(Self { address, bits }).ok_or(())
    }
}

/// The NAT's other users, each of whose packets makes a mapping.
#[derive(Debug)]
struct Others {
    pause: Option<Duration>,
    next: Instant,
    count: u32,
}

impl Others {
    fn new(rate: u32, start: Instant) -> Self {
        Self {
            pause: Duration::from_secs(1).checked_div(rate),
            next: start,
            count: 0,
        }
    }

    /// Makes up for what has happened since the last packet, each mapping at its own time.
    fn work(&mut self, now: Instant, nat: &mut Nat, rng: &mut ChaCha8Rng) {
        while let Some(pause) = self.pause
            && self.next <= now
        {
            let user = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), self.count as u16);
            // An address of its own for each round of ports, so that a hard NAT takes a port too.
            let site =
                Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + (self.count >> 16));
            nat.outbound(
                self.next,
                user.into(),
                SocketAddrV4::new(site, 443).into(),
                rng,
            );
            self.next += pause;
            self.count = self.count.wrapping_add(1);
        }
    }
}

/// A whole UDP packet over IPv4, at least as long as its headers; fragments are none.
struct Udp<'a> {
    packet: &'a mut [u8],
    header: usize,
}

const SOURCE: (usize, usize) = (12, 0);
const DESTINATION: (usize, usize) = (16, 2);
const TTL: usize = 8;
const IP_SUM: usize = 10;
const UDP_SUM: usize = 6;

impl<'a> Udp<'a> {
    fn parse(packet: &'a mut [u8]) -> Option<Self> {
        let first = *packet.first()?;
        let header = usize::from(first & 15) * 4;
        let fits = header >= 20 && packet.len() >= header + 8;
        let whole = || packet[6] & 0x3f == 0 && packet[7] == 0;
        (first >> 4 == 4 && fits && packet[9] == 17 && whole()).then_some(Self { packet, header })
    }

    fn source(&self) -> SocketAddrV4 {
        self.endpoint(SOURCE)
    }

    fn destination(&self) -> SocketAddrV4 {
        self.endpoint(DESTINATION)
    }

    fn set_source(&mut self, to: SocketAddrV4) {
        self.set_endpoint(SOURCE, to);
    }

    fn set_destination(&mut self, to: SocketAddrV4) {
        self.set_endpoint(DESTINATION, to);
    }

    fn give_back_a_hop(&mut self) {
        let word = self.word(TTL);
        if word < 0xff00 {
            self.replace(TTL, word + 0x100, &[IP_SUM]);
        }
    }

    fn endpoint(&self, (ip, port): (usize, usize)) -> SocketAddrV4 {
        let bits = u32::from(self.word(ip)) << 16 | u32::from(self.word(ip + 2));
        SocketAddrV4::new(Ipv4Addr::from_bits(bits), self.word(self.header + port))
    }

    fn set_endpoint(&mut self, (ip, port): (usize, usize), to: SocketAddrV4) {
        let udp_sum = self.header + UDP_SUM;
        // Without a UDP checksum there is none to keep right.
        let no_sum = self.word(udp_sum) == 0;
        let bits = to.ip().to_bits();
        self.replace(ip, (bits >> 16) as u16, &[IP_SUM, udp_sum]);
        self.replace(ip + 2, bits as u16, &[IP_SUM, udp_sum]);
        self.replace(self.header + port, to.port(), &[udp_sum]);
        match self.word(udp_sum) {
            _ if no_sum => self.set_word(udp_sum, 0),
            0 => self.set_word(udp_sum, 0xffff),
            _ => {}
        }
    }

    /// Writes a word, and what becomes of these checksums (RFC 1624).
    fn replace(&mut self, at: usize, new: u16, sums: &[usize]) {
        let old = self.word(at);
        self.set_word(at, new);
        for sum in sums {
            let mut total = u32::from(!self.word(*sum)) + u32::from(!old) + u32::from(new);
            total = (total & 0xffff) + (total >> 16);
            total = (total & 0xffff) + (total >> 16);
            self.set_word(*sum, !(total as u16));
        }
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.packet[at], self.packet[at + 1]])
    }

    fn set_word(&mut self, at: usize, word: u16) {
        self.packet[at..at + 2].copy_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    /// With right checksums, that of UDP too.
    fn packet(from: &str, to: &str, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let (from, to): (SocketAddrV4, SocketAddrV4) = (from.parse().unwrap(), to.parse().unwrap());
        let length = 8 + payload.len() as u16;
        let mut bytes = vec![0x45, 0];
        bytes.extend((20 + length).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, ttl, 17, 0, 0]);
        bytes.extend(from.ip().octets());
        bytes.extend(to.ip().octets());
        let sum = sum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(from.port().to_be_bytes());
        bytes.extend(to.port().to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        let sum = udp_sum(&bytes);
        bytes[26..28].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn sum(bytes: &[u8]) -> u16 {
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        let mut total: u32 = bytes.chunks(2).map(word).sum();
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    fn udp_sum(packet: &[u8]) -> u16 {
        let pseudo = [&packet[12..20], &[0, 17], &packet[24..26], &packet[20..]];
        match sum(&pseudo.concat()) {
            0 => 0xffff,
            sum => sum,
        }
    }

    fn router(flags: &str) -> Router {
        let all = format!("--public 203.0.113.10 --inside 10.1.1.1/24 {flags}");
        let arguments: Vec<_> = all.split_whitespace().map(str::to_owned).collect();
        Router::new(&arguments, Instant::now()).unwrap()
    }

    /// What becomes of a packet: its endpoints.
    fn pass(router: &mut Router, from: &str, to: &str) -> Option<(String, String)> {
        let mut packet = packet(from, to, 9, b"odd");
        router.pass(Instant::now(), &mut packet)?;
        assert_eq!(sum(&packet[..20]), 0, "the IP checksum is right");
        let mut zeroed = packet.clone();
        zeroed[26..28].fill(0);
        assert_eq!(packet[26..28], udp_sum(&zeroed).to_be_bytes());
        assert_eq!(packet[8], 10);
        let udp = Udp::parse(&mut packet).unwrap();
        Some((udp.source().to_string(), udp.destination().to_string()))
    }

    #[test]
    fn packets_leave_from_the_public_address_and_answers_come_back() {
        let mut router = router("");
        let out = pass(&mut router, "10.1.1.2:5000", "203.0.113.1:3478").unwrap();
        assert_eq!(out.0, "203.0.113.10:5000");
        assert_eq!(out.1, "203.0.113.1:3478");
        let back = pass(&mut router, "203.0.113.1:3478", "203.0.113.10:5000").unwrap();
        assert_eq!(back.0, "203.0.113.1:3478");
        assert_eq!(back.1, "10.1.1.2:5000");
        assert_eq!(
            pass(&mut router, "203.0.113.1:3479", "203.0.113.10:5000"),
            None
        );
    }

    #[test]
    fn hairpinning_needs_its_flag() {
        for (flags, works) in [
            ("--filtering eif", false),
            ("--filtering eif --hairpinning", true),
        ] {
            let mut router = router(flags);
            pass(&mut router, "10.1.1.3:6000", "203.0.113.1:1").unwrap();
            let turned = pass(&mut router, "10.1.1.2:5000", "203.0.113.10:6000");
            let expected = ("203.0.113.10:5000".to_owned(), "10.1.1.3:6000".to_owned());
            assert_eq!(turned, works.then_some(expected));
        }
    }

    #[test]
    fn a_full_block_and_a_host_that_has_enough_let_nothing_new_out() {
        for (flags, other_host) in [
            ("--mapping apdm --allocation block:4000-4001", true),
            (
                "--mapping apdm --allocation block:4000-4001 --exclusive",
                false,
            ),
            ("--mapping apdm --allocation shared --host-limit 2", true),
        ] {
            let mut router = router(flags);
            let mut works = |from, to| pass(&mut router, from, to).is_some();
            assert!(works("10.1.1.2:5000", "203.0.113.1:1"), "{flags}");
            assert!(works("10.1.1.2:5000", "203.0.113.1:2"), "{flags}");
            let third = works("10.1.1.2:5000", "203.0.113.1:3");
            assert_eq!(third, flags.ends_with("4001"), "{flags}: ports are shared");
            assert!(works("10.1.1.2:5000", "203.0.113.1:1"), "{flags}: it lives");
            let other = works("10.1.1.3:6000", "203.0.113.1:4");
            assert_eq!(other, other_host, "{flags}");
        }
    }

    #[test]
    fn others_move_the_sequence_on_as_time_passes() {
        let mut router = router("--mapping apdm --allocation sequential:2 --others 10");
        let start = router.others.next;
        let mut port = |seconds, to| {
            let mut packet = packet("10.1.1.2:5000", to, 9, b"");
            let now = start + Duration::from_secs(seconds);
            router.pass(now, &mut packet).unwrap();
            Udp::parse(&mut packet).unwrap().source().port()
        };
        let first = port(0, "203.0.113.1:1");
        let second = port(1, "203.0.113.1:2");
        let between = second.wrapping_sub(first);
        assert!(between == 22 || second < first, "{first} {second}");
    }

    #[test]
    fn what_is_no_whole_udp_packet_is_dropped() {
        let good = packet("10.1.1.2:5000", "203.0.113.1:1", 9, b"x");
        for length in 0..28 {
            assert_eq!(
                router("").pass(Instant::now(), &mut good.clone()[..length]),
                None
            );
        }
        for (at, value) in [(0, 0x65), (0, 0x4f), (0, 0x44), (6, 0x20), (7, 1), (9, 6)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(router("").pass(Instant::now(), &mut bad), None);
        }
    }

    #[test]
    fn wrong_flags_are_refused() {
        for wrong in [
            "",
            "--public x",
            "--public 1.2.3.4",
            "--public 1.2.3.4 --inside 10.0.0.0/33",
            "--public 1.2.3.4 --inside 10.0.0.0/8 --mapping easy",
            "--public 1.2.3.4 --inside 10.0.0.0/8 --allocation block:9",
            "--public 1.2.3.4 --inside 10.0.0.0/8 --timeout",
        ] {
            let arguments: Vec<_> = wrong.split_whitespace().map(str::to_owned).collect();
            assert!(Router::new(&arguments, Instant::now()).is_err(), "{wrong}");
        }
    }
}
