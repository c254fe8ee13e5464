//! Bytes that are written in place, in memory that is kept.

use std::ops::{Deref, DerefMut};

/// A vector whose memory is cleared when it is allocated and never again: what is written next overwrites what was there.
#[derive(Debug, Default, Clone)]
pub struct Buffer {
    memory: Vec<u8>,
    used: usize,
}

impl Buffer {
    /// Memory for `size` bytes before the first reallocation.
    pub fn with_capacity(size: usize) -> Self {
        Self {
            memory: vec![0; size],
            used: 0,
        }
    }

    /// Forgets the bytes and keeps the memory.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Keeps the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.used = self.used.min(length);
    }

    /// Appends a copy.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.append_with(bytes.len(), |slot| {
            slot.copy_from_slice(bytes);
            bytes.len()
        });
    }

    /// Lets `fill` write up to `size` bytes behind the end and keeps as many as it says, which is also what is returned. What
    /// stood there before is arbitrary.
    pub fn append_with(&mut self, size: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let end = self.used + size;
        if self.memory.len() < end {
            self.memory.resize(end.max(self.memory.len() * 2), 0);
        }
        let length = fill(&mut self.memory[self.used..end]).min(size);
        self.used += length;
        length
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.used]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.used]
    }
}
