//! Many sockets, of which few have something to read at a time: only those are looked at.
//!
//! Each socket has a waker of its own, which puts its key into a queue and wakes the one who waits for the set. A key is either
//! in the queue or its socket is armed, never both.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

use crate::{Datagrams, Udp};

/// UDP sockets by key.
pub struct SocketSet<K> {
    members: HashMap<K, Member>,
    ready: Arc<Ready<K>>,
}

struct Member {
    socket: Udp,
    waker: Waker,
}

struct Ready<K> {
    queue: Mutex<VecDeque<K>>,
    waiting: AtomicWaker,
}

struct Signal<K> {
    key: K,
    ready: Arc<Ready<K>>,
}

impl<K> Ready<K> {
    fn queue(&self) -> MutexGuard<'_, VecDeque<K>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Send + Sync + 'static> Wake for Signal<K> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.queue().push_back(self.key);
        self.ready.waiting.wake();
    }
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Default for SocketSet<K> {
    fn default() -> Self {
        Self {
            members: HashMap::new(),
            ready: Arc::new(Ready {
                queue: Mutex::default(),
                waiting: AtomicWaker::new(),
            }),
        }
    }
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> SocketSet<K> {
    /// Adds a socket, in the place of an earlier one of this key.
    pub fn insert(&mut self, key: K, socket: Udp) {
        self.remove(key);
        let ready = self.ready.clone();
        let waker = Arc::new(Signal { key, ready }).into();
        let member = Member { socket, waker };
        self.arm(key, &member);
        self.members.insert(key, member);
    }

    /// Gives a socket back.
    pub fn remove(&mut self, key: K) -> Option<Udp> {
        let member = self.members.remove(&key)?;
        self.ready.queue().retain(|queued| *queued != key);
        Some(member.socket)
    }

    /// The socket of a key.
    pub fn get(&self, key: K) -> Option<&Udp> {
        self.members.get(&key).map(|member| &member.socket)
    }

    /// How many sockets there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many sockets have something to read, as far as is known.
    pub fn ready(&self) -> usize {
        self.ready.queue().len()
    }

    /// Takes the datagrams of the next socket that has some, about 128 KiB, and its key; sockets that have more come again
    /// behind the others. `None` when nothing is left.
    pub fn receive(&self, into: &mut Datagrams) -> Option<K> {
        for _ in 0..self.ready() {
            let key = self.ready.queue().pop_front()?;
            let Some(member) = self.members.get(&key) else {
                continue;
            };
            if member.socket.receive(into) {
                self.ready.queue().push_back(key);
                return Some(key);
            }
            self.arm(key, member);
        }
        None
    }

    /// Waits until a socket has something to read, from within a hand-made future.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.ready.waiting.register(context.waker());
        if self.ready.queue().is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Lets the socket's waker tell of the next datagram.
    fn arm(&self, key: K, member: &Member) {
        let readable = std::future::poll_fn(|context| member.socket.poll_readable(context));
        // Without tokio's budget per task, at whose end it would wake at once, for nothing.
        let readable = pin!(tokio::task::unconstrained(readable));
        let mut context = Context::from_waker(&member.waker);
        if readable.poll(&mut context).is_ready() {
            self.ready.queue().push_back(key);
        }
    }
}
