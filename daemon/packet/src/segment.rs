//! Cutting what the kernel hands over in one piece (TSO, USO) into the packets that go through the tunnel.

use crate::build::{set_ip_length, set_ipv4_checksum};
use crate::{Buffer, GsoKind, Malformed, Offload, Packet, Protocol, transport_checksum};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// Gives `each` the packets that `packet` stands for, in order, with all checksums right; `scratch` is memory to make them in.
/// Returns how many there were.
///
/// # Errors
/// [`Malformed`] when `offload` does not fit the packet; `each` was not called then.
pub fn segments(
    packet: &Packet<'_>,
    offload: Offload,
    scratch: &mut Buffer,
    mut each: impl FnMut(&[u8]),
) -> Result<usize, Malformed> {
    let Some((kind, size)) = offload.gso else {
        match offload.checksum {
            None => each(packet.bytes()),
            Some(partial) => {
                scratch.clear();
                scratch.extend(packet.bytes());
                partial.complete(scratch)?;
                each(scratch);
            }
        }
        return Ok(1);
    };
    let (headers, size) = (headers(packet, kind)?, usize::from(size));
    let payload = &packet.bytes()[headers..];
    if size == 0 {
        return Err(Malformed::Header);
    }
    let count = payload.len().div_ceil(size).max(1);
    for index in 0..count {
        let start = index * size;
        let chunk = &payload[start..payload.len().min(start + size)];
        scratch.clear();
        scratch.extend(&packet.bytes()[..headers]);
        scratch.extend(chunk);
        set_ip_header(packet, index, scratch);
        let place = Place {
            start,
            first: index == 0,
            last: index + 1 == count,
        };
        let transport = &mut scratch[packet.ip_header().len()..];
        set_transport_header(packet, kind, place, transport);
        each(scratch);
    }
    Ok(count)
}

/// The length of all headers together.
pub(crate) fn headers(packet: &Packet<'_>, kind: GsoKind) -> Result<usize, Malformed> {
    let segment = packet.segment();
    let (expected, length) = match kind {
        GsoKind::Udp => (Protocol::Udp, 8),
        GsoKind::Tcp4 | GsoKind::Tcp6 => {
            let offset = segment.get(12).ok_or(Malformed::Truncated)?;
            (Protocol::Tcp, usize::from(offset >> 4) * 4)
        }
    };
    if packet.protocol() != expected || packet.fragment().is_some() {
        return Err(Malformed::Header);
    }
    if expected == Protocol::Tcp && length < 20 {
        return Err(Malformed::Header);
    }
    if length > segment.len() {
        return Err(Malformed::Truncated);
    }
    Ok(packet.ip_header().len() + length)
}

fn set_ip_header(packet: &Packet<'_>, index: usize, cut: &mut [u8]) {
    set_ip_length(cut, cut.len());
    if packet.source().is_ipv4() {
        // Each fragment of each of them must be told from the others' (RFC 6864 §4.3).
        let id = u16::from_be_bytes([cut[4], cut[5]]);
        let id = id.wrapping_add(u16::try_from(index).unwrap_or(0));
        cut[4..6].copy_from_slice(&id.to_be_bytes());
        set_ipv4_checksum(cut);
    }
}

/// Where a piece stands in what it is cut from.
#[derive(Clone, Copy)]
struct Place {
    /// Where the piece begins, in bytes of payload.
    start: usize,
    first: bool,
    last: bool,
}

fn set_transport_header(packet: &Packet<'_>, kind: GsoKind, place: Place, transport: &mut [u8]) {
    let (number, checksum_at) = match kind {
        GsoKind::Udp => {
            set_udp_length(transport);
            (17, 6)
        }
        GsoKind::Tcp4 | GsoKind::Tcp6 => {
            advance(transport, place.start);
            // What ends the data stands in the last segment, what answers a congestion mark in the first (RFC 3168 §6.1.2).
            if !place.last {
                transport[13] &= !(FIN | PSH);
            }
            if !place.first {
                transport[13] &= !CWR;
            }
            (6, 16)
        }
    };
    transport[checksum_at..checksum_at + 2].fill(0);
    let sum = match transport_checksum(packet.source(), packet.destination(), number, transport) {
        // A UDP checksum of zero would say that there is none (RFC 768).
        0 if number == 17 => 0xFFFF,
        sum => sum,
    };
    transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn set_udp_length(datagram: &mut [u8]) {
    let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
    datagram[4..6].copy_from_slice(&length.to_be_bytes());
}

/// Makes the TCP header of a segment that of what stands so many bytes of data behind its beginning, of which there are some. The first
/// piece keeps SYN, which takes a sequence number of its own (RFC 9293 §3.4; with data in TCP Fast Open, RFC 7413). Urgent data ends
/// where it did: the pointer counts from the sequence number (RFC 9293 §3.1), and is gone where no urgent data is left.
fn advance(segment: &mut [u8], bytes: usize) {
    if bytes == 0 {
        return;
    }
    let begins = segment[13] & SYN != 0;
    segment[13] &= !SYN;
    let distance = u32::try_from(bytes + usize::from(begins)).unwrap_or(0);
    let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
    let sequence = sequence.wrapping_add(distance);
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    if segment[13] & URG != 0 {
        let urgent = u32::from(u16::from_be_bytes([segment[18], segment[19]]));
        let left = u16::try_from(urgent.saturating_sub(distance)).unwrap_or(0);
        if left == 0 {
            segment[13] &= !URG;
        }
        segment[18..20].copy_from_slice(&left.to_be_bytes());
    }
}

/// Takes the first piece out of a packet that is to be cut: what is left stands at the end of `packet`, behind as many bytes as
/// are returned; its checksums are left to [`segments`]. `None` when nothing is left.
pub(crate) fn drop_first(packet: &mut [u8], offload: Offload) -> Option<usize> {
    let (kind, size) = offload.gso?;
    let size = usize::from(size);
    let view = Packet::parse(packet).ok()?;
    let (at, headers) = (view.ip_header().len(), headers(&view, kind).ok()?);
    if size == 0 || packet.len() <= headers + size {
        return None;
    }
    packet.copy_within(..headers, size);
    let rest = &mut packet[size..];
    set_ip_length(rest, rest.len());
    match kind {
        GsoKind::Udp => set_udp_length(&mut rest[at..]),
        GsoKind::Tcp4 | GsoKind::Tcp6 => advance(&mut rest[at..], size),
    }
    Some(size)
}
