//! The entropy-coded data: luminance coefficients of the blocks that are wanted, everything else only stepped over.
//!
//! Owns the order of blocks in a scan, restart markers and differences. The decoder calls it with a header and a
//! [`Want`], and gets one row of blocks after the other. Every block is read to its end, wanted or not, so that damage
//! anywhere in the data is found; only what is wanted is turned into numbers.

use std::ops::Range;

use super::Damage;
use super::bits::{Bits, Scan};
use super::header::{Header, Tables};
use super::huffman::{LAST, Table, ended};

/// Row and column of each coefficient in its block, in zigzag order (ITU-T T.81, figure A.6).
#[rustfmt::skip]
const ZIGZAG: [(u8, u8); 64] = [
    (0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0), (4, 0), (3, 1), (2, 2),
    (1, 3), (0, 4), (0, 5), (1, 4), (2, 3), (3, 2), (4, 1), (5, 0), (6, 0), (5, 1), (4, 2), (3, 3), (2, 4),
    (1, 5), (0, 6), (0, 7), (1, 6), (2, 5), (3, 4), (4, 3), (5, 2), (6, 1), (7, 0), (7, 1), (6, 2), (5, 3),
    (4, 4), (3, 5), (2, 6), (1, 7), (2, 7), (3, 6), (4, 5), (5, 4), (6, 3), (7, 2), (7, 3), (6, 4), (5, 5),
    (4, 6), (3, 7), (4, 7), (5, 6), (6, 5), (7, 4), (7, 5), (6, 6), (5, 7), (6, 7), (7, 6), (7, 7),
];

/// Coefficients that can be read behind the end of a row, so that an inner loop needs no remainder.
pub(super) const MARGIN: usize = 16;

/// What of the luminance is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Rows and columns of blocks.
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// Diagonals of coefficients, 1 to 15: those with row + column below this.
    pub diagonals: usize,
}

impl Want {
    /// Rows, and columns, of coefficients of a block that lie on the diagonals.
    pub fn side(&self) -> usize {
        self.diagonals.min(8)
    }

    /// Number of the last coefficient on the diagonals, in zigzag order.
    pub fn last(&self) -> usize {
        (0..=LAST).rev().find(|k| usize::from(ZIGZAG[*k].0 + ZIGZAG[*k].1) < self.diagonals).unwrap_or(0)
    }
}

/// Coefficients of the rows of blocks in a row of MCUs, as a picture of them: a block is `side` x `side`.
#[derive(Debug, Default)]
pub(super) struct Coefficients {
    data: Vec<f32>,
    /// From row to row.
    stride: usize,
    /// Where a coefficient lies in its block and what it is multiplied with, by its number; those that are not wanted,
    /// and the end of a block, go to the first, which is written last.
    places: Places,
    /// Number of the last that is wanted.
    last: usize,
}

#[derive(Debug)]
struct Places([(u32, f32); 256]);

impl Default for Places {
    fn default() -> Self {
        Places([(0, 0.0); 256])
    }
}

impl Coefficients {
    fn clear_for(&mut self, header: &Header, want: &Want, columns: usize) {
        let side = want.side();
        self.stride = columns * side;
        let end = header.components[0].down * side * self.stride + MARGIN;
        self.data.clear();
        self.data.resize(end, 0.0);
        self.last = want.last();
        // The first coefficient of a block is written last, so that it can take what nothing reads.
        self.places = Places::default();
        let places = ZIGZAG.iter().zip(&header.quantization).zip(&mut self.places.0).take(self.last + 1);
        for (((row, column), step), place) in places {
            *place = (u32::from(*row) * self.stride as u32 + u32::from(*column), f32::from(*step));
        }
    }
}

/// A position in the scan and what it depends on.
struct Decoder<'a> {
    bits: Bits<'a>,
    /// Prediction of luminance.
    dc: i32,
}

/// The wanted blocks of one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockRow<'a> {
    /// Its number in the picture.
    pub number: usize,
    /// `want.side()` rows of `want.columns.len() * want.side()` coefficients, and [`MARGIN`] readable ones behind each.
    pub data: &'a [f32],
    /// From row to row.
    pub stride: usize,
}

/// Reads the scan and calls `each` with every wanted row of blocks.
pub(super) fn read(
    data: &[u8],
    header: &Header,
    tables: &Tables,
    want: &Want,
    scan: &mut Scan,
    coefficients: &mut Coefficients,
    mut each: impl FnMut(BlockRow<'_>),
) -> Result<(), Damage> {
    let luma = header.components[0];
    let mcus_across = header.width.div_ceil(8 * luma.across);
    let mcus_down = header.height.div_ceil(8 * luma.down);
    let wanted = want.columns.start / luma.across..want.columns.end.div_ceil(luma.across).min(mcus_across);
    let side = want.side();
    coefficients.clear_for(header, want, wanted.len() * luma.across);
    // An MCU may begin in front of the first wanted column.
    let lead = (want.columns.start - wanted.start * luma.across) * side;
    let luma_tables = tables.of(&luma).ok_or(Damage::NoCode)?;
    let mut rest = data.get(header.scan..).unwrap_or(&[]);
    let mut decoder = Decoder { bits: scan.interval(&mut rest), dc: 0 };
    let mut until_restart = header.restart_interval;
    let mut restarts = 0_u8;
    for y in 0..mcus_down {
        let is_wanted_row = (y * luma.down..(y + 1) * luma.down).any(|row| want.rows.contains(&row));
        coefficients.data.fill(0.0);
        for x in 0..mcus_across {
            if header.restart_interval > 0 && until_restart == 0 {
                decoder.bits.check()?;
                let [0xff, marker, after @ ..] = rest else { return Err(Damage::Short) };
                if *marker != 0xd0 + restarts {
                    return Err(Damage::Marker(*marker));
                }
                rest = after;
                restarts = (restarts + 1) % 8;
                until_restart = header.restart_interval;
                decoder = Decoder { bits: scan.interval(&mut rest), dc: 0 };
            }
            until_restart = until_restart.wrapping_sub(1);
            if is_wanted_row && wanted.contains(&x) {
                for row in 0..luma.down {
                    for column in 0..luma.across {
                        let block = (x - wanted.start) * luma.across + column;
                        let at = row * side * coefficients.stride + block * side;
                        decoder.keep(luma_tables, coefficients, at)?;
                    }
                }
            } else {
                for _ in 0..luma.down * luma.across {
                    // Wraps only where damage adds up; no 8-bit picture comes near.
                    decoder.dc = decoder.dc.wrapping_add(decoder.skip(luma_tables)?);
                }
            }
            for component in &header.components[1..] {
                let skipped = tables.of(component).ok_or(Damage::NoCode)?;
                for _ in 0..component.down * component.across {
                    decoder.skip(skipped)?;
                }
            }
        }
        decoder.bits.check()?;
        if !is_wanted_row {
            continue;
        }
        for row in 0..luma.down {
            if want.rows.contains(&(y * luma.down + row)) {
                let data = &coefficients.data[row * side * coefficients.stride + lead..];
                each(BlockRow { number: y * luma.down + row, data, stride: coefficients.stride });
            }
        }
    }
    Ok(())
}

impl Decoder<'_> {
    /// Reads a block and forgets it; returns its difference.
    #[inline(always)]
    fn skip(&mut self, (dc, ac): (&Table, &Table)) -> Result<i32, Damage> {
        let mut bits = self.bits;
        bits.refill();
        let difference = dc.read(&mut bits)?.value;
        ac.skip_block(&mut bits, 0)?;
        self.bits = bits;
        Ok(difference)
    }

    /// Reads a luminance block to place `at`.
    #[inline(always)]
    fn keep(&mut self, (dc, ac): (&Table, &Table), into: &mut Coefficients, at: usize) -> Result<(), Damage> {
        let mut bits = self.bits;
        let block = &mut into.data[at..];
        let places = &into.places.0;
        let last = into.last;
        bits.refill();
        self.dc = self.dc.wrapping_add(dc.read(&mut bits)?.value);
        let mut k = 0;
        while k < last {
            // Enough bits for two.
            bits.refill();
            for _ in 0..2 {
                let coefficient = ac.read(&mut bits)?;
                k += coefficient.advance;
                let (place, step) = places[k & 0xff];
                block[place as usize] = coefficient.value as f32 * step;
                if k >= last {
                    break;
                }
            }
        }
        // Last, because what is not wanted went here too.
        block[0] = self.dc as f32 * places[0].1;
        if k < LAST {
            ac.skip_block(&mut bits, k)?
        } else {
            ended(k)?
        }
        self.bits = bits;
        Ok(())
    }
}
