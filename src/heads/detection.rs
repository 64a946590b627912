//! Boxes in a picture: candidates decoded, the sure ones kept, those that overlap left out.
//!
//! Decoding follows, by the word in the manifest: `ssd` of Liu et al. 2016 with the variances of its Caffe code (RetinaFace and
//! UltraFace write points and boxes the same way), `grid` of YOLOX (Ge et al. 2021) and of OpenCV 4's FaceDetectorYN for YuNet,
//! `distances` of FCOS (Tian et al. 2019) and SCRFD. Overlap is resolved greedily, class by class, the surest first.

use std::sync::Arc;

use crate::config::manifest::{Activation, BoxDecode, BoxUnits, Column, DetectionSpec, Objectness, Report};
use crate::signal::{Detection, HeadFiles, MAX_LANDMARKS, Placement, Tensor};

use super::{HeadError, Port, pick, round4, sigmoid, values};

/// Candidates that overlap is looked for among: the surest ones.
const CANDIDATES_MAX: usize = 2000;

/// Most candidates of a model.
const ROWS_MAX: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Detector {
    labels: Vec<Arc<str>>,
    decode: BoxDecode,
    boxes: Field,
    scores: Field,
    objectness: Option<Field>,
    landmarks: Option<(Field, usize)>,
    anchors: Anchors,
    variances: [f32; 2],
    activation: Activation,
    background: usize,
    score: Objectness,
    score_threshold: f32,
    nms_iou: f32,
    max_detections: usize,
    report: Report,
    candidates: Vec<Candidate>,
    kept: Vec<Candidate>,
    /// Classes of the window before, surest first; None: there was no window.
    last: Option<Vec<usize>>,
    classes: Vec<usize>,
}

/// A sure enough row.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    row: usize,
    class: usize,
    score: f32,
    rect: Rect,
}

/// In pixels of the tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
}

impl Rect {
    fn around(x: f32, y: f32, width: f32, height: f32) -> Self {
        Rect { left: x - width / 2.0, top: y - height / 2.0, right: x + width / 2.0, bottom: y + height / 2.0 }
    }

    fn area(&self) -> f32 {
        (self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)
    }

    /// Intersection over union.
    pub fn iou(&self, other: &Rect) -> f32 {
        let shared = Rect {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        };
        let (inter, areas) = (shared.area(), self.area() + other.area());
        if inter > 0.0 { inter / (areas - inter) } else { 0.0 }
    }

    fn is_finite(&self) -> bool {
        [self.left, self.top, self.right, self.bottom].iter().all(|v| v.is_finite())
    }
}

/// What boxes and points are relative to.
#[derive(Debug)]
enum Anchors {
    /// One unit everywhere: width and height of the tensor, or a pixel.
    Units([f32; 2]),
    /// For each row: x, y, and the unit across and down, in pixels of the tensor.
    PerRow(Vec<[f32; 4]>),
}

impl Anchors {
    fn of(&self, row: usize) -> [f32; 4] {
        match self {
            Anchors::Units([across, down]) => [0.0, 0.0, *across, *down],
            Anchors::PerRow(anchors) => anchors[row],
        }
    }
}

/// Some columns of rows that lie in one output after the other.
#[derive(Clone, Debug)]
struct Field {
    parts: Vec<Part>,
    /// First column.
    first: usize,
    /// Columns.
    len: usize,
}

/// The rows of one output.
#[derive(Clone, Copy, Debug)]
struct Part {
    output: usize,
    rows: usize,
    /// Columns of the output.
    columns: usize,
    /// Cells, if they lie along the last axes: the element of candidate a of a cell lies at `(a * columns + k) * cells + cell`.
    cells: Option<usize>,
}

/// Numbers of a row, `step` apart.
#[derive(Clone, Copy)]
struct Row<'a> {
    data: &'a [f32],
    base: usize,
    step: usize,
}

impl Row<'_> {
    fn at(&self, k: usize) -> f32 {
        self.data[self.base + k * self.step]
    }
}

impl Field {
    fn rows(&self) -> usize {
        self.parts.iter().map(|p| p.rows).sum()
    }

    fn row<'a>(&self, outputs: &'a [Tensor], mut row: usize) -> Row<'a> {
        let mut parts = self.parts.iter();
        let mut part = parts.next().expect("a field has a part");
        while row >= part.rows {
            row -= part.rows;
            part = parts.next().expect("the rows of the fields are equally many");
        }
        let data = values(outputs, part.output);
        match part.cells {
            None => Row { data, base: row * part.columns + self.first, step: 1 },
            Some(cells) => {
                let per_cell = part.rows / cells;
                let base = (row % per_cell * part.columns + self.first) * cells + row / per_cell;
                Row { data, base, step: cells }
            }
        }
    }
}

/// Where to look for the rows of an output.
struct Layout<'a> {
    outputs: &'a [Port<'a>],
    transposed: bool,
    per_cell: usize,
}

impl Layout<'_> {
    /// The outputs `names` as rows of `columns`.
    fn field(&self, key: &str, names: &[String], columns: usize) -> Result<Field, HeadError> {
        let parts = names.iter().map(|name| self.part(key, name, columns)).collect::<Result<Vec<_>, _>>()?;
        Ok(Field { parts, first: 0, len: columns })
    }

    fn part(&self, key: &str, name: &str, columns: usize) -> Result<Part, HeadError> {
        let key = format!("detection.{key}");
        let output = pick(&key, Some(name), self.outputs)?;
        let shape = self.outputs[output].shape;
        let total: usize = shape.iter().product();
        let wrong = |expected: String| HeadError(format!("{key}: output {name:?} is {shape:?}, expected {expected}"));
        if self.transposed {
            let across = shape.get(1).copied().unwrap_or(0);
            if shape.len() < 3 || shape[0] != 1 || columns == 0 || across != columns * self.per_cell {
                return Err(wrong(format!(
                    "[1, {}, candidates...]: {columns} numbers a candidate",
                    columns * self.per_cell
                )));
            }
            let cells = total / across;
            return Ok(Part { output, rows: cells * self.per_cell, columns, cells: Some(cells) });
        }
        let last = shape.last().copied().unwrap_or(0);
        let fits = columns == 1 || last == columns || last == columns * self.per_cell;
        if columns == 0 || total == 0 || !fits {
            let hint = if shape.get(1) == Some(&columns) { "; set `transposed = true`" } else { "" };
            return Err(wrong(format!("[..., {columns}]: {columns} numbers a candidate{hint}")));
        }
        Ok(Part { output, rows: total / columns, columns, cells: None })
    }

    /// Numbers of all the outputs `names`.
    fn total(&self, key: &str, names: &[String]) -> Result<usize, HeadError> {
        let key = format!("detection.{key}");
        let of =
            |name: &String| Ok(self.outputs[pick(&key, Some(name), self.outputs)?].shape.iter().product::<usize>());
        names.iter().map(of).sum()
    }
}

impl Detector {
    /// `size` is height and width of the tensor.
    pub fn new(
        spec: &DetectionSpec,
        size: [u32; 2],
        files: &HeadFiles,
        outputs: &[Port<'_>],
    ) -> Result<Self, HeadError> {
        let labels = files.labels.clone().unwrap_or_else(|| vec!["object".into()]);
        let background = usize::from(spec.background);
        let n_scores = labels.len() + background;
        let layout = Layout { outputs, transposed: spec.transposed, per_cell: spec.per_cell };
        let (boxes, scores, objectness, landmarks) = if spec.packed.is_empty() {
            let boxes = layout.field("boxes", &spec.boxes, 4)?;
            let scores = layout.field("scores", &spec.scores, n_scores)?;
            let objectness = match spec.objectness.is_empty() {
                true => None,
                false => Some(layout.field("objectness", &spec.objectness, 1)?),
            };
            let landmarks = match spec.landmarks.is_empty() {
                true => None,
                false => {
                    let numbers = layout.total("landmarks", &spec.landmarks)? / boxes.rows();
                    let points = numbers / 2;
                    check_landmarks(points)?;
                    Some((layout.field("landmarks", &spec.landmarks, 2 * points)?, points))
                }
            };
            (boxes, scores, objectness, landmarks)
        } else {
            packed(spec, &layout, n_scores)?
        };
        let rows = boxes.rows();
        let others = [
            ("scores", Some(&scores)),
            ("objectness", objectness.as_ref()),
            ("landmarks", landmarks.as_ref().map(|l| &l.0)),
        ];
        for (key, field) in others {
            if let Some(field) = field.filter(|f| f.rows() != rows) {
                let message = format!("detection.{key}: {} candidates, the boxes have {rows}", field.rows());
                return Err(HeadError(message));
            }
        }
        if rows > ROWS_MAX {
            return Err(HeadError(format!("detection.boxes: {rows} candidates, expected at most {ROWS_MAX}")));
        }
        let anchors = anchors(spec, size, files.priors.as_deref(), rows)?;
        Ok(Detector {
            decode: spec.decode,
            anchors,
            variances: spec.variances,
            activation: spec.activation,
            background,
            score: spec.score,
            score_threshold: spec.score_threshold,
            nms_iou: spec.nms_iou,
            max_detections: spec.max_detections,
            report: spec.report,
            candidates: Vec::with_capacity(rows),
            kept: Vec::with_capacity(spec.max_detections),
            last: None,
            classes: Vec::with_capacity(spec.max_detections),
            labels,
            boxes,
            scores,
            objectness,
            landmarks,
        })
    }

    /// Writes what is in the picture; whether that is to be told.
    pub fn run(&mut self, outputs: &[Tensor], placement: Option<Placement>, into: &mut Vec<Detection>) -> bool {
        self.gather(outputs);
        // rows are different, so that the order is the same everywhere
        self.candidates.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
        self.candidates.truncate(CANDIDATES_MAX);
        suppress(&self.candidates, self.nms_iou, self.max_detections, &mut self.kept);
        let place = placement.unwrap_or(Placement { origin: [0.0; 2], scale: [1.0; 2], frame: [0; 2] });
        let x = |v: f32| v * place.scale[0] + place.origin[0];
        let y = |v: f32| v * place.scale[1] + place.origin[1];
        into.clear();
        for c in &self.kept {
            let Rect { left, top, right, bottom } = c.rect;
            let mut landmarks = heapless::Vec::new();
            if let Some((field, points)) = &self.landmarks {
                let row = field.row(outputs, c.row);
                let anchor = self.anchors.of(c.row);
                for k in 0..*points {
                    let [px, py] = self.point(anchor, row.at(2 * k), row.at(2 * k + 1));
                    landmarks.push([round4(x(px)), round4(y(py))]).expect("checked at load");
                }
            }
            into.push(Detection {
                class: Arc::clone(&self.labels[c.class]),
                score: round4(c.score),
                rect: [
                    round4(x(left)),
                    round4(y(top)),
                    round4((right - left) * place.scale[0]),
                    round4((bottom - top) * place.scale[1]),
                ],
                landmarks,
            });
        }
        self.classes.clear();
        self.classes.extend(self.kept.iter().map(|c| c.class));
        self.classes.sort_unstable();
        let is_other = self.last.as_ref() != Some(&self.classes);
        match &mut self.last {
            Some(last) => last.clone_from(&self.classes),
            None => self.last = Some(self.classes.clone()),
        }
        self.report == Report::Every || is_other
    }

    pub fn restart(&mut self) {
        self.last = None;
    }

    /// The rows that are sure enough.
    fn gather(&mut self, outputs: &[Tensor]) {
        self.candidates.clear();
        for row in 0..self.boxes.rows() {
            let (class, mut score) = self.likeliest(self.scores.row(outputs, row));
            if let Some(field) = &self.objectness {
                let raw = field.row(outputs, row).at(0);
                let objectness = if self.activation == Activation::None { raw.clamp(0.0, 1.0) } else { sigmoid(raw) };
                score = match self.score {
                    Objectness::Product => score * objectness,
                    Objectness::Root => (score * objectness).sqrt(),
                };
            }
            if score < self.score_threshold {
                continue;
            }
            let numbers = self.boxes.row(outputs, row);
            let rect = self.rect(self.anchors.of(row), [0, 1, 2, 3].map(|k| numbers.at(k)));
            if rect.is_finite() {
                self.candidates.push(Candidate { row, class, score, rect });
            }
        }
    }

    /// The likeliest class that is not the background, with its probability.
    fn likeliest(&self, row: Row<'_>) -> (usize, f32) {
        let mut best = self.background;
        for k in self.background + 1..self.scores.len {
            if row.at(k) > row.at(best) {
                best = k;
            }
        }
        let raw = row.at(best);
        let p = match self.activation {
            Activation::None => raw.clamp(0.0, 1.0),
            Activation::Sigmoid => sigmoid(raw),
            Activation::Softmax => 1.0 / (0..self.scores.len).map(|k| (row.at(k) - raw).exp()).sum::<f32>(),
        };
        (best - self.background, p)
    }

    fn rect(&self, [x, y, across, down]: [f32; 4], [a, b, c, d]: [f32; 4]) -> Rect {
        match self.decode {
            BoxDecode::Corners => Rect { left: a * across, top: b * down, right: c * across, bottom: d * down },
            BoxDecode::Center => Rect::around(a * across, b * down, c * across, d * down),
            BoxDecode::Grid => Rect::around(x + a * across, y + b * down, c.exp() * across, d.exp() * down),
            BoxDecode::Ssd => {
                let [of_center, of_size] = self.variances;
                let (width, height) = ((c * of_size).exp() * across, (d * of_size).exp() * down);
                Rect::around(x + a * of_center * across, y + b * of_center * down, width, height)
            }
            BoxDecode::Distances => {
                Rect { left: x - a * across, top: y - b * down, right: x + c * across, bottom: y + d * down }
            }
        }
    }

    fn point(&self, [x, y, across, down]: [f32; 4], a: f32, b: f32) -> [f32; 2] {
        let variance = if self.decode == BoxDecode::Ssd { self.variances[0] } else { 1.0 };
        [x + a * variance * across, y + b * variance * down]
    }
}

/// Keeps the surest of those of a class that overlap by more than `iou`, at most `most`. `candidates` are surest first.
fn suppress(candidates: &[Candidate], iou: f32, most: usize, kept: &mut Vec<Candidate>) {
    kept.clear();
    for candidate in candidates {
        if kept.len() == most {
            break;
        }
        if kept.iter().all(|k| k.class != candidate.class || k.rect.iou(&candidate.rect) <= iou) {
            kept.push(*candidate);
        }
    }
}

fn check_landmarks(points: usize) -> Result<(), HeadError> {
    if (1..=MAX_LANDMARKS).contains(&points) {
        return Ok(());
    }
    Err(HeadError(format!("detection.landmarks: {points} points a candidate, expected 1 to {MAX_LANDMARKS}")))
}

type Fields = (Field, Field, Option<Field>, Option<(Field, usize)>);

/// The fields of outputs that hold several of them side by side.
fn packed(spec: &DetectionSpec, layout: &Layout<'_>, n_scores: usize) -> Result<Fields, HeadError> {
    let len = |column: &Column| match column {
        Column::Box => 4,
        Column::Objectness => 1,
        Column::Scores => n_scores,
        Column::Landmarks => 2 * spec.n_landmarks,
    };
    let whole = layout.field("packed", &spec.packed, spec.columns.iter().map(len).sum())?;
    let find = |wanted: Column| {
        let at = spec.columns.iter().position(|c| *c == wanted)?;
        let first = spec.columns[..at].iter().map(len).sum();
        Some(Field { first, len: len(&wanted), ..whole.clone() })
    };
    let landmarks = match find(Column::Landmarks) {
        Some(field) => {
            check_landmarks(spec.n_landmarks)?;
            Some((field, spec.n_landmarks))
        }
        None => None,
    };
    match (find(Column::Box), find(Column::Scores)) {
        (Some(boxes), Some(scores)) => Ok((boxes, scores, find(Column::Objectness), landmarks)),
        _ => Err(HeadError(format!("detection.columns = {:?}, expected `box` and `scores` among them", spec.columns))),
    }
}

/// What the `rows` of a model are relative to, in pixels of a tensor of `size`.
fn anchors(spec: &DetectionSpec, size: [u32; 2], priors: Option<&str>, rows: usize) -> Result<Anchors, HeadError> {
    let [height, width] = size.map(|side| side as f32);
    let list = match (spec.decode, priors) {
        (BoxDecode::Corners | BoxDecode::Center, _) => {
            return Ok(Anchors::Units(match spec.units {
                BoxUnits::Fraction => [width, height],
                BoxUnits::Pixels => [1.0, 1.0],
            }));
        }
        (BoxDecode::Ssd, Some(text)) => read_priors(text, [width, height]).map_err(|e| {
            HeadError(format!("detection.priors = {:?}: {e}", spec.priors.as_deref().unwrap_or_default()))
        })?,
        (BoxDecode::Ssd, None) => levels(spec, size, |level, [column, row], stride, into| {
            let (x, y) = ((column + 0.5) * stride, (row + 0.5) * stride);
            into.extend(spec.min_sizes.get(level).into_iter().flatten().map(|side| [x, y, *side, *side]));
        }),
        (BoxDecode::Grid | BoxDecode::Distances, _) => levels(spec, size, |_, [column, row], stride, into| {
            let (x, y) = ((column + spec.cell_offset) * stride, (row + spec.cell_offset) * stride);
            into.extend(std::iter::repeat_n([x, y, stride, stride], spec.per_cell));
        }),
    };
    if list.len() != rows {
        let of = match (spec.decode, priors) {
            (BoxDecode::Ssd, Some(_)) => "the file of priors has",
            (BoxDecode::Ssd, None) => "detection.strides and min_sizes give",
            _ => "detection.strides and per_cell give",
        };
        return Err(HeadError(format!(
            "{of} {} candidates for {width} x {height} pixels, the model has {rows}",
            list.len()
        )));
    }
    Ok(Anchors::PerRow(list))
}

/// Calls `each` for every cell of every level, row by row.
fn levels(
    spec: &DetectionSpec,
    [height, width]: [u32; 2],
    each: impl Fn(usize, [f32; 2], f32, &mut Vec<[f32; 4]>),
) -> Vec<[f32; 4]> {
    let mut list = Vec::new();
    for (level, stride) in spec.strides.iter().enumerate() {
        for row in 0..height.div_ceil(*stride) {
            for column in 0..width.div_ceil(*stride) {
                each(level, [column as f32, row as f32], *stride as f32, &mut list);
            }
            if list.len() > ROWS_MAX {
                return list;
            }
        }
    }
    list
}

/// Lines of four fractions: centre and size.
fn read_priors(text: &str, [width, height]: [f32; 2]) -> Result<Vec<[f32; 4]>, String> {
    let line = |(number, line): (usize, &str)| {
        let values: Vec<f32> =
            line.split_whitespace().filter_map(|v| v.parse().ok()).filter(|v: &f32| v.is_finite()).collect();
        match (&values[..], line.split_whitespace().count()) {
            (&[x, y, across, down], 4) => Ok([x * width, y * height, across * width, down * height]),
            _ => Err(format!("line {}: {line:?}, expected four numbers: centre_x centre_y width height", number + 1)),
        }
    };
    text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).map(line).collect()
}
