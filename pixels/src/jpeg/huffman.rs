//! Huffman tables: codes to runs and values, several codes a look-up where only their length matters.
//!
//! Owns the tables of ITU-T T.81, annex C. Built once for a camera: every frame
//! carries the same definitions, which are compared, not built again. The scan code looks codes up here.

use super::Damage;
use super::bits::Bits;

/// Bits of the look-up for a code with its value, and for as many codes as fit with theirs.
const LOOKUP_BITS: u32 = 10;
const SKIP_BITS: u32 = 12;
/// Longest code.
const CODE_BITS: u32 = 16;

/// Entries of the look-ups that hold less than they should.
const NO_VALUE: u32 = 0x80;
const NO_CODE: u32 = 0xff;
const NO_SKIP: u16 = 0xff00;

/// Number of the last coefficient in a block.
pub(super) const LAST: usize = 63;
/// What the end of a block adds to the number of the coefficient: far beyond the last.
pub(super) const END_OF_BLOCK: usize = 128;

/// What a table's symbols stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Size of a difference.
    Dc,
    /// Run of zeros and size of a value.
    Ac,
}

/// A definition as a DHT segment gives it: 16 counts, then the symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Definition<'a> {
    pub counts: &'a [u8; 16],
    pub symbols: &'a [u8],
}

/// A code, with what follows it.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    /// Bits of the code.
    code_bits: u32,
    /// Bits of the value behind it.
    size: u32,
    /// How far it moves the number of the coefficient.
    advance: usize,
}

/// A code and the value behind it, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coefficient {
    /// How far it moves the number of the coefficient; [`END_OF_BLOCK`] or more at the end of the block.
    pub advance: usize,
    pub value: i32,
}

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    class: Class,
    counts: [u8; 16],
    symbols: [u8; 256],
    len: usize,
    /// By the next [`LOOKUP_BITS`] bits: value (16 bits), advance (8), bits of code and value (8). If only the code fits:
    /// size, advance, bits of the code and [`NO_VALUE`]. If not even that: [`NO_CODE`].
    lookup: Box<[u32; 1 << LOOKUP_BITS]>,
    /// By the next [`SKIP_BITS`] bits: advance (8), bits (8) of the codes that fit, with their values, up to the end of
    /// the block. If none fits: [`NO_SKIP`].
    skip: Vec<u16>,
    /// By code length: the first code of the next length, aligned to 16 bits; and what makes a code an index of `symbols`.
    limit: [u32; CODE_BITS as usize + 1],
    offset: [i32; CODE_BITS as usize + 1],
}

impl Table {
    /// A table without codes.
    pub fn new(class: Class) -> Self {
        Table {
            class,
            counts: [0; 16],
            symbols: [0; 256],
            len: 0,
            lookup: Box::new([NO_CODE; 1 << LOOKUP_BITS]),
            skip: vec![NO_SKIP; if class == Class::Ac { 1 << SKIP_BITS } else { 0 }],
            limit: [0; CODE_BITS as usize + 1],
            offset: [0; CODE_BITS as usize + 1],
        }
    }

    /// Makes this the table of `definition`; false, and no table at all, if that defines more codes than there can be or
    /// differences of a size that 8-bit samples do not have.
    pub fn define(&mut self, definition: Definition<'_>) -> bool {
        // A table without codes decodes nothing, and is what one that could not be made looks like.
        if definition.symbols.is_empty() {
            return false;
        }
        if self.counts == *definition.counts && self.symbols[..self.len] == *definition.symbols {
            return true;
        }
        self.counts = [0; 16];
        self.len = 0;
        let is_difference = |size: &u8| *size <= 11;
        if self.class == Class::Dc && !definition.symbols.iter().all(is_difference) {
            return false;
        }
        let mut code = 0_u32;
        let mut index = 0_i32;
        for (bits, count) in (1..=CODE_BITS).zip(definition.counts) {
            let count = u32::from(*count);
            self.offset[bits as usize] = index - code as i32;
            code += count;
            index += count as i32;
            if code > 1 << bits {
                return false;
            }
            self.limit[bits as usize] = code << (CODE_BITS - bits);
            code <<= 1;
        }
        let Some(symbols) = self.symbols.get_mut(..definition.symbols.len()).filter(|s| s.len() == index as usize)
        else {
            return false;
        };
        symbols.copy_from_slice(definition.symbols);
        self.counts = *definition.counts;
        self.len = definition.symbols.len();
        self.fill_lookup();
        self.fill_skip();
        true
    }

    fn fill_lookup(&mut self) {
        for next in 0..1_usize << LOOKUP_BITS {
            let symbol = self.symbol((next << (CODE_BITS - LOOKUP_BITS)) as u32);
            self.lookup[next] = match symbol {
                Some(s) if s.code_bits + s.size <= LOOKUP_BITS => {
                    let bits = s.code_bits + s.size;
                    let value = extend(next as u32 >> (LOOKUP_BITS - bits) & ((1 << s.size) - 1), s.size);
                    (value as u32) << 16 | (s.advance as u32) << 8 | bits
                }
                Some(s) if s.code_bits <= LOOKUP_BITS => {
                    s.size << 16 | (s.advance as u32) << 8 | NO_VALUE | s.code_bits
                }
                _ => NO_CODE,
            };
        }
    }

    fn fill_skip(&mut self) {
        for first in 0..self.skip.len() {
            let (mut bits, mut advance) = (0, 0);
            while bits < SKIP_BITS && advance < LAST {
                // The bits behind those that are known are zero here, and a symbol that needs them does not count.
                let next = (first << bits & ((1 << SKIP_BITS) - 1)) << (CODE_BITS - SKIP_BITS);
                match self.symbol(next as u32) {
                    // Runs that go past the block are left to `read`: their sum must not look like its end.
                    Some(s)
                        if bits + s.code_bits + s.size <= SKIP_BITS
                            && (s.advance == END_OF_BLOCK || advance + s.advance <= LAST) =>
                    {
                        bits += s.code_bits + s.size;
                        advance += s.advance;
                    }
                    _ => break,
                }
            }
            self.skip[first] = if bits > 0 { (advance << 8) as u16 | bits as u16 } else { NO_SKIP };
        }
    }

    /// The symbol whose code begins `next`, 16 bits.
    fn symbol(&self, next: u32) -> Option<Symbol> {
        let code_bits = (1..=CODE_BITS).find(|bits| next < self.limit[*bits as usize])?;
        let code = (next >> (CODE_BITS - code_bits)) as i32;
        let symbol = self.symbols[(code + self.offset[code_bits as usize]) as usize];
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        let advance = match self.class {
            Class::Dc => 0,
            Class::Ac if size == 0 && run < 15 => END_OF_BLOCK,
            Class::Ac => run + 1,
        };
        Some(Symbol { code_bits, size, advance })
    }

    /// Reads a code and its value: at most 31 bits, which must be available. Takes at most [`LOOKUP_BITS`] of those that
    /// are: whatever is longer loads what it takes.
    #[inline(always)]
    pub fn read(&self, bits: &mut Bits<'_>) -> Result<Coefficient, Damage> {
        let entry = self.lookup[bits.peek(LOOKUP_BITS)];
        if entry & NO_VALUE != 0 {
            let (length, coefficient) = self.long(entry, bits.next())?;
            bits.drop(length);
            bits.refill();
            return Ok(coefficient);
        }
        bits.drop(entry & 0xff);
        Ok(Coefficient { advance: (entry >> 8 & 0xff) as usize, value: entry as i32 >> 16 })
    }

    /// A code and its value that do not fit the look-up, and the number of their bits, from the `next` bits. It takes no
    /// reader, so that the caller's stays in registers.
    #[inline(never)]
    fn long(&self, entry: u32, next: u32) -> Result<(u32, Coefficient), Damage> {
        let (code_bits, size, advance) = if entry == NO_CODE {
            let symbol = self.symbol(next >> (32 - CODE_BITS)).ok_or(Damage::NoCode)?;
            (symbol.code_bits, symbol.size, symbol.advance)
        } else {
            (entry & !NO_VALUE & 0xff, entry >> 16, (entry >> 8 & 0xff) as usize)
        };
        let raw = if size == 0 { 0 } else { (next << code_bits) >> (32 - size) };
        Ok((code_bits + size, Coefficient { advance, value: extend(raw, size) }))
    }

    /// Reads what is left of a block behind coefficient `k`, below [`LAST`], and forgets it.
    #[inline(always)]
    pub fn skip_block(&self, bits: &mut Bits<'_>, mut k: usize) -> Result<(), Damage> {
        let skip: &[u16; 1 << SKIP_BITS] = self.skip[..].try_into().map_err(|_| Damage::NoCode)?;
        loop {
            bits.refill();
            // Enough bits for two entries, and for a code with its value behind them.
            let mut entry = skip[bits.peek(SKIP_BITS)];
            let mut to = k + usize::from(entry >> 8);
            if to < LAST {
                bits.drop(u32::from(entry & 0xff));
                k = to;
                entry = skip[bits.peek(SKIP_BITS)];
                to = k + usize::from(entry >> 8);
                if to < LAST {
                    bits.drop(u32::from(entry & 0xff));
                    k = to;
                    continue;
                }
            }
            // Either the block ends with the last code of the entry, or it ends before it, or no code fits.
            if entry != NO_SKIP && (to == LAST || (END_OF_BLOCK..END_OF_BLOCK + LAST).contains(&to)) {
                bits.drop(u32::from(entry & 0xff));
                return Ok(());
            }
            k += self.read(bits)?.advance;
            if k >= LAST {
                return ended(k);
            }
        }
    }
}

/// Whether a block may end when `k` is the number of its last coefficient, or [`END_OF_BLOCK`] and more.
#[inline(always)]
pub(super) fn ended(k: usize) -> Result<(), Damage> {
    if k == LAST || k >= END_OF_BLOCK { Ok(()) } else { Err(Damage::LongBlock) }
}

/// The value that `size` bits stand for (F.2.2.1, EXTEND).
fn extend(raw: u32, size: u32) -> i32 {
    if size > 0 && raw >> (size - 1) == 0 { raw as i32 - (1 << size) + 1 } else { raw as i32 }
}
