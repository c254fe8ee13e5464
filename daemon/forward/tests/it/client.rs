//! A peer's machine: smoltcp with as many sockets as the test opens.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::origin;

pub(crate) const V4: &str = "100.64.0.2";
pub(crate) const V6: &str = "fd70:756e:6368::2";

/// Both ends' buffers; what is on its way is bounded by them.
pub(crate) const BUFFER: usize = 256 * 1024;

/// One connection and what its program does with it.
pub(crate) struct Program {
    pub(crate) handle: SocketHandle,
    to_send: VecDeque<u8>,
    close_when_sent: bool,
    pub(crate) reads: bool,
    pub(crate) received: Vec<u8>,
}

pub(crate) struct Client {
    interface: Interface,
    sockets: SocketSet<'static>,
    pub(crate) wire: Wire,
    pub(crate) programs: Vec<Program>,
}

impl Client {
    pub(crate) fn new(mtu: usize, seed: u64) -> Self {
        let mut wire = Wire {
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
            mtu,
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for text in [V4, V6] {
                let ip: IpAddr = text.parse().unwrap();
                addresses.push(IpCidr::new(IpAddress::from(ip), 0)).unwrap();
            }
        });
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            programs: Vec::new(),
        }
    }

    /// Starts to connect; returns the number of the program.
    pub(crate) fn connect(&mut self, from_port: u16, to: IpAddr, port: u16) -> usize {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket
            .connect(
                self.interface.context(),
                (IpAddress::from(to), port),
                from_port,
            )
            .unwrap();
        self.programs.push(Program {
            handle: self.sockets.add(socket),
            to_send: VecDeque::new(),
            close_when_sent: false,
            reads: true,
            received: Vec::new(),
        });
        self.programs.len() - 1
    }

    pub(crate) fn socket(&mut self, program: usize) -> &mut Socket<'static> {
        self.sockets.get_mut(self.programs[program].handle)
    }

    pub(crate) fn state(&mut self, program: usize) -> State {
        self.socket(program).state()
    }

    /// The machine starts anew: it knows nothing of the connection, and the program is gone.
    pub(crate) fn forget(&mut self, program: usize) {
        let buffer = || SocketBuffer::new(vec![0; 1]);
        *self.socket(program) = Socket::new(buffer(), buffer());
    }

    pub(crate) fn send(&mut self, program: usize, bytes: &[u8]) {
        self.programs[program].to_send.extend(bytes);
    }

    pub(crate) fn unsent(&self, program: usize) -> usize {
        self.programs[program].to_send.len()
    }

    /// Sends a FIN behind what is still to be sent.
    pub(crate) fn close(&mut self, program: usize) {
        self.programs[program].close_when_sent = true;
    }

    /// Whether the other end has finished and everything was read.
    pub(crate) fn is_finished(&mut self, program: usize) -> bool {
        !self.socket(program).may_recv()
    }

    pub(crate) fn poll(&mut self, now: Instant) {
        let stamp = stamp(now);
        self.interface
            .poll(stamp, &mut self.wire, &mut self.sockets);
        for program in &mut self.programs {
            let socket: &mut Socket<'_> = self.sockets.get_mut(program.handle);
            while socket.can_send() && !program.to_send.is_empty() {
                let sent = socket.send_slice(program.to_send.as_slices().0).unwrap();
                program.to_send.drain(..sent);
            }
            if program.close_when_sent && program.to_send.is_empty() && socket.may_send() {
                socket.close();
            }
            while program.reads && socket.can_recv() {
                let received = &mut program.received;
                let taken = socket.recv(|chunk| {
                    received.extend_from_slice(chunk);
                    (chunk.len(), chunk.len())
                });
                assert!(taken.unwrap() > 0);
            }
        }
        self.interface
            .poll(stamp, &mut self.wire, &mut self.sockets);
    }

    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(stamp(now), &self.sockets)?;
        Some(origin() + Duration::from_micros(at.total_micros() as u64))
    }
}

fn stamp(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros((now - origin()).as_micros() as i64)
}

pub(crate) struct Wire {
    pub(crate) incoming: VecDeque<Vec<u8>>,
    pub(crate) outgoing: VecDeque<Vec<u8>>,
    mtu: usize,
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

pub(crate) struct Incoming(Vec<u8>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(crate) struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
