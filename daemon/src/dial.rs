//! Reaching a name that has several addresses, of which some may lead nowhere: RFC 8305 ("Happy Eyeballs"). Families alternate,
//! the next address is tried beside the earlier ones as soon as one has failed or 250 ms have passed, and the first that
//! succeeds wins. An address that answers nothing costs a quarter of a second, not the whole attempt.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use punch_engine::{Nat64, is_private, is_translatable};
use tokio::net::{ToSocketAddrs, lookup_host};
use tokio::time::{Instant, sleep_until, timeout};

/// The next address is tried after this, although no earlier one has failed (RFC 8305 §5, "Connection Attempt Delay").
pub(crate) const STAGGER: Duration = Duration::from_millis(250);

/// The addresses of a name in the order in which they are to be tried, at most so many.
///
/// # Errors
/// The system's name service does not know the name, or does not answer.
pub(crate) async fn look_up(name: impl ToSocketAddrs, most: usize) -> io::Result<Vec<SocketAddr>> {
    let mut all = alternate(lookup_host(name).await?);
    all.truncate(most);
    Ok(all)
}

/// The addresses with their families alternating, the family of the first one first (RFC 8305 §4); inside a family the order
/// stays, because the system has sorted them (RFC 6724). No address comes twice.
fn alternate(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for address in addresses {
        let family = match first.first() {
            Some(leader) if SocketAddr::is_ipv4(leader) != address.is_ipv4() => &mut second,
            _ => &mut first,
        };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let mut second = second.into_iter();
    let mut all = Vec::new();
    for address in first {
        all.push(address);
        all.extend(second.next());
    }
    all.extend(second);
    all
}

/// The addresses to connect to where IPv4 is behind a translator with this prefix: those of IPv4 as it knows them, a private one also as
/// it is, because it may be near. The administrator has chosen them, so that nothing else is left out. No address comes twice.
pub(crate) fn through(addresses: Vec<SocketAddr>, nat64: Option<Nat64>) -> Vec<SocketAddr> {
    let Some(prefix) = nat64 else {
        return addresses;
    };
    let all = addresses.into_iter().flat_map(|to| match to {
        SocketAddr::V4(v4) => {
            let is_private = is_private(*v4.ip());
            // A translator drops what embeds a private address below the well-known prefix (RFC 6052 §3.1).
            let embeds = is_translatable(*v4.ip()) || is_private && prefix != Nat64::WELL_KNOWN;
            let wire = || SocketAddr::new(prefix.embed(*v4.ip()).into(), v4.port());
            let near = (is_private || !embeds).then_some(to);
            [near, embeds.then(wire)]
        }
        SocketAddr::V6(_) => [Some(to), None],
    });
    once(all.flatten())
}

/// The addresses as everybody knows them, if a name server in front of a translator with this prefix has told them. What stands for
/// nobody there stays as it is. No address comes twice.
pub(crate) fn whose(addresses: Vec<SocketAddr>, nat64: Option<Nat64>) -> Vec<SocketAddr> {
    let Some(prefix) = nat64 else {
        return addresses;
    };
    let all = addresses.into_iter();
    once(all.map(|at| prefix.inwards(at).unwrap_or(at)))
}

fn once(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for address in addresses {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// Lets `attempt` try the addresses in this order, each for at most `each`; what the first success brought, and the address that
/// it came from. All other attempts are dropped then.
///
/// # Errors
/// When no address succeeds: one error that tells each address with its trouble.
pub(crate) async fn race<T, F>(
    addresses: &[SocketAddr],
    each: Duration,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<(SocketAddr, T)>
where
    F: Future<Output = Result<T>>,
{
    let mut waiting = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut troubles: Vec<(SocketAddr, Error)> = Vec::new();
    let mut next_at = Instant::now();
    let mut exhausted = false;
    loop {
        tokio::select! {
            biased;
            Some((address, result)) = running.next() => match result {
                Ok(Ok(success)) => return Ok((address, success)),
                Ok(Err(error)) => {
                    troubles.push((address, error));
                    next_at = Instant::now();
                }
                Err(_) => {
                    troubles.push((address, anyhow!("no answer for {} s", each.as_secs())));
                }
            },
            () = sleep_until(next_at), if !exhausted => match waiting.next() {
                Some(address) => {
                    let bounded = timeout(each, attempt(address));
                    running.push(async move { (address, bounded.await) });
                    next_at = Instant::now() + STAGGER;
                }
                None => exhausted = true,
            },
            else => return Err(failure(troubles)),
        }
    }
}

/// One error for all addresses: the trouble of the only one as it is, else each with its address in front.
fn failure(mut troubles: Vec<(SocketAddr, Error)>) -> Error {
    if troubles.len() <= 1 {
        let only = troubles.pop();
        return only.map_or_else(|| anyhow!("the name has no address"), |(_, error)| error);
    }
    let texts = troubles
        .iter()
        .map(|(address, error)| format!("{}: {}", address.ip(), explain(error)));
    anyhow!("{}", texts.collect::<Vec<_>>().join("; "))
}

/// The error and its causes, without what a cause repeats.
pub(crate) fn explain(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const EACH: Duration = Duration::from_secs(2);

    fn at(text: &str) -> SocketAddr {
        format!("{text}:80").parse().unwrap()
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(test)
    }

    #[test]
    fn families_alternate_and_keep_their_order() {
        let v6 = ["[2001:db8::1]", "[2001:db8::2]", "[2001:db8::3]"].map(at);
        let v4 = ["192.0.2.1", "192.0.2.2"].map(at);
        let sorted = v6.into_iter().chain(v4).chain([v4[0]]);
        assert_eq!(alternate(sorted), [v6[0], v4[0], v6[1], v4[1], v6[2]]);
        assert_eq!(alternate([v4[1], v4[0], v6[2]]), [v4[1], v6[2], v4[0]]);
        assert!(alternate([]).is_empty());
    }

    #[test]
    fn behind_a_translator_ipv4_is_reached_below_its_prefix() {
        let nat64 = "2001:db8:64::/96".parse().ok();
        let [v4, wire] = ["203.0.113.1", "[2001:db8:64::cb00:7101]"].map(at);
        let [v6, near, inside] = ["[2001:db8::1]", "10.0.0.1", "[2001:db8:64::a00:1]"].map(at);
        let all = vec![v6, wire, v4, near];
        assert_eq!(through(all.clone(), nat64), [v6, wire, near, inside]);
        assert_eq!(whose(all.clone(), nat64), [v6, v4, near]);
        assert_eq!(through(all.clone(), None), all);
        assert_eq!(whose(all.clone(), None), all);
    }

    #[test]
    fn the_administrators_addresses_are_not_left_out_behind_a_translator() {
        let nat64 = "2001:db8:64::/96".parse().ok();
        let inside = vec![at("[2001:db8:64::a00:1]")];
        assert_eq!(through(inside.clone(), nat64), inside);
        assert_eq!(whose(inside.clone(), nat64), inside);
        let [near, own] = ["10.0.0.1", "127.0.0.1"].map(at);
        let well_known = Some(Nat64::WELL_KNOWN);
        assert_eq!(through(vec![near, own], well_known), [near, own]);
        assert_eq!(through(vec![own], nat64), [own]);
    }

    #[test]
    fn an_address_that_answers_nothing_does_not_keep_the_next_one_out() {
        run(async {
            let [hole, good] = ["[2001:db8::1]", "192.0.2.1"].map(at);
            let (winner, ()) = race(&[hole, good], EACH, |address| async move {
                if address == hole {
                    std::future::pending::<()>().await;
                }
                Ok(())
            })
            .await
            .unwrap();
            assert_eq!(winner, good);
        });
    }

    #[test]
    fn a_refusal_leads_to_the_next_address_at_once() {
        run(async {
            let tried = RefCell::new(Vec::new());
            let [shut, good] = ["192.0.2.1", "192.0.2.2"].map(at);
            let attempt = |address| {
                tried.borrow_mut().push(address);
                async move {
                    if address == shut {
                        return Err(anyhow!("refused"));
                    }
                    Ok("hello")
                }
            };
            let won = race(&[shut, good], EACH, attempt).await.unwrap();
            assert_eq!(won, (good, "hello"));
            assert_eq!(tried.into_inner(), [shut, good]);
        });
    }

    #[test]
    fn a_slow_address_that_was_first_may_still_win() {
        run(async {
            let [slow, hole] = ["192.0.2.1", "192.0.2.2"].map(at);
            let attempt = |address| async move {
                if address == hole {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(2 * STAGGER).await;
                Ok(())
            };
            assert_eq!(race(&[slow, hole], EACH, attempt).await.unwrap().0, slow);
        });
    }

    #[test]
    fn when_nothing_succeeds_each_address_is_told_with_its_trouble() {
        run(async {
            let [hole, shut] = ["[2001:db8::1]", "192.0.2.1"].map(at);
            let attempt = |address| async move {
                if address == hole {
                    std::future::pending::<()>().await;
                }
                Err::<(), _>(anyhow!("refused"))
            };
            let error = race(&[hole, shut], EACH, attempt).await.unwrap_err();
            let text = "192.0.2.1: refused; 2001:db8::1: no answer for 2 s";
            assert_eq!(error.to_string(), text);

            let only = race(&[shut], EACH, attempt).await.unwrap_err();
            assert_eq!(only.to_string(), "refused");
            let none = race(&[], EACH, attempt).await.unwrap_err();
            assert_eq!(none.to_string(), "the name has no address");
        });
    }
}
