//! Many packets in one reused allocation.

/// Packets back to back in one buffer that keeps its capacity from batch to batch.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    /// Room for `packets` of `size` bytes before the first reallocation.
    pub fn with_capacity(packets: usize, size: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(packets * size),
            ends: Vec::with_capacity(packets),
        }
    }

    /// Forgets the packets and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds one packet.
    pub fn push(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.ends.push(self.bytes.len());
    }

    /// Lets `fill` write one packet of at most `size` bytes in place; it returns how long it became, or `None` to add nothing.
    pub fn push_with(
        &mut self,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        let start = self.bytes.len();
        self.bytes.resize(start + size, 0);
        let length = fill(&mut self.bytes[start..]).map(|length| length.min(size));
        self.bytes.truncate(start + length.unwrap_or(0));
        if length.is_some() {
            self.ends.push(self.bytes.len());
        }
        length.is_some()
    }

    /// The packets, first in first.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let packet = &self.bytes[start..end];
            start = end;
            packet
        })
    }
}
