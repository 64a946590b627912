//! Places in the arena: a buffer's bytes are free again after the last step that names it.

use super::super::kernel::memory::{ALIGN, Place};

/// A buffer before it has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Somewhere in the arena, with this many bytes.
    Arena(usize),
    /// The island's input.
    Input(usize),
    /// The island's output.
    Output(usize),
}

/// First and last step that name a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// First step.
    pub first: usize,
    /// Last step.
    pub last: usize,
}

/// Places buffers, the largest first, each at the lowest address where it meets no buffer that lives at the same time.
/// Returns the places and the arena's size. Buffers that no step names get no bytes.
pub(super) fn place(wanted: &[Wanted], lives: &[Option<Life>]) -> (Vec<Place>, usize) {
    let mut places: Vec<Place> = wanted
        .iter()
        .map(|w| match *w {
            Wanted::Arena(_) => Place::Arena { at: 0, len: 0 },
            Wanted::Input(i) => Place::Input(i),
            Wanted::Output(i) => Place::Output(i),
        })
        .collect();
    let mut order: Vec<(usize, usize, Life)> = wanted
        .iter()
        .enumerate()
        .filter_map(|(id, w)| match *w {
            Wanted::Arena(bytes) => lives[id].map(|life| (id, bytes.next_multiple_of(ALIGN), life)),
            _ => None,
        })
        .collect();
    order.sort_by_key(|(id, bytes, _)| (std::cmp::Reverse(*bytes), *id));
    let mut placed: Vec<(usize, usize, Life)> = Vec::new();
    let mut end = 0;
    for (id, bytes, life) in order {
        let mut at = 0;
        // `placed` is sorted by address, so that the first gap that is large enough is the lowest.
        for &(from, to, other) in &placed {
            if other.first <= life.last && life.first <= other.last && from < at + bytes && at < to {
                at = to;
            }
        }
        places[id] = Place::Arena { at, len: bytes };
        let index = placed.partition_point(|p| p.0 < at);
        placed.insert(index, (at, at + bytes, life));
        end = end.max(at + bytes);
    }
    (places, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_live_at_once_have_bytes_of_their_own() {
        let wanted = [Wanted::Arena(100), Wanted::Arena(64), Wanted::Arena(200), Wanted::Arena(10), Wanted::Output(0)];
        let life = |first, last| Some(Life { first, last });
        let lives = [life(0, 1), life(1, 2), life(2, 3), life(3, 3), life(3, 3)];
        let (places, end) = place(&wanted, &lives);
        assert_eq!(places[4], Place::Output(0));
        for i in 0..4 {
            for j in 0..i {
                let (Place::Arena { at: a, len: la }, Place::Arena { at: b, len: lb }) = (places[i], places[j]) else {
                    panic!()
                };
                let (x, y) = (lives[i].unwrap(), lives[j].unwrap());
                let lives_at_once = x.first <= y.last && y.first <= x.last;
                assert!(!lives_at_once || a + la <= b || b + lb <= a, "{places:?}");
            }
        }
        assert_eq!(end, 320);
    }
}
