//! The flat file of vectors that a retrieval looks in; `attendant index` writes it (docs/heads.md describes it).
//!
//! Little endian: the 8 bytes `ATTIDX1\n`, dimensions u32, entries u32; for each entry the length u16 and the UTF-8 of its id; then
//! for each entry its vector, f32, of length 1. Several entries may have one id: of them the most alike counts.

use std::sync::Arc;

/// The first bytes of the file.
pub const MAGIC: &[u8; 8] = b"ATTIDX1\n";

/// Longest id, bytes.
pub const ID_BYTES_MAX: usize = 1024;

/// Vectors with their ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index {
    dim: usize,
    ids: Vec<Arc<str>>,
    /// `[entries, dim]`, each of length 1.
    vectors: Vec<f32>,
}

impl Index {
    /// An empty index of vectors of `dim` numbers.
    #[must_use]
    pub fn new(dim: usize) -> Self {
        Index { dim, ..Index::default() }
    }

    /// Numbers in a vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The id of an entry.
    ///
    /// # Panics
    /// If there is no such entry.
    #[must_use]
    pub fn id(&self, row: usize) -> &Arc<str> {
        &self.ids[row]
    }

    /// Adds an entry; the vector is brought to length 1.
    ///
    /// # Errors
    /// Another number of dimensions, a vector of zeros or with a NaN, an id that is empty or too long.
    pub fn push(&mut self, id: &str, vector: &[f32]) -> Result<(), String> {
        if vector.len() != self.dim {
            return Err(format!("{id}: a vector of {}, expected {}", vector.len(), self.dim));
        }
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(format!("{id:?}: an id of {} bytes, expected 1 to {ID_BYTES_MAX}", id.len()));
        }
        let from = self.vectors.len();
        self.vectors.extend_from_slice(vector);
        if !normalize(&mut self.vectors[from..]) {
            self.vectors.truncate(from);
            return Err(format!(
                "{id}: the model's vector has no direction: only zeros, or values that are no numbers"
            ));
        }
        self.ids.push(id.into());
        Ok(())
    }

    /// The file.
    ///
    /// # Panics
    /// If there are more than `u32::MAX` entries or dimensions: they would not fit into memory before.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let number = |n: usize| u32::try_from(n).expect("bounded by memory").to_le_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(number(self.dim));
        bytes.extend(number(self.ids.len()));
        for id in &self.ids {
            bytes.extend((id.len() as u16).to_le_bytes());
            bytes.extend(id.as_bytes());
        }
        bytes.extend(self.vectors.iter().flat_map(|v| v.to_le_bytes()));
        bytes
    }

    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let cut = || "is cut off; make it again with `attendant index`".to_owned();
        let rest = bytes.strip_prefix(MAGIC).ok_or("is no index; make it with `attendant index`")?;
        let (dim, rest) = split_u32(rest).ok_or_else(cut)?;
        let (count, mut rest) = split_u32(rest).ok_or_else(cut)?;
        if dim == 0 || count == 0 {
            return Err(format!("has {count} entries of {dim} numbers, expected at least one of each"));
        }
        // an entry takes at least so much: nothing is reserved that the file does not hold
        let least = dim.checked_mul(4).and_then(|n| n.checked_add(2)?.checked_mul(count)).ok_or_else(cut)?;
        if rest.len() < least {
            return Err(cut());
        }
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let (len, after) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
            let (id, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len))).ok_or_else(cut)?;
            let id = std::str::from_utf8(id).map_err(|_| format!("the id of entry {} is not UTF-8", ids.len()))?;
            ids.push(id.into());
            rest = after;
        }
        if rest.len() != 4 * dim * count {
            return Err(format!("has {} bytes of vectors, expected {}; make it again", rest.len(), 4 * dim * count));
        }
        let (words, _) = rest.as_chunks::<4>();
        let mut vectors: Vec<f32> = words.iter().map(|b| f32::from_le_bytes(*b)).collect();
        for (row, vector) in vectors.chunks_exact_mut(dim).enumerate() {
            if !normalize(vector) {
                return Err(format!("entry {row} has no direction: only zeros, or values that are no numbers"));
            }
        }
        Ok(Index { dim, ids, vectors })
    }

    /// The `k` entries most like `query`, which has length 1, that reach `least`: most alike first, of equals the first one
    /// first, every id once.
    pub fn nearest(&self, query: &[f32], k: usize, least: f32, best: &mut Vec<(usize, f32)>) {
        best.clear();
        for (row, vector) in self.vectors.chunks_exact(self.dim).enumerate() {
            let similarity: f32 = vector.iter().zip(query).map(|(a, b)| a * b).sum();
            if similarity < least {
                continue;
            }
            if let Some(same) = best.iter().position(|&(other, _)| self.ids[other] == self.ids[row]) {
                if best[same].1 >= similarity {
                    continue;
                }
                best.remove(same);
            }
            let at = best.iter().position(|&(_, other)| similarity > other).unwrap_or(best.len());
            if at < k {
                best.truncate(k - 1);
                best.insert(at, (row, similarity));
            }
        }
    }
}

fn split_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*word) as usize, rest))
}

/// Brings `x` to length 1; whether it has a direction. Zeros stay as they are.
pub(super) fn normalize(x: &mut [f32]) -> bool {
    let length = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return false;
    }
    x.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    true
}
