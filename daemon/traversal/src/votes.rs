//! Whom to believe of those that nobody has chosen: nodes of the DHT tell as what they see a socket, and some lie. A few liars are
//! outvoted; where each tells something else, as behind a NAT that makes a mapping for each destination, only the address can be.

use std::net::SocketAddr;

/// Whether more than half have said of one socket the same endpoint, and not this one.
pub(crate) fn is_outvoted(said: SocketAddr, all: &[SocketAddr]) -> bool {
    most(all).is_some_and(|most| most != said)
}

/// The same for the address alone, whatever the socket.
pub(crate) fn is_elsewhere(said: SocketAddr, all: &[SocketAddr]) -> bool {
    let addresses: Vec<_> = all.iter().map(SocketAddr::ip).collect();
    most(&addresses).is_some_and(|most| most != said.ip())
}

/// What more than half of them are.
fn most<T: Copy + PartialEq>(all: &[T]) -> Option<T> {
    let count = |one: &T| all.iter().filter(|other| *other == one).count();
    let mut each = all.iter();
    each.find(|one| 2 * count(one) > all.len()).copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn more_than_half_outvote_the_others() {
        let said = all(&["203.0.113.5:4", "203.0.113.5:4", "203.0.113.5:5"]);
        let outvoted = said.iter().map(|one| is_outvoted(*one, &said));
        assert_eq!(outvoted.collect::<Vec<_>>(), [false, false, true]);
        assert!(!said.iter().any(|one| is_elsewhere(*one, &said)));
        for even in [&said[1..], &said[..1], &[]] {
            assert!(!even.iter().any(|one| is_outvoted(*one, even)));
        }
    }

    #[test]
    fn where_each_has_a_mapping_of_its_own_only_the_address_counts() {
        let said = all(&["203.0.113.5:4", "203.0.113.5:5", "192.0.2.6:6"]);
        assert!(!said.iter().any(|one| is_outvoted(*one, &said)));
        let elsewhere = said.iter().map(|one| is_elsewhere(*one, &said));
        assert_eq!(elsewhere.collect::<Vec<_>>(), [false, false, true]);
    }
}
