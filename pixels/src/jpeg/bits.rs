//! Bits of the entropy-coded data, most significant first (ITU-T T.81, F.2.2).
//!
//! Owns the removal of stuffed bytes ([`Scan`]) and the reading of bits ([`Bits`]). The scan code calls it. Both know
//! nothing of codes.

use super::Damage;

/// Zero bytes behind the data, so that eight bytes can be read at any place in it.
const PADDING: usize = 8;

/// The entropy-coded bytes of a scan, given out one restart interval after the other without the stuffed bytes.
#[derive(Debug, Default)]
pub(super) struct Scan {
    interval: Vec<u8>,
}

impl Scan {
    /// Unstuffs one restart interval of `rest` and moves `rest` to the marker that ends it; without a marker, to its end.
    pub fn interval<'a>(&'a mut self, rest: &mut &[u8]) -> Bits<'a> {
        self.interval.clear();
        // The largest frame so far sets the capacity.
        self.interval.reserve(rest.len() + PADDING);
        while let Some(at) = memchr::memchr(0xff, rest) {
            match rest.get(at + 1) {
                Some(0) => {
                    self.interval.extend_from_slice(&rest[..=at]);
                    *rest = &rest[at + 2..];
                }
                // Fill byte in front of a marker.
                Some(0xff) => {
                    self.interval.extend_from_slice(&rest[..at]);
                    *rest = &rest[at + 1..];
                }
                _ => {
                    self.interval.extend_from_slice(&rest[..at]);
                    *rest = &rest[at..];
                    return self.bits();
                }
            }
        }
        self.interval.extend_from_slice(rest);
        *rest = &[];
        self.bits()
    }

    fn bits(&mut self) -> Bits<'_> {
        let end = self.interval.len();
        self.interval.resize(end + PADDING, 0);
        Bits { data: &self.interval, end, at: 0, window: 0, count: 0 }
    }
}

/// A reader of bits. Behind the end it reads zeros; [`Bits::check`] then says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Bytes of data before the padding.
    end: usize,
    /// Next byte to load.
    at: usize,
    /// The next `count` bits, from the top; what lies below them is loaded again.
    window: u64,
    count: u32,
}

impl Bits<'_> {
    /// Makes at least 56 bits available.
    #[inline(always)]
    pub fn refill(&mut self) {
        let bytes = self.data.get(self.at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; 8]);
        self.window |= u64::from_be_bytes(bytes) >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    /// The next `n` bits, 1 to 32; they must be available.
    #[inline(always)]
    pub fn peek(&self, n: u32) -> usize {
        (self.window >> (64 - n)) as usize
    }

    /// The next 32 bits; what is not available of them is undefined.
    #[inline(always)]
    pub fn next(&self) -> u32 {
        (self.window >> 32) as u32
    }

    /// Drops the next `n` bits, 0 to 63; they must be available.
    #[inline(always)]
    pub fn drop(&mut self, n: u32) {
        self.window <<= n;
        self.count = self.count.wrapping_sub(n);
    }

    /// Fails if more bits have been dropped than there were.
    pub fn check(&self) -> Result<(), Damage> {
        let dropped = self.at * 8 - self.count as usize;
        if dropped > self.end * 8 { Err(Damage::Short) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_and_fill_bytes_vanish_and_a_marker_ends_the_interval() {
        let mut scan = Scan::default();
        let mut rest: &[u8] = &[0x12, 0xff, 0x00, 0x34, 0xff, 0xff, 0xd0, 0x56, 0xff];
        let mut bits = scan.interval(&mut rest);
        bits.refill();
        assert_eq!(bits.peek(24), 0x12_ff34);
        assert_eq!(rest, [0xff, 0xd0, 0x56, 0xff]);
        bits.drop(24);
        assert_eq!(bits.check(), Ok(()));
        bits.drop(1);
        assert_eq!(bits.check(), Err(Damage::Short));
        rest = &rest[2..];
        assert_eq!(scan.interval(&mut rest).end, 1);
        assert_eq!(rest, [0xff]);
    }

    #[test]
    fn bits_come_in_order_across_refills_and_are_zero_behind_the_end() {
        let data: Vec<u8> = (0..40).map(|i| i * 5 + 1).collect();
        let mut scan = Scan::default();
        let mut rest = &data[..];
        let mut bits = scan.interval(&mut rest);
        for i in 0..60 * 8 / 5 {
            bits.refill();
            let expect = (0..5).fold(0, |sum, k| {
                let bit = i * 5 + k;
                sum << 1 | data.get(bit / 8).map_or(0, |byte| usize::from(byte >> (7 - bit % 8) & 1))
            });
            assert_eq!(bits.peek(5), expect, "five bits from {}", i * 5);
            bits.drop(5);
            assert_eq!(bits.check().is_ok(), (i + 1) * 5 <= data.len() * 8);
        }
    }
}
