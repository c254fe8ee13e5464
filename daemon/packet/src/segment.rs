//! Cutting what the kernel hands over in one piece (TSO, USO) into the packets that go through the tunnel.

use crate::build::{set_ip_length, set_ipv4_checksum};
use crate::{Buffer, GsoKind, Malformed, Offload, Packet, Protocol, transport_checksum};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
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
    let expected = match kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => Protocol::Tcp,
        GsoKind::Udp => Protocol::Udp,
    };
    if packet.protocol() != expected || packet.fragment().is_some() || size == 0 {
        return Err(Malformed::Header);
    }
    match expected {
        Protocol::Tcp => tcp(packet, usize::from(size), scratch, each),
        _ => udp(packet, usize::from(size), scratch, each),
    }
}

fn tcp(
    packet: &Packet<'_>,
    size: usize,
    scratch: &mut Buffer,
    mut each: impl FnMut(&[u8]),
) -> Result<usize, Malformed> {
    let at = packet.ip_header().len();
    let segment = packet.segment();
    let header: &[u8; 20] = segment.first_chunk().ok_or(Malformed::Truncated)?;
    let length = usize::from(header[12] >> 4) * 4;
    if length < 20 {
        return Err(Malformed::Header);
    }
    let payload = segment.get(length..).ok_or(Malformed::Truncated)?;
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let flags = header[13];
    let count = payload.len().div_ceil(size).max(1);
    for index in 0..count {
        let start = index * size;
        let chunk = &payload[start..payload.len().min(start + size)];
        let cut = begin(packet, at + length, chunk, index, scratch);
        let tcp = &mut cut[at..];
        let sequence = sequence.wrapping_add(u32::try_from(start).unwrap_or(0));
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        // What ends the data stands in the last segment, what answers a congestion mark in the first (RFC 3168 §6.1.2).
        let mut own = flags;
        if index + 1 < count {
            own &= !(FIN | PSH);
        }
        if index > 0 {
            own &= !CWR;
        }
        tcp[13] = own;
        tcp[16..18].fill(0);
        let sum = transport_checksum(packet.source(), packet.destination(), 6, tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        each(scratch);
    }
    Ok(count)
}

fn udp(
    packet: &Packet<'_>,
    size: usize,
    scratch: &mut Buffer,
    mut each: impl FnMut(&[u8]),
) -> Result<usize, Malformed> {
    let at = packet.ip_header().len();
    let payload = packet.segment().get(8..).ok_or(Malformed::Truncated)?;
    let count = payload.len().div_ceil(size).max(1);
    for index in 0..count {
        let start = index * size;
        let chunk = &payload[start..payload.len().min(start + size)];
        let cut = begin(packet, at + 8, chunk, index, scratch);
        let udp = &mut cut[at..];
        let length = u16::try_from(udp.len()).unwrap_or(u16::MAX);
        udp[4..6].copy_from_slice(&length.to_be_bytes());
        udp[6..8].fill(0);
        let sum = match transport_checksum(packet.source(), packet.destination(), 17, udp) {
            0 => 0xFFFF,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        each(scratch);
    }
    Ok(count)
}

/// The headers and a piece of the payload, with a right IP header; of the transport header only the ports are.
fn begin<'a>(
    packet: &Packet<'_>,
    headers: usize,
    chunk: &[u8],
    index: usize,
    scratch: &'a mut Buffer,
) -> &'a mut [u8] {
    scratch.clear();
    scratch.extend(&packet.bytes()[..headers]);
    scratch.extend(chunk);
    set_ip_length(scratch, headers + chunk.len());
    if packet.source().is_ipv4() {
        // Each fragment of each of them must be told from the others' (RFC 6864 §4.3).
        let id = u16::from_be_bytes([scratch[4], scratch[5]]);
        let id = id.wrapping_add(u16::try_from(index).unwrap_or(0));
        scratch[4..6].copy_from_slice(&id.to_be_bytes());
        set_ipv4_checksum(scratch);
    }
    scratch
}

/// Takes the first piece out of a packet that is to be cut: what is left stands at the end of `packet`, behind as many bytes as
/// are returned. `None` when nothing is left.
pub(crate) fn drop_first(packet: &mut [u8], offload: Offload) -> Option<usize> {
    let (kind, size) = offload.gso?;
    let size = usize::from(size);
    let view = Packet::parse(packet).ok()?;
    let at = view.ip_header().len();
    let headers = match kind {
        GsoKind::Udp => at + 8,
        GsoKind::Tcp4 | GsoKind::Tcp6 => at + usize::from(*view.segment().get(12)? >> 4) * 4,
    };
    if size == 0 || packet.len() <= headers + size {
        return None;
    }
    packet.copy_within(..headers, size);
    let rest = &mut packet[size..];
    set_ip_length(rest, rest.len());
    if kind == GsoKind::Udp {
        let length = u16::try_from(rest.len() - at).ok()?;
        rest[at + 4..at + 6].copy_from_slice(&length.to_be_bytes());
    } else {
        let sequence = rest.get(at + 4..at + 8)?.first_chunk()?;
        let step = u32::try_from(size).ok()?;
        let sequence = u32::from_be_bytes(*sequence).wrapping_add(step);
        rest[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
    }
    Some(size)
}
