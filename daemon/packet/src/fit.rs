//! Whether a packet fits the tunnel, and what may be done with one that does not.

use crate::segment::headers;
use crate::{GsoKind, IPV6_MINIMUM, Offload, Packet, Protocol};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It passes, cut in this way. TCP's segments are as long as fits, whatever they were: it is a stream, and nothing is lost by cutting
    /// it elsewhere. What is still too long then may be sent in fragments.
    Passes(Offload),
    /// The sender must be told: it has forbidden fragments, or IPv6 has.
    TooLong,
}

/// Whether `packet`, to be cut as `offload` says, fits a tunnel that carries packets of `mtu` bytes.
pub fn fit(packet: &Packet<'_>, offload: Offload, mtu: usize) -> Fit {
    let length = packet.bytes().len();
    if offload.gso.is_none() && length <= mtu {
        return Fit::Passes(offload);
    }
    let v6 = packet.source().is_ipv6();
    if packet.protocol() == Protocol::Tcp && packet.fragment().is_none() {
        return fit_tcp(packet, offload, mtu);
    }
    let longest = match offload.gso {
        Some((kind, size)) => match headers(packet, kind) {
            Ok(headers) => length.min(headers + usize::from(size)),
            // Whoever cuts it will notice.
            Err(_) => return Fit::Passes(offload),
        },
        None => length,
    };
    let passes = if v6 {
        longest <= mtu.max(IPV6_MINIMUM)
    } else {
        longest <= mtu || !packet.forbids_fragments()
    };
    if passes {
        Fit::Passes(offload)
    } else {
        Fit::TooLong
    }
}

fn fit_tcp(packet: &Packet<'_>, offload: Offload, mtu: usize) -> Fit {
    let kind = if packet.source().is_ipv6() {
        GsoKind::Tcp6
    } else {
        GsoKind::Tcp4
    };
    let Ok(headers) = headers(packet, kind) else {
        return Fit::Passes(offload);
    };
    let room = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
    if room == 0 {
        return Fit::TooLong;
    }
    let size = match offload.gso {
        Some((_, size)) => size.min(room),
        None => room,
    };
    Fit::Passes(Offload {
        gso: Some((kind, size)),
        ..offload
    })
}
