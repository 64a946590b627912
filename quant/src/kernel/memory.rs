//! The memory of an island at run time: buffers of an arena, and tensors lent from outside.
//!
//! A step takes the buffers it reads and the one or two it writes with one call, which checks that the written ones overlap
//! none of the others: the arena's plan may be wrong without a wrong access.

use super::Stored;

/// Index of a buffer in a plan.
pub(crate) type BufferId = usize;

/// Alignment of the arena and of every buffer in it.
pub(crate) const ALIGN: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

/// Zeroed, aligned memory.
#[derive(Clone)]
pub(crate) struct Arena(Vec<Line>);

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} bytes)", self.0.len() * ALIGN)
    }
}

impl Arena {
    /// `bytes`, rounded up.
    pub(crate) fn new(bytes: usize) -> Self {
        Arena(vec![Line([0; ALIGN]); bytes.div_ceil(ALIGN)])
    }

    fn bytes(&mut self) -> (*mut u8, usize) {
        (self.0.as_mut_ptr().cast(), self.0.len() * ALIGN)
    }
}

/// Where a buffer is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the arena.
    Arena {
        /// From its start.
        at: usize,
        /// With slack.
        len: usize,
    },
    /// The island's input.
    Input(usize),
    /// The island's output.
    Output(usize),
}

#[derive(Clone, Copy)]
struct Span {
    start: *mut u8,
    len: usize,
    is_writable: bool,
}

/// The buffers of one run.
pub(crate) struct Memory<'a> {
    spans: &'a mut Vec<Span>,
}

/// Storage for [`Memory`] that outlives a run, so that a run allocates nothing; empty between runs.
#[derive(Default)]
pub(crate) struct Table(Vec<Span>);

// SAFETY: the pointers in the table are only used by a `Memory`, which exists while `Memory::new`'s borrows of what they point
// to do; between runs the table is empty.
unsafe impl Send for Table {}

impl Clone for Table {
    fn clone(&self) -> Self {
        Table(Vec::with_capacity(self.0.capacity()))
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Table")
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.spans.clear();
    }
}

/// Bytes that a step reads.
#[derive(Clone, Copy)]
pub(crate) struct Read<'a>(&'a [u8]);

impl<'a> Read<'a> {
    /// As bytes.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// As stored int8 values.
    pub(crate) fn stored(self) -> &'a [Stored] {
        // SAFETY: u8 and i8 have the same size, alignment and valid values.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len()) }
    }

    /// As f32; the part that is whole.
    pub(crate) fn reals(self) -> &'a [f32] {
        // SAFETY: every bit pattern is an f32.
        let (head, reals, _) = unsafe { self.0.align_to::<f32>() };
        assert!(head.is_empty(), "a buffer of f32 is not aligned");
        reals
    }
}

/// Bytes that a step writes.
pub(crate) struct Write<'a>(&'a mut [u8]);

impl<'a> Write<'a> {
    /// As bytes.
    pub(crate) fn bytes(self) -> &'a mut [u8] {
        self.0
    }

    /// As stored int8 values.
    pub(crate) fn stored(self) -> &'a mut [Stored] {
        // SAFETY: u8 and i8 have the same size, alignment and valid values.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len()) }
    }

    /// As f32; the part that is whole.
    pub(crate) fn reals(self) -> &'a mut [f32] {
        // SAFETY: every bit pattern is an f32.
        let (head, reals, _) = unsafe { self.0.align_to_mut::<f32>() };
        assert!(head.is_empty(), "a buffer of f32 is not aligned");
        reals
    }

    /// The first `at` bytes, a multiple of four, and the rest.
    pub(crate) fn split(self, at: usize) -> (Write<'a>, Write<'a>) {
        assert!(at.is_multiple_of(4), "numbers would be cut");
        let (first, rest) = self.0.split_at_mut(at);
        (Write(first), Write(rest))
    }

    /// As i32; the part that is whole.
    pub(crate) fn integers(self) -> &'a mut [i32] {
        // SAFETY: every bit pattern is an i32.
        let (head, integers, _) = unsafe { self.0.align_to_mut::<i32>() };
        assert!(head.is_empty(), "a buffer of i32 is not aligned");
        integers
    }

    /// As i16; the part that is whole.
    pub(crate) fn words(self) -> &'a mut [i16] {
        // SAFETY: every bit pattern is an i16.
        let (head, words, _) = unsafe { self.0.align_to_mut::<i16>() };
        assert!(head.is_empty(), "a buffer of i16 is not aligned");
        words
    }
}

impl<'a> Memory<'a> {
    /// The buffers at `places`; `inputs` and `outputs` are the bytes of the island's tensors.
    pub(crate) fn new(
        table: &'a mut Table,
        places: &[Place],
        arena: &'a mut Arena,
        inputs: &'a [&[u8]],
        outputs: &'a mut [&mut [u8]],
    ) -> Self {
        let spans = &mut table.0;
        spans.clear();
        let (base, bytes) = arena.bytes();
        for place in places {
            let span = match *place {
                Place::Arena { at, len } => {
                    assert!(at + len <= bytes, "a buffer ends at {}, the arena at {bytes}", at + len);
                    // SAFETY: `at` is inside the arena's allocation, as just checked.
                    Span { start: unsafe { base.add(at) }, len, is_writable: true }
                }
                Place::Input(i) => {
                    Span { start: inputs[i].as_ptr().cast_mut(), len: inputs[i].len(), is_writable: false }
                }
                Place::Output(i) => Span { start: outputs[i].as_mut_ptr(), len: outputs[i].len(), is_writable: true },
            };
            spans.push(span);
        }
        Memory { spans }
    }

    fn span(&self, id: BufferId) -> Span {
        self.spans[id]
    }

    /// The buffers that one step reads and writes.
    ///
    /// # Panics
    /// If a written buffer overlaps another of the step, or is an input of the island.
    pub(crate) fn access<const R: usize, const W: usize>(
        &mut self,
        reads: [BufferId; R],
        writes: [BufferId; W],
    ) -> ([Read<'_>; R], [Write<'_>; W]) {
        let r = reads.map(|id| self.span(id));
        let w = writes.map(|id| self.span(id));
        for (i, a) in w.iter().enumerate() {
            assert!(a.is_writable, "a step writes an input");
            let (start, end) = (a.start as usize, a.start as usize + a.len);
            for b in r.iter().chain(&w[..i]) {
                let (from, to) = (b.start as usize, b.start as usize + b.len);
                assert!(end <= from || to <= start || a.len == 0 || b.len == 0, "a step writes what it reads");
            }
        }
        // SAFETY: every span lies in the arena or a tensor that is borrowed for as long as `self`; written ones overlap no
        // other of this call, as just checked, and the result borrows `self` mutably, so that no other call is in use.
        let reads = r.map(|s| Read(unsafe { std::slice::from_raw_parts(s.start, s.len) }));
        // SAFETY: as above; written spans are of memory that was borrowed mutably.
        let writes = w.map(|s| Write(unsafe { std::slice::from_raw_parts_mut(s.start, s.len) }));
        (reads, writes)
    }
}

/// The bytes of 16-bit values.
pub(crate) fn as_bytes(words: &[i16]) -> &[u8] {
    // SAFETY: every byte of an i16 is a u8, and the length is that of the same memory.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) }
}

/// The bytes of stored int8 values.
pub(crate) fn stored_as_bytes(stored: &[Stored]) -> &[u8] {
    // SAFETY: u8 and i8 have the same size, alignment and valid values.
    unsafe { std::slice::from_raw_parts(stored.as_ptr().cast(), stored.len()) }
}
