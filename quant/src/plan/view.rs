//! Where the elements of a value are: a buffer, a start, and a stride per axis of the model.
//!
//! Transposes, slices and many reshapes are views of the same elements; only an operator that needs another order copies.

use tract_core::internal::{TVec, tvec};

use super::super::kernel::memory::BufferId;

/// Axes of the model from the outermost to the innermost in memory.
pub(super) type Order = TVec<usize>;

/// The model's own order.
pub(super) fn row_major(rank: usize) -> Order {
    (0..rank).collect()
}

/// Channels innermost: `[N, H, W, C]`, also with fewer or more axes.
pub(super) fn channel_last(rank: usize) -> Order {
    if rank < 3 {
        return row_major(rank);
    }
    std::iter::once(0).chain(2..rank).chain(std::iter::once(1)).collect()
}

/// Elements of a shape.
pub(super) fn volume(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Strides of `shape` laid out densely in `order`.
pub(super) fn dense(shape: &[usize], order: &[usize]) -> TVec<usize> {
    let mut strides: TVec<usize> = tvec![0; shape.len()];
    let mut step = 1;
    for &axis in order.iter().rev() {
        strides[axis] = step;
        step *= shape[axis];
    }
    strides
}

/// A value in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Its memory.
    pub buffer: BufferId,
    /// Of the first element, in elements.
    pub start: usize,
    /// Per axis of the model, in elements; of no meaning where an axis has one element.
    pub strides: TVec<usize>,
}

impl View {
    /// Whether the elements follow each other in `order`.
    pub(super) fn is_dense(&self, shape: &[usize], order: &[usize]) -> bool {
        let expect = dense(shape, order);
        (0..shape.len()).all(|axis| shape[axis] == 1 || self.strides[axis] == expect[axis])
    }

    /// The order of the axes in which the elements are dense, if there is one.
    pub(super) fn order(&self, shape: &[usize]) -> Option<Order> {
        let mut order = row_major(shape.len());
        order.sort_by_key(|&axis| (std::cmp::Reverse(if shape[axis] == 1 { 0 } else { self.strides[axis] }), axis));
        // Axes of one element may stand anywhere.
        self.is_dense(shape, &order).then_some(order)
    }

    /// The same elements with the axes permuted.
    pub(super) fn transposed(&self, perm: &[usize]) -> View {
        View { strides: perm.iter().map(|&p| self.strides[p]).collect(), ..self.clone() }
    }

    /// A range of an axis.
    pub(super) fn sliced(&self, axis: usize, first: usize) -> View {
        View { start: self.start + first * self.strides[axis], ..self.clone() }
    }

    /// The same elements in the model's order under another shape, if strides can say it.
    pub(super) fn reshaped(&self, from: &[usize], to: &[usize]) -> Option<View> {
        let old: TVec<(usize, usize)> =
            from.iter().zip(&self.strides).filter(|(d, _)| **d != 1).map(|(d, s)| (*d, *s)).collect();
        let mut strides: TVec<usize> = tvec![0; to.len()];
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            let (first, to_first) = (i, j);
            let (mut have, mut want) = (old[i].0, 1);
            while j < to.len() && want < have {
                want *= to[j];
                j += 1;
            }
            while have != want {
                if have < want {
                    i += 1;
                    have *= old.get(i)?.0;
                } else {
                    want *= *to.get(j)?;
                    j += 1;
                }
            }
            // The old axes of this group must be one run.
            for k in first..i {
                if old[k].1 != old[k + 1].0 * old[k + 1].1 {
                    return None;
                }
            }
            let mut step = old[i].1;
            for axis in (to_first..j).rev() {
                strides[axis] = step;
                step *= to[axis];
            }
            i += 1;
        }
        Some(View { strides, ..self.clone() })
    }
}

/// Joins neighbouring axes of a loop wherever every operand steps evenly over both; drops axes of one element.
/// Each element of `strides` belongs to one operand.
pub(super) fn collapse<const N: usize>(dims: &[usize], strides: [&[usize]; N]) -> (Vec<usize>, [Vec<usize>; N]) {
    let mut out_dims: Vec<usize> = vec![];
    let mut out: [Vec<usize>; N] = std::array::from_fn(|_| vec![]);
    for axis in 0..dims.len() {
        if dims[axis] == 1 {
            continue;
        }
        let last = out_dims.len().wrapping_sub(1);
        let joins = !out_dims.is_empty() && (0..N).all(|n| out[n][last] == strides[n][axis] * dims[axis]);
        if joins {
            out_dims[last] *= dims[axis];
            for n in 0..N {
                out[n][last] = strides[n][axis];
            }
        } else {
            out_dims.push(dims[axis]);
            for n in 0..N {
                out[n].push(strides[n][axis]);
            }
        }
    }
    if out_dims.is_empty() {
        out_dims.push(1);
        out.iter_mut().for_each(|s| s.push(1));
    }
    (out_dims, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(strides: &[usize]) -> View {
        View { buffer: 0, start: 0, strides: strides.into() }
    }

    #[test]
    fn a_reshape_is_a_view_where_strides_allow_it() {
        let heads = view(&[12, 12, 1]).reshaped(&[1, 5, 6], &[1, 5, 2, 3]).unwrap();
        assert_eq!(&heads.strides[1..], [12, 3, 1]);
        assert_eq!(view(&[1, 5]).reshaped(&[5, 3], &[15]), None);
        assert_eq!(&view(&[6, 2, 1]).reshaped(&[4, 3, 2], &[24]).unwrap().strides[..], [1]);
        assert_eq!(&view(&[6, 2, 1]).reshaped(&[4, 3, 2], &[2, 1, 12]).unwrap().strides[..], [12, 12, 1]);
    }

    #[test]
    fn loops_join_where_all_operands_step_evenly() {
        let (dims, [a, b]) = collapse(&[2, 3, 4], [&[12, 4, 1], &[0, 4, 1]]);
        assert_eq!((dims, a, b), (vec![2, 12], vec![12, 1], vec![0, 1]));
    }

    #[test]
    fn an_axis_of_one_element_has_no_say_in_the_order() {
        assert!(view(&[7, 1, 99]).is_dense(&[2, 7, 1], &[0, 1, 2]));
        assert_eq!(view(&[12, 1, 4, 2]).order(&[2, 2, 3, 2]).unwrap()[..], channel_last(4)[..]);
    }
}
