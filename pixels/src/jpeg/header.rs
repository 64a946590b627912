//! The segments in front of the picture's data: its size, its tables, how its components are laid out.
//!
//! Owns the choice of what the luminance decoder takes: baseline and extended sequential Huffman coding of 8-bit
//! samples, all components in one scan, the first of them luminance at the full resolution. Anything else, damaged
//! segments too, is left to the library, which decodes it or says what is wrong with it.

use crate::MAX_IMAGE_SIDE;

use super::huffman::{Class, Definition, Table};
use super::standard;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const SOF0: u8 = 0xc0;
const SOF1: u8 = 0xc1;
const DHT: u8 = 0xc4;
const DQT: u8 = 0xdb;
const DRI: u8 = 0xdd;
const APP0: u8 = 0xe0;
const APP14: u8 = 0xee;

/// Blocks of one MCU at most (B.2.3).
const MCU_BLOCKS_MAX: usize = 10;

/// A picture whose luminance can be decoded.
#[derive(Debug)]
pub struct Header {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Luminance first, then what is skipped.
    pub(super) components: heapless::Vec<Component, 3>,
    /// Quantization of luminance, in zigzag order.
    pub(super) quantization: [u16; 64],
    /// MCUs from one restart marker to the next; 0: there are none.
    pub(super) restart_interval: usize,
    /// Byte at which the entropy-coded data begins.
    pub(super) scan: usize,
}

/// One component of an MCU.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Component {
    id: u8,
    quantization: usize,
    /// Blocks across and down in an MCU.
    pub across: usize,
    pub down: usize,
    /// Numbers of its Huffman tables.
    pub dc: usize,
    pub ac: usize,
}

/// Huffman tables by class and number; built when first defined, kept from frame to frame.
#[derive(Debug, Default)]
pub(super) struct Tables {
    dc: [Slot; 4],
    ac: [Slot; 4],
}

#[derive(Debug, Default)]
struct Slot {
    table: Option<Box<Table>>,
    /// Whether this picture defines it.
    is_defined: bool,
}

impl Tables {
    /// The DC and the AC table of a component of the header that [`Header::read`] returned.
    pub fn of(&self, component: &Component) -> Option<(&Table, &Table)> {
        Some((self.dc[component.dc].table.as_deref()?, self.ac[component.ac].table.as_deref()?))
    }

    fn slots(&mut self, class: Class) -> &mut [Slot; 4] {
        match class {
            Class::Dc => &mut self.dc,
            Class::Ac => &mut self.ac,
        }
    }

    fn forget(&mut self) {
        self.dc.iter_mut().chain(&mut self.ac).for_each(|slot| slot.is_defined = false);
    }

    fn define(&mut self, class: Class, id: usize, definition: Definition<'_>) -> Option<()> {
        let slot = self.slots(class).get_mut(id)?;
        slot.is_defined = slot.table.get_or_insert_with(|| Box::new(Table::new(class))).define(definition);
        slot.is_defined.then_some(())
    }

    /// Defines the standard table if the picture brings none.
    fn require(&mut self, class: Class, id: usize) -> Option<()> {
        if self.slots(class).get(id)?.is_defined {
            return Some(());
        }
        self.define(class, id, standard::definition(class, id)?)
    }

    fn read(&mut self, mut segment: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = segment {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let (symbols, rest) = rest.split_at_checked(counts.iter().map(|c| usize::from(*c)).sum())?;
            let class = match kind >> 4 {
                0 => Class::Dc,
                1 => Class::Ac,
                _ => return None,
            };
            self.define(class, usize::from(kind & 15), Definition { counts, symbols })?;
            segment = rest;
        }
        Some(())
    }
}

impl Header {
    /// Reads the segments of `data` and defines `tables`; None for a picture that is the library's.
    pub(super) fn read(data: &[u8], tables: &mut Tables) -> Option<Header> {
        tables.forget();
        let mut rest = data.strip_prefix(&[0xff, SOI])?;
        let mut quantizations = [None::<[u16; 64]>; 4];
        let mut header = Header {
            width: 0,
            height: 0,
            components: heapless::Vec::new(),
            quantization: [0; 64],
            restart_interval: 0,
            scan: 0,
        };
        let mut is_jfif = false;
        let mut adobe_transform = None;
        loop {
            let [0xff, marker, tail @ ..] = rest else { return None };
            if *marker == 0xff {
                rest = &rest[1..]; // fill byte
                continue;
            }
            let (length, tail) = tail.split_first_chunk()?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (segment, after) = tail.split_at_checked(length.checked_sub(2)?)?;
            rest = after;
            match *marker {
                SOF0 | SOF1 if header.components.is_empty() => header.read_frame(segment)?,
                DHT => tables.read(segment)?,
                DQT => read_quantizations(segment, &mut quantizations)?,
                DRI => header.restart_interval = usize::from(u16::from_be_bytes(segment.try_into().ok()?)),
                APP0 => is_jfif |= segment.starts_with(b"JFIF"),
                APP14 if segment.starts_with(b"Adobe") => adobe_transform = segment.get(11).copied(),
                SOS => {
                    header.read_scan(segment)?;
                    break;
                }
                // Other processes, and what may not stand here.
                0xc0..=0xcf | 0..=0x01 | 0xd0..=SOI | EOI => return None,
                _ => {}
            }
        }
        let ids = header.components.iter().map(|c| c.id);
        let is_rgb = match adobe_transform {
            Some(transform) => transform == 0,
            None => !is_jfif && ids.eq(*b"RGB"),
        };
        if header.components.len() == 3 && is_rgb {
            return None;
        }
        for component in &header.components {
            tables.require(Class::Dc, component.dc)?;
            tables.require(Class::Ac, component.ac)?;
        }
        header.quantization = quantizations[header.components[0].quantization]?;
        header.scan = data.len() - rest.len();
        Some(header)
    }

    fn read_frame(&mut self, segment: &[u8]) -> Option<()> {
        let [8, h1, h0, w1, w0, count, rest @ ..] = segment else { return None };
        self.height = usize::from(u16::from_be_bytes([*h1, *h0]));
        self.width = usize::from(u16::from_be_bytes([*w1, *w0]));
        let sides = 1..=MAX_IMAGE_SIDE as usize;
        if !sides.contains(&self.width) || !sides.contains(&self.height) || !matches!(count, 1 | 3) {
            return None;
        }
        let (components, []) = rest.as_chunks::<3>() else { return None };
        if components.len() != usize::from(*count) {
            return None;
        }
        for [id, sampling, quantization] in components {
            let (across, down) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) || *quantization > 3 {
                return None;
            }
            let quantization = usize::from(*quantization);
            let component = Component { id: *id, quantization, across, down, ..Component::default() };
            self.components.push(component).ok()?;
        }
        if let [luma] = &mut self.components[..] {
            // A scan of one component is a raster of blocks, whatever its sampling says (A.2.2).
            (luma.across, luma.down) = (1, 1);
        }
        let luma = self.components[0];
        let is_finest = self.components.iter().all(|c| c.across <= luma.across && c.down <= luma.down);
        let blocks: usize = self.components.iter().map(|c| c.across * c.down).sum();
        (is_finest && blocks <= MCU_BLOCKS_MAX).then_some(())
    }

    fn read_scan(&mut self, segment: &[u8]) -> Option<()> {
        let (count, rest) = segment.split_first()?;
        let (selectors, spectrum) = rest.split_at_checked(2 * usize::from(*count))?;
        let (selectors, []) = selectors.as_chunks::<2>() else { return None };
        // All coefficients, in full precision.
        if spectrum != [0, 63, 0] {
            return None;
        }
        if self.components.is_empty() || selectors.len() != self.components.len() {
            return None;
        }
        for (component, [id, tables]) in self.components.iter_mut().zip(selectors) {
            if component.id != *id {
                return None;
            }
            (component.dc, component.ac) = (usize::from(tables >> 4), usize::from(tables & 15));
        }
        Some(())
    }
}

fn read_quantizations(mut segment: &[u8], into: &mut [Option<[u16; 64]>; 4]) -> Option<()> {
    while let [kind, rest @ ..] = segment {
        let slot = into.get_mut(usize::from(kind & 15))?;
        let mut steps = [0; 64];
        segment = match kind >> 4 {
            0 => {
                let (bytes, rest) = rest.split_first_chunk::<64>()?;
                steps.iter_mut().zip(bytes).for_each(|(step, byte)| *step = u16::from(*byte));
                rest
            }
            1 => {
                let (bytes, rest) = rest.split_first_chunk::<128>()?;
                steps.iter_mut().zip(bytes.as_chunks().0).for_each(|(step, pair)| *step = u16::from_be_bytes(*pair));
                rest
            }
            _ => return None,
        };
        *slot = Some(steps);
    }
    Some(())
}
