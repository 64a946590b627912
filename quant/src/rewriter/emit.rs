//! Builds the graph of every island, and the model around the islands.

use std::collections::{BTreeMap, HashMap, HashSet};

use tract_core::internal::*;

use super::super::graph::{Graph, Node, Number, Op, Value, ValueId};
use super::partition::{Item, Key, Partition};
use super::units::Matcher;
use super::{IslandReport, Make, Report, products};

/// What came of it.
pub(super) enum Outcome {
    /// The new model.
    Done(TypedModel, Report),
    /// An island cannot be made: its units, and why.
    Refused { outlets: Vec<OutletId>, reason: String },
}

/// A value that crosses the edge of an island: an outlet of the old model, and whether as the int8 value that an f32
/// outlet is dequantized from.
type Crossing = (OutletId, bool);

pub(super) fn emit(matcher: &Matcher<'_>, partition: &Partition, make: Make<'_>) -> TractResult<Outcome> {
    let model = matcher.model;
    let mut target = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
    target.properties.clone_from(&model.properties);
    let mut report = Report::default();
    let mut made: HashMap<Crossing, OutletId> = HashMap::new();
    for input in model.input_outlets()? {
        copy(model, input.node, &mut target, &mut made)?;
    }
    let exports = exports(matcher, partition)?;
    for part in order(partition)? {
        match part {
            Part::Node(id) => {
                if !made.contains_key(&(id.into(), false)) {
                    copy(model, id, &mut target, &mut made)?;
                }
                let node = model.node(id);
                report.left.insert(node.name.clone(), products::why_not(matcher, node).map(Into::into));
            }
            Part::Island(island) => {
                let items: Vec<&Item> = partition.items.iter().filter(|i| i.island == Some(island)).collect();
                let empty = Vec::new();
                let outs = exports.get(&island).unwrap_or(&empty);
                let (graph, ins) = build(matcher, partition, &items, outs)?;
                let steps = graph.nodes.iter().map(|n| (n.name.clone(), op_name(&n.op).to_string())).collect();
                let op = match make(graph) {
                    Ok(op) => op,
                    Err(e) => {
                        let outlets = items.iter().filter_map(|i| match i.key {
                            Key::Unit(outlet) => Some(outlet),
                            Key::Node(_) => None,
                        });
                        return Ok(Outcome::Refused { outlets: outlets.collect(), reason: format!("{e:#}") });
                    }
                };
                let last = items.last().and_then(|i| i.unit.as_ref()).map_or("", |u| u.name.as_str());
                let name = format!("island.{last}");
                let inputs = ins
                    .iter()
                    .map(|crossing| made.get(crossing).copied().context("an island reads what is not made yet"))
                    .collect::<TractResult<TVec<_>>>()?;
                let wires = target.wire_node(&name, op, &inputs)?;
                ensure!(wires.len() == outs.len(), "an island makes {} values, expected {}", wires.len(), outs.len());
                for (crossing, wire) in outs.iter().zip(wires) {
                    made.insert(*crossing, wire);
                }
                report.islands.push(IslandReport { steps });
            }
        }
    }
    let outputs = model
        .output_outlets()?
        .iter()
        .map(|o| made.get(&(*o, false)).copied().context("an output is not made"))
        .collect::<TractResult<Vec<_>>>()?;
    for ((outlet, _), wire) in made.iter().filter(|((_, as_int8), _)| !as_int8) {
        if let Some(label) = model.outlet_label(*outlet) {
            target.set_outlet_label(*wire, label.to_string())?;
        }
    }
    target.select_output_outlets(&outputs)?;
    Ok(Outcome::Done(target, report))
}

/// Copies one of tract's nodes as it is: nothing is typed again.
fn copy(
    model: &TypedModel,
    id: usize,
    target: &mut TypedModel,
    made: &mut HashMap<Crossing, OutletId>,
) -> TractResult<()> {
    let node = model.node(id);
    let facts = node.outputs.iter().map(|o| o.fact.clone()).collect();
    let new = target.add_node(&node.name, node.op.clone(), facts)?;
    for (slot, input) in node.inputs.iter().enumerate() {
        let input =
            made.get(&(*input, false)).copied().with_context(|| format!("node `{}` comes too early", node.name))?;
        target.add_edge(input, InletId::new(new, slot))?;
    }
    if model.input_outlets()?.contains(&id.into()) {
        target.inputs.push(new.into());
    }
    for slot in 0..node.outputs.len() {
        made.insert((OutletId::new(id, slot), false), OutletId::new(new, slot));
    }
    Ok(())
}

/// An island or one of tract's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    Island(usize),
    Node(usize),
}

fn part_of(item: &Item) -> TractResult<Part> {
    match (item.key, item.island) {
        (_, Some(island)) => Ok(Part::Island(island)),
        (Key::Node(id), None) => Ok(Part::Node(id)),
        (Key::Unit(_), None) => bail!("a unit without an island"),
    }
}

/// Islands and nodes, each after what it reads.
fn order(partition: &Partition) -> TractResult<Vec<Part>> {
    let parts = partition.items.iter().map(part_of).collect::<TractResult<Vec<_>>>()?;
    let mut reads: BTreeMap<Part, HashSet<Part>> = BTreeMap::new();
    let mut readers: HashMap<Part, Vec<Part>> = HashMap::new();
    let mut first: HashMap<Part, usize> = HashMap::new();
    for (i, item) in partition.items.iter().enumerate() {
        first.entry(parts[i]).or_insert(i);
        let of = reads.entry(parts[i]).or_default();
        for &r in &item.reads {
            if parts[r] != parts[i] && of.insert(parts[r]) {
                readers.entry(parts[r]).or_default().push(parts[i]);
            }
        }
    }
    let mut missing: HashMap<Part, usize> = reads.iter().map(|(part, of)| (*part, of.len())).collect();
    let mut ready: std::collections::BTreeSet<(usize, Part)> =
        reads.iter().filter(|(_, of)| of.is_empty()).map(|(part, _)| (first[part], *part)).collect();
    let mut order = Vec::with_capacity(reads.len());
    while let Some((_, part)) = ready.pop_first() {
        order.push(part);
        for reader in readers.get(&part).into_iter().flatten() {
            if let Some(count) = missing.get_mut(reader) {
                *count -= 1;
                if *count == 0 {
                    ready.insert((first[reader], *reader));
                }
            }
        }
    }
    ensure!(order.len() == reads.len(), "islands and nodes read one another in a circle");
    Ok(order)
}

/// What leaves each island.
fn exports(matcher: &Matcher<'_>, partition: &Partition) -> TractResult<BTreeMap<usize, Vec<Crossing>>> {
    let mut exports: BTreeMap<usize, Vec<Crossing>> = BTreeMap::new();
    let mut add = |outlet: OutletId, as_int8: bool| {
        let Some(&i) = partition.of.get(&Key::Unit(outlet)) else { return };
        let Some(island) = partition.items[i].island else { return };
        let of = exports.entry(island).or_default();
        if !of.contains(&(outlet, as_int8)) {
            of.push((outlet, as_int8));
        }
    };
    for item in &partition.items {
        match (&item.unit, item.key) {
            (Some(unit), _) => {
                for (operand, &read) in unit.operands.iter().zip(&item.reads) {
                    if partition.items[read].island != item.island {
                        add(operand.outlet, is_hidden(matcher, operand.outlet, operand.number)?);
                    }
                }
            }
            (None, Key::Node(id)) => matcher.model.node(id).inputs.iter().for_each(|i| add(*i, false)),
            (None, Key::Unit(_)) => {}
        }
    }
    matcher.model.output_outlets()?.iter().for_each(|o| add(*o, false));
    Ok(exports)
}

/// Whether an f32 outlet is meant as the int8 value it is dequantized from.
fn is_hidden(matcher: &Matcher<'_>, outlet: OutletId, number: Number) -> TractResult<bool> {
    let is_real = matcher.model.outlet_fact(outlet)?.datum_type == f32::datum_type();
    Ok(is_real && number != Number::F32)
}

/// The graph of an island that makes `outs`, and what it reads.
fn build(
    matcher: &Matcher<'_>,
    partition: &Partition,
    items: &[&Item],
    outs: &[Crossing],
) -> TractResult<(Graph, Vec<Crossing>)> {
    let mut builder = Builder { matcher, graph: Graph::default(), local: HashMap::new(), ins: Vec::new() };
    for item in items {
        let (Some(unit), Key::Unit(outlet)) = (&item.unit, item.key) else { continue };
        let operands = unit
            .operands
            .iter()
            .zip(&item.reads)
            .map(|(operand, &read)| {
                let is_made_by_unit = partition.items[read].unit.is_some();
                builder.operand(operand.outlet, operand.number, is_made_by_unit)
            })
            .collect::<TractResult<TVec<_>>>()?;
        let shape = matcher.shape(outlet).context("a unit has no fixed shape")?;
        let first = &builder.graph.values[operands[0].0];
        let changes_nothing =
            matches!(unit.op, Op::Requantize | Op::Reshape) && first.number == unit.number && first.shape == shape;
        let value = if changes_nothing {
            operands[0]
        } else {
            builder.node(&unit.name, unit.op.clone(), operands, shape, unit.number)
        };
        builder.local.insert((outlet, unit.number != Number::F32), value);
    }
    for (outlet, as_int8) in outs {
        let value = builder.export(*outlet, *as_int8)?;
        builder.graph.outputs.push(value);
    }
    let Builder { mut graph, ins, .. } = builder;
    merge_moves(&mut graph);
    Ok((graph, ins))
}

struct Builder<'a, 'm> {
    matcher: &'a Matcher<'m>,
    graph: Graph,
    /// Values by outlet, and whether they are int8.
    local: HashMap<(OutletId, bool), ValueId>,
    ins: Vec<Crossing>,
}

impl Builder<'_, '_> {
    fn value(&mut self, name: &str, shape: TVec<usize>, number: Number) -> ValueId {
        self.graph.values.push(Value { name: name.into(), shape, number });
        ValueId(self.graph.values.len() - 1)
    }

    fn node(&mut self, name: &str, op: Op, inputs: TVec<ValueId>, shape: TVec<usize>, number: Number) -> ValueId {
        let output = self.value(name, shape, number);
        self.graph.nodes.push(Node { name: name.into(), op, inputs, output });
        output
    }

    fn operand(&mut self, outlet: OutletId, number: Number, is_made_by_unit: bool) -> TractResult<ValueId> {
        let is_int8 = number != Number::F32;
        if let Some(value) = self.local.get(&(outlet, is_int8)) {
            return Ok(*value);
        }
        let shape = self.matcher.shape(outlet).context("an operand has no fixed shape")?;
        let name = self.matcher.model.node(outlet.node).name.clone();
        let hidden = is_hidden(self.matcher, outlet, number)?;
        let value = if hidden && !is_made_by_unit {
            // dequantized by tract's nodes: quantizing again gives back the same integers
            let real = self.value(&name, shape.clone(), Number::F32);
            self.ins.push((outlet, false));
            self.graph.inputs.push(real);
            self.node(&name, Op::Quantize, tvec!(real), shape, number)
        } else {
            let value = self.value(&name, shape, number);
            self.ins.push((outlet, hidden));
            self.graph.inputs.push(value);
            value
        };
        self.local.insert((outlet, is_int8), value);
        Ok(value)
    }

    fn export(&mut self, outlet: OutletId, as_int8: bool) -> TractResult<ValueId> {
        let is_real = self.matcher.model.outlet_fact(outlet)?.datum_type == f32::datum_type();
        let (real, int8) = (self.local.get(&(outlet, false)).copied(), self.local.get(&(outlet, true)).copied());
        if as_int8 || !is_real {
            return int8.context("an island hands out int8, and made f32");
        }
        match (real, int8) {
            (Some(real), _) => Ok(real),
            (None, Some(int8)) => {
                let Value { name, shape, .. } = self.graph.values[int8.0].clone();
                let real = self.node(&name, Op::Dequantize, tvec!(int8), shape, Number::F32);
                self.local.insert((outlet, false), real);
                Ok(real)
            }
            (None, None) => bail!("an island hands out what it does not make"),
        }
    }
}

/// A reshape of a reshape is one, and so is a transposition of a transposition.
fn merge_moves(graph: &mut Graph) {
    let mut uses: HashMap<ValueId, usize> = HashMap::new();
    for id in graph.nodes.iter().flat_map(|n| &n.inputs).chain(&graph.outputs) {
        *uses.entry(*id).or_default() += 1;
    }
    let mut by: HashMap<ValueId, usize> = HashMap::new();
    let mut dropped = HashSet::new();
    for i in 0..graph.nodes.len() {
        let input = graph.nodes[i].inputs[0];
        if let Some(&p) = by.get(&input)
            && uses.get(&input) == Some(&1)
            && graph.values[input.0].number == graph.values[graph.nodes[i].output.0].number
        {
            let merged = match (&graph.nodes[p].op, &graph.nodes[i].op) {
                (Op::Reshape, Op::Reshape) => Some(Op::Reshape),
                (Op::Transpose { perm: first }, Op::Transpose { perm: second }) => {
                    Some(Op::Transpose { perm: second.iter().map(|axis| first[*axis]).collect() })
                }
                _ => None,
            };
            if let Some(op) = merged {
                graph.nodes[i].op = op;
                graph.nodes[i].inputs = graph.nodes[p].inputs.clone();
                dropped.insert(p);
            }
        }
        by.insert(graph.nodes[i].output, i);
    }
    let mut index = 0;
    graph.nodes.retain(|_| {
        index += 1;
        !dropped.contains(&(index - 1))
    });
}

/// The name that `inspect` and `bench` print.
pub(crate) fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Quantize => "Quantize",
        Op::Dequantize => "Dequantize",
        Op::Requantize => "Requantize",
        Op::Conv(_) => "Conv",
        Op::FullyConnected(_) => "FullyConnected",
        Op::DynamicFullyConnected { .. } => "DynamicFullyConnected",
        Op::DynamicConv { .. } => "DynamicConv",
        Op::MatMul { .. } => "MatMul",
        Op::Add { .. } => "Add",
        Op::Mul { .. } => "Mul",
        Op::Concat { .. } => "Concat",
        Op::AveragePool { .. } => "AveragePool",
        Op::MaxPool { .. } => "MaxPool",
        Op::Lut { .. } => "Lut",
        Op::Softmax { .. } => "Softmax",
        Op::LayerNorm { .. } => "LayerNorm",
        Op::Gelu => "Gelu",
        Op::AddF32 { .. } => "AddF32",
        Op::MulF32 { .. } => "MulF32",
        Op::Affine { .. } => "Affine",
        Op::ReduceMean { .. } => "ReduceMean",
        Op::Reshape => "Reshape",
        Op::Transpose { .. } => "Transpose",
        Op::Slice { .. } => "Slice",
    }
}
