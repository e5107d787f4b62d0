//! Hashing of numbers that we have given ourselves.

use std::hash::Hasher;

/// Ids are spread well enough as they are: nobody outside chooses them freely.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u32(&mut self, id: u32) {
        self.write_u64(u64::from(id));
    }

    fn write_u64(&mut self, id: u64) {
        // The map takes its buckets from both ends of the hash.
        self.0 = (self.0.rotate_left(32) ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
