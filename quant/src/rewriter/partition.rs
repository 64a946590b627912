//! Which units make an island together.
//!
//! Everything a model's outputs need is either a unit or one of tract's nodes. Each gets a level: the number of times
//! that the way to it goes from tract's nodes into units. Units of one level that read one another are an island: no
//! way leaves it and comes back, because that would raise the level.

use std::collections::{HashMap, HashSet};

use tract_core::internal::*;

use super::units::{Matcher, Unit, Work};

/// What makes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// The unit of this outlet.
    Unit(OutletId),
    /// One of tract's nodes.
    Node(usize),
}

/// A part of the model, with the outlets it reads.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) unit: Option<Unit>,
    /// The parts that make what it reads, in the order of the operands.
    pub(super) reads: Vec<usize>,
    /// The island of a unit.
    pub(super) island: Option<usize>,
}

/// All parts of a model, each after what it reads.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) items: Vec<Item>,
    pub(super) of: HashMap<Key, usize>,
}

impl Partition {
    /// None if nothing is worth an island.
    pub(super) fn of(matcher: &mut Matcher<'_>) -> TractResult<Option<Self>> {
        let all = walk(matcher, None)?;
        let kept = islands(&all);
        if kept.is_empty() {
            return Ok(None);
        }
        // what is not kept is tract's again, which needs other values
        let items = walk(matcher, Some(&kept))?;
        let of = items.iter().enumerate().map(|(i, item)| (item.key, i)).collect();
        Ok(Some(Partition { items, of }))
    }
}

/// The parts that the outputs need; units where there are such, and `kept` has them.
fn walk(matcher: &mut Matcher<'_>, kept: Option<&HashMap<OutletId, usize>>) -> TractResult<Vec<Item>> {
    let mut items: Vec<Item> = Vec::new();
    let mut done: HashMap<Key, Option<usize>> = HashMap::new();
    let key_of = |matcher: &mut Matcher<'_>, outlet: OutletId| {
        let is_kept = kept.is_none_or(|kept| kept.contains_key(&outlet));
        match is_kept && matcher.unit(outlet).is_some() {
            true => Key::Unit(outlet),
            false => Key::Node(outlet.node),
        }
    };
    // twice on the stack: to open it, and to close it when what it reads is done
    let mut open: Vec<(Key, bool)> = Vec::new();
    for outlet in matcher.model.output_outlets()?.iter().rev() {
        open.push((key_of(matcher, *outlet), false));
    }
    while let Some((key, opened)) = open.pop() {
        if !opened && done.contains_key(&key) {
            continue;
        }
        let (unit, outlets): (Option<Unit>, TVec<OutletId>) = match key {
            Key::Unit(outlet) => {
                let unit = matcher.unit(outlet).context("a unit is gone")?;
                let outlets = unit.operands.iter().map(|o| o.outlet).collect();
                (Some(unit), outlets)
            }
            Key::Node(id) => (None, matcher.model.node(id).inputs.iter().copied().collect()),
        };
        let reads: Vec<Key> = outlets.iter().map(|o| key_of(matcher, *o)).collect();
        if opened {
            let reads =
                reads.iter().map(|k| done.get(k).copied().flatten().context("a cycle")).collect::<TractResult<_>>()?;
            let island = match (key, kept) {
                (Key::Unit(outlet), Some(kept)) => kept.get(&outlet).copied(),
                _ => None,
            };
            done.insert(key, Some(items.len()));
            items.push(Item { key, unit, reads, island });
        } else {
            done.insert(key, None);
            open.push((key, true));
            open.extend(reads.into_iter().rev().filter(|k| !done.contains_key(k)).map(|k| (k, false)));
        }
    }
    Ok(items)
}

/// The island of every unit that goes into one.
fn islands(items: &[Item]) -> HashMap<OutletId, usize> {
    let mut level = vec![0i64; items.len()];
    let mut parent: Vec<usize> = (0..items.len()).collect();
    for (i, item) in items.iter().enumerate() {
        level[i] = match item.unit {
            Some(_) => {
                let enters = |r: &usize| level[*r] + i64::from(items[*r].unit.is_none());
                item.reads.iter().map(enters).max().unwrap_or(0)
            }
            // inputs and constants
            None => item.reads.iter().map(|r| level[*r]).max().unwrap_or(-1),
        };
        if item.unit.is_some() {
            for &r in item.reads.iter().filter(|r| items[**r].unit.is_some() && level[**r] == level[i]) {
                let (a, b) = (root(&mut parent, r), root(&mut parent, i));
                parent[b] = a;
            }
        }
    }
    let is_anchor = |i: usize| items[i].unit.as_ref().is_some_and(|u| u.work != Work::Real);
    let same = |parent: &mut Vec<usize>, a: usize, b: usize| root(parent, a) == root(parent, b);
    // a real-numbered unit is kept between integers only
    let (mut after, mut before) = (vec![false; items.len()], vec![false; items.len()]);
    for i in 0..items.len() {
        let reads_anchor = items[i].reads.iter().any(|&r| (is_anchor(r) || after[r]) && same(&mut parent, r, i));
        after[i] = items[i].unit.is_some() && reads_anchor;
    }
    for i in (0..items.len()).rev().filter(|i| items[*i].unit.is_some()) {
        for &r in &items[i].reads {
            before[r] |= (is_anchor(i) || before[i]) && same(&mut parent, r, i);
        }
    }
    let mut is_worth_it = HashSet::new();
    for (i, item) in items.iter().enumerate() {
        if item.unit.as_ref().is_some_and(|u| u.work == Work::Integer) {
            is_worth_it.insert(root(&mut parent, i));
        }
    }
    let mut kept = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        let island = root(&mut parent, i);
        if let Key::Unit(outlet) = item.key
            && is_worth_it.contains(&island)
            && (is_anchor(i) || (after[i] && before[i]))
        {
            kept.insert(outlet, island);
        }
    }
    kept
}

/// The representative of the set that `i` is in; shortens the way on the go.
fn root(parent: &mut [usize], i: usize) -> usize {
    let mut i = i;
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}
