//! Many packets in one reused allocation.

use std::ops::Range;

use crate::Buffer;

/// Packets back to back in one buffer that keeps its memory from batch to batch.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Buffer,
    ends: Vec<usize>,
}

impl Batch {
    /// Room for `packets` of `size` bytes before the first reallocation.
    pub fn with_capacity(packets: usize, size: usize) -> Self {
        Self {
            bytes: Buffer::with_capacity(packets * size),
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

    /// Whether there are no packets.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes they have together.
    pub fn total(&self) -> usize {
        self.bytes.len()
    }

    /// Adds one packet.
    pub fn push(&mut self, packet: &[u8]) {
        self.bytes.extend(packet);
        self.ends.push(self.bytes.len());
    }

    /// Lets `fill` write one packet of at most `size` bytes in place; it returns how long it became, or `None` to add nothing.
    pub fn push_with(
        &mut self,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        let mut added = false;
        self.bytes.append_with(size, |slot| {
            let length = fill(slot);
            added = length.is_some();
            length.unwrap_or(0)
        });
        if added {
            self.ends.push(self.bytes.len());
        }
        added
    }

    /// The packet that was added last.
    pub fn last(&self) -> Option<&[u8]> {
        let range = self.range(self.len().checked_sub(1)?);
        Some(&self.bytes[range])
    }

    /// Removes the packet that was added last.
    pub fn pop(&mut self) {
        self.ends.pop();
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Keeps the first `length` bytes of the packet that was added last.
    pub fn shorten(&mut self, length: usize) {
        let Some(last) = self.len().checked_sub(1) else {
            return;
        };
        let Range { start, end } = self.range(last);
        let end = end.min(start + length);
        self.bytes.truncate(end);
        self.ends[last] = end;
    }

    /// The packets, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The packet at `index`, counted from 0.
    ///
    /// # Panics
    /// When there are not so many packets.
    pub fn get(&self, index: usize) -> &[u8] {
        &self.bytes[self.range(index)]
    }

    /// The packet at `index`, to be changed in place.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn get_mut(&mut self, index: usize) -> &mut [u8] {
        let range = self.range(index);
        &mut self.bytes[range]
    }

    fn range(&self, index: usize) -> Range<usize> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[index]
    }
}
