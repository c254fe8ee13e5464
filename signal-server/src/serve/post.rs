//! What waits for one client, and where its own packets go. Each client's task has one, and only the two ends of a link and the hub
//! ever touch it; nothing waits for it, and nobody holds it for long.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Frame, Refusal, RelayLink};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

use super::Counts;
use crate::hub::relay::RelayQueue;

/// Frames that wait for one client; with frames of at most 4.2 KB that is 270 KB a client at the very worst.
const QUEUE: usize = 64;
/// The same with what it must hear of its links: each of 1,024 may end and 64 joins be answered while it reads nothing.
const QUEUE_WITH_LINKS: usize = QUEUE + 1024 + 64;

/// What is to be sent now.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) messages: Vec<Message>,
    /// Why the connection ends after them, if it does.
    pub(crate) end: Option<Refusal>,
}

struct Waiting {
    frames: VecDeque<Frame>,
    /// Where nothing is relayed there is none.
    relayed: Option<RelayQueue>,
    end: Option<Refusal>,
}

/// Where the packets for a link go.
struct Route {
    to: Weak<Post>,
    /// The other end's number.
    link: RelayLink,
}

/// A client, as others see it.
pub(crate) struct Post {
    waiting: Mutex<Waiting>,
    routes: Mutex<BTreeMap<RelayLink, Route>>,
    news: Notify,
    pub(crate) counts: Arc<Counts>,
}

impl Post {
    /// An empty post, with this queue for relay frames, which are counted there.
    pub(crate) fn new(relayed: Option<RelayQueue>, counts: Arc<Counts>) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                frames: VecDeque::new(),
                relayed,
                end: None,
            }),
            routes: Mutex::default(),
            news: Notify::new(),
            counts,
        }
    }

    /// Something for the client, which gets it back if too much waits already.
    pub(crate) fn send(&self, frame: Frame) -> Result<(), Frame> {
        let mut waiting = lock(&self.waiting);
        let of_links = matches!(frame, Frame::RelayReady { .. } | Frame::RelayGone(_));
        let most = if of_links { QUEUE_WITH_LINKS } else { QUEUE };
        if waiting.frames.len() < most {
            waiting.frames.push_back(frame);
        } else if of_links {
            // One that did not hear of a link's end would go on sending.
            waiting.end = Some(Refusal::TooSlow);
        } else {
            return Err(frame);
        }
        drop(waiting);
        self.news.notify_one();
        Ok(())
    }

    /// The connection ends when what waits was sent.
    pub(crate) fn close(&self, why: Refusal) {
        let mut waiting = lock(&self.waiting);
        let is_full = waiting.frames.len() >= QUEUE;
        waiting.end = Some(if is_full { Refusal::TooSlow } else { why });
        // Nothing relayed goes to it or comes from it any more; what waits is room for others.
        let relayed = waiting.relayed.take();
        drop(waiting);
        drop(relayed);
        lock(&self.routes).clear();
        self.news.notify_one();
    }

    /// This client's packets for `link` go to `to`, who knows it as `theirs`; and those from there are taken.
    pub(crate) fn link(&self, link: RelayLink, to: &Arc<Self>, theirs: RelayLink) {
        if let Some(relayed) = &mut lock(&self.waiting).relayed {
            relayed.open(link);
        }
        let to = Arc::downgrade(to);
        lock(&self.routes).insert(link, Route { to, link: theirs });
    }

    /// The link is no more.
    pub(crate) fn unlink(&self, link: RelayLink) {
        if let Some(relayed) = &mut lock(&self.waiting).relayed {
            relayed.close(link);
        }
        lock(&self.routes).remove(&link);
    }

    /// The client at the other end of a link, and the number that the link has there.
    pub(crate) fn route(&self, link: RelayLink) -> Option<(Arc<Self>, RelayLink)> {
        let routes = lock(&self.routes);
        let route = routes.get(&link)?;
        Some((route.to.upgrade()?, route.link))
    }

    /// A relay frame for the client, with so many packets.
    pub(crate) fn relay(&self, link: RelayLink, frame: Vec<u8>, packets: u32, now: Instant) {
        if let Some(relayed) = &mut lock(&self.waiting).relayed {
            relayed.push(link, frame, packets, now);
        }
        self.news.notify_one();
    }

    /// So many bytes of what is to be sent now, and the frame that goes beyond them: what the hub says goes before what is relayed.
    pub(crate) fn take(&self, most: usize, now: Instant) -> Batch {
        let mut batch = Batch::default();
        let mut waiting = lock(&self.waiting);
        let mut bytes = 0;
        while bytes < most {
            let next = match waiting.frames.pop_front() {
                Some(frame) => Some(frame.encode()),
                None => {
                    batch.end = waiting.end;
                    let relayed = waiting.relayed.as_mut().filter(|_| batch.end.is_none());
                    let relayed = relayed.and_then(|relayed| relayed.pop(now));
                    relayed.inspect(|frame| self.counts.pass_to(frame.len()))
                }
            };
            let Some(next) = next else {
                break;
            };
            bytes += next.len();
            batch.messages.push(Message::Binary(next.into()));
        }
        if waiting.frames.is_empty() {
            // Most clients are idle, and their memory is what bounds how many there can be.
            waiting.frames = VecDeque::new();
        }
        batch
    }

    /// Waits until there may be something to send, or for so long.
    pub(crate) async fn news(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.news.notified()).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    /// Everything that is to be sent, in as many batches as it takes, and how it ends.
    fn drain(post: &Post) -> (usize, Option<Refusal>) {
        let mut count = 0;
        loop {
            let batch = post.take(4096, Instant::now());
            count += batch.messages.len();
            if batch.messages.is_empty() || batch.end.is_some() {
                return (count, batch.end);
            }
        }
    }

    #[test]
    fn a_full_queue_takes_only_what_is_about_links() {
        let post = Post::new(None, Arc::default());
        for _ in 0..QUEUE {
            post.send(Frame::Welcome).unwrap();
        }
        assert_eq!(post.send(Frame::Welcome), Err(Frame::Welcome));
        post.send(Frame::RelayGone(RelayLink(1))).unwrap();
        assert_eq!(drain(&post), (QUEUE + 1, None));
        post.send(Frame::Welcome).unwrap();
    }

    #[test]
    fn a_client_that_makes_and_ends_links_without_reading_is_closed() {
        let post = Post::new(None, Arc::default());
        for number in 0..10_000 {
            post.send(Frame::RelayGone(RelayLink(number))).unwrap();
        }
        assert_eq!(drain(&post), (QUEUE_WITH_LINKS, Some(Refusal::TooSlow)));
    }

    #[test]
    fn a_connection_ends_after_what_waits() {
        let post = Post::new(None, Arc::default());
        post.send(Frame::Welcome).unwrap();
        post.close(Refusal::Replaced);
        assert_eq!(drain(&post), (1, Some(Refusal::Replaced)));
    }
}
