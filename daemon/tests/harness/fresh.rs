//! Other programs of a host: flows that begin one after the other, which a search must not harm.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::Namespace;

const EVERY: Duration = Duration::from_millis(100);
/// A flow that a NAT has dropped is never answered; this long a busy machine may need for one that it has not.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Opens a socket every 100 ms, from which a STUN request goes to the server.
#[derive(Debug)]
pub struct FreshFlows {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<bool>>>,
}

/// What became of the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fared {
    pub opened: usize,
    pub worked: usize,
    /// The most flows in a row that were not answered: so many tenths of a second nothing new worked.
    pub longest_row: usize,
}

impl FreshFlows {
    /// Begins at once.
    pub fn start(host: &Namespace, server: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = host.inside(|| {
            let stop = stop.clone();
            std::thread::spawn(move || open_flows(server, &stop))
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Opens no more flows, and waits for the answers that are still to come.
    pub fn finish(mut self) -> Fared {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is finished once");
        let answered = thread.join().expect("opening sockets works");
        let rows = answered.split(|answered| *answered).map(<[bool]>::len);
        Fared {
            opened: answered.len(),
            worked: answered.iter().filter(|answered| **answered).count(),
            longest_row: rows.max().unwrap_or(0),
        }
    }
}

impl Drop for FreshFlows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether each flow was answered.
fn open_flows(server: SocketAddr, stop: &AtomicBool) -> Vec<bool> {
    let mut answered = Vec::new();
    let mut waiting: Vec<(usize, UdpSocket)> = Vec::new();
    let mut next = Instant::now();
    let mut until = None;
    loop {
        let now = Instant::now();
        if stop.load(Ordering::Relaxed) {
            let until = *until.get_or_insert(now + LAST_WAIT);
            if waiting.is_empty() || now > until {
                return answered;
            }
        } else if now >= next {
            next += EVERY;
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            // A Binding request of RFC 8489 without attributes.
            let mut request = [0; 20];
            request[1] = 1;
            request[4..8].copy_from_slice(&0x2112_a442_u32.to_be_bytes());
            request[12..20].copy_from_slice(&(answered.len() as u64).to_be_bytes());
            socket.send_to(&request, server).expect("it can be sent");
            waiting.push((answered.len(), socket));
            answered.push(false);
        }
        waiting.retain(|(flow, socket)| {
            answered[*flow] = socket.recv(&mut [0; 1500]).is_ok();
            !answered[*flow]
        });
        sleep(Duration::from_millis(5));
    }
}
