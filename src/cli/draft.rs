//! `attendant inspect MODEL.onnx --draft-bundle DIR`: a bundle of one modality, drafted from what the file says.
//!
//! Every guess stands in the manifest with its reason. The draft is loaded before it is handed over, so that what is missing is said.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use attendant::bundle::{Bundle, MANIFEST};
use attendant::config::manifest::{ConstantSpec, StateSpec};
use attendant::infer::{Dtype, InputFact, Inspection, Model, Origin, TensorInfo, inspect, state_pairs};
use attendant::pipeline::{Options, Pipeline};

use super::Failure;

/// What was drafted.
#[derive(Debug, serde::Serialize)]
pub struct Drafted {
    /// The bundle.
    dir: PathBuf,
    /// What was guessed, in words.
    guesses: Vec<String>,
    /// Why it does not load yet; none if it runs.
    problem: Option<String>,
    /// What to do next.
    next: Vec<String>,
}

impl std::fmt::Display for Drafted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: drafted; guessed, and to be checked:", self.dir.display())?;
        self.guesses.iter().try_for_each(|guess| writeln!(f, "  - {guess}"))?;
        match &self.problem {
            None => writeln!(f, "It loads. Next:")?,
            Some(problem) => writeln!(f, "It does not load yet: {problem}\nNext:")?,
        }
        self.next.iter().enumerate().try_for_each(|(i, step)| writeln!(f, "  {}. {step}", i + 1))
    }
}

/// Rate of sound unless the file says otherwise: what most models of speech take.
const RATE_HZ: usize = 16_000;

/// Longest dimension of an input: a minute of sound.
const DIM_MAX: usize = 60 * 192_000;

/// A model as a bundle sees it.
struct Draft {
    guesses: Vec<String>,
    source: &'static str,
    /// Tables after the encoder's own keys.
    tables: String,
    /// Of the input that takes the samples.
    dtype: Dtype,
    shape: Vec<usize>,
    states: Vec<StateSpec>,
    constants: Vec<ConstantSpec>,
    picture: Option<Picture>,
}

/// Drafts a bundle for the model `file` into `dir`.
pub fn draft(file: &Path, dir: &Path) -> Result<Drafted, Failure> {
    let found = inspect(file)?;
    let is_free = !dir.exists() || std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if !is_free {
        return Err(Failure::Usage(format!(
            "--draft-bundle {}: it is there already; name a new directory",
            dir.display()
        )));
    }
    let mut draft = of_inputs(&found)?;
    let outputs = outputs_of(file, &draft, &found);
    let head = head(&mut draft, &outputs, &found);
    let failed = |source| Failure::Output { path: dir.display().to_string(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let model = file.file_name().and_then(|n| n.to_str()).unwrap_or("model.onnx").to_owned();
    std::fs::copy(file, dir.join(&model)).map_err(failed)?;
    std::fs::write(dir.join(MANIFEST), manifest(&draft, &head, &model, &found)).map_err(failed)?;
    if let Some(labels) = &head.labels {
        std::fs::write(dir.join("labels.txt"), labels.join("\n") + "\n").map_err(failed)?;
    }
    let problem =
        Bundle::open(dir).map_err(Failure::from).and_then(|b| Ok(Pipeline::load(&b, &Options::default())?)).err();
    let here = dir.display().to_string();
    let mut next: Vec<String> = head.next.iter().map(|step| step.replace("DIR", &here)).collect();
    if draft.source == "text" {
        next.push(format!("copy the tokenizer.json of the model into {}", dir.display()));
    }
    let sample = match draft.source {
        "camera" => "--camera PICTURE.jpg --speed max",
        "mic" => "--mic SOUND.wav --speed max",
        "text" => "--text -",
        _ => "--config FILE.toml",
    };
    next.push(format!("run it: attendant run --bundle {} {sample}", dir.display()));
    Ok(Drafted { dir: dir.to_owned(), guesses: draft.guesses, problem: problem.map(|p| p.to_string()), next })
}

/// What the inputs are.
fn of_inputs(found: &Inspection) -> Result<Draft, Failure> {
    let pairs = state_pairs(&found.inputs, &found.outputs);
    let others = || found.inputs.iter().filter(|i| pairs.iter().all(|(input, _)| *input != i.name));
    let main = others()
        .find(|i| i.dtype == "f32" && i.shape.len() > 1)
        .or_else(|| others().find(|i| i.dtype == "i64" && i.shape.len() == 2));
    let Some(main) = main else {
        let all: Vec<String> = found.inputs.iter().map(|i| format!("{} {} {:?}", i.name, i.dtype, i.shape)).collect();
        let message = format!(
            "{}: no input that takes samples: {}; expected f32 of 2 to 4 dimensions, or i64 [1, tokens]",
            found.file,
            all.join(", ")
        );
        return Err(Failure::Check(message));
    };
    let mut guesses = Vec::new();
    let constants: Vec<ConstantSpec> = others()
        .filter(|i| i.name != main.name)
        .map(|i| {
            let name = i.name.to_lowercase();
            let value = if name == "sr" || name.contains("rate") {
                RATE_HZ as f64
            } else if name.contains("mask") {
                1.0
            } else {
                0.0
            };
            guesses.push(format!("input `{}` always has the value {value}: nothing of the samples goes there", i.name));
            ConstantSpec { input: i.name.clone(), value }
        })
        .collect();
    for (input, output) in &pairs {
        guesses.push(format!(
            "output `{output}` is carried to input `{input}` of the next run: their names and shapes say so"
        ));
    }
    let (source, tables, shape, picture) = kind(main, &pairs, &mut guesses)?;
    let states = pairs.into_iter().map(|(input, output)| StateSpec { input, output }).collect();
    let dtype = if main.dtype == "i64" { Dtype::I64 } else { Dtype::F32 };
    Ok(Draft { guesses, source, tables, dtype, shape, states, constants, picture })
}

type Kind = (&'static str, String, Vec<usize>, Option<Picture>);

/// The preprocessing that fits the input: source, table, shape; of pictures the table comes later.
fn kind(main: &TensorInfo, pairs: &[(String, String)], guesses: &mut Vec<String>) -> Result<Kind, Failure> {
    let name = main.name.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| name.contains(w));
    let is_mel = |n: usize| [32, 40, 64, 80, 96, 128].contains(&n);
    let dims = &main.shape[..];
    if let Some(dim) = dims.iter().flatten().find(|d| !(1..=DIM_MAX).contains(*d)) {
        let message = format!("input `{}` has a dimension of {dim}, expected 1 to {DIM_MAX}", main.name);
        return Err(Failure::Check(message));
    }
    Ok(match (main.dtype, dims) {
        ("i64", [_, tokens]) => {
            let tokens = or_say(*tokens, 128, "tokens", guesses);
            guesses.push(format!("input `{}` takes token ids: whole numbers in one row", main.name));
            let table = format!(
                "[encoder.text]\ntokenizer = \"tokenizer.json\"   # of the model; copy it here\nmax_tokens = {tokens}\n"
            );
            ("text", table, vec![1, tokens], None)
        }
        (_, [_, Some(1), Some(mels), Some(columns)])
            if is_mel(*mels) && mels != columns && says(&["mel", "spec", "audio", "feat"]) =>
        {
            guesses.push(format!(
                "input `{}` takes {mels} mel bands by {columns} columns: its name and shape say so",
                main.name
            ));
            ("mic", log_mel(*mels, *columns, "nchw"), vec![1, 1, *mels, *columns], None)
        }
        (_, [_, a, b, c]) => {
            let is_nhwc = matches!(c, Some(1 | 3)) && !matches!(a, Some(1 | 3));
            let (channels, height, width) = if is_nhwc { (*c, *a, *b) } else { (*a, *b, *c) };
            let channels = or_say(channels, 3, "channels", guesses);
            if channels != 1 && channels != 3 {
                let message = format!(
                    "input `{}` has {channels} channels, pictures have 1 or 3; draft the manifest by hand (docs/bundle.md)",
                    main.name
                );
                return Err(Failure::Check(message));
            }
            let height = or_say(height, 224, "rows of pixels", guesses);
            let width = or_say(width, 224, "columns of pixels", guesses);
            let layout = if is_nhwc { "nhwc" } else { "nchw" };
            guesses.push(format!("input `{}` takes pictures: four dimensions, {channels} of them channels", main.name));
            let shape = if is_nhwc { vec![1, height, width, channels] } else { vec![1, channels, height, width] };
            let picture = Picture { size: [height, width], channels, layout, convention: Convention::Unit };
            ("camera", String::new(), shape, Some(picture))
        }
        (_, [_, Some(a), Some(b)])
            if (is_mel(*a) || is_mel(*b)) && a != b && says(&["mel", "spec", "audio", "feat"]) =>
        {
            let (mels, columns, layout) = if is_mel(*a) { (*a, *b, "nct") } else { (*b, *a, "ntc") };
            guesses.push(format!(
                "input `{}` takes {mels} mel bands by {columns} columns: its name and shape say so",
                main.name
            ));
            ("mic", log_mel(mels, columns, layout), vec![1, *a, *b], None)
        }
        (_, [_, a, b]) => {
            let (a, b) = (or_say(*a, 3, "channels", guesses), or_say(*b, 100, "readings", guesses));
            let (channels, len, layout) = if a <= b { (a, b, "nct") } else { (b, a, "ntc") };
            if channels > 1024 {
                let message = format!("input `{}` has {channels} channels, expected at most 1024", main.name);
                return Err(Failure::Check(message));
            }
            guesses.push(format!(
                "input `{}` takes {channels} channels by {len} readings of a sensor: three dimensions",
                main.name
            ));
            let names: Vec<String> = (0..channels).map(|i| format!("\"c{i}\"")).collect();
            let table = format!(
                "[encoder.series]\n\
                channels = [{}]   # names, in the order of a reading's values\n\
                window_len = {len}\n\
                hop_len = {}\n\
                mean = [0.0]   # guessed: ask who made the model\n\
                std = [1.0]\n\
                layout = \"{layout}\"\n",
                names.join(", "),
                (len / 2).max(1)
            );
            ("sensor", table, vec![1, a, b], None)
        }
        (_, [_, samples]) => {
            // a model that remembers takes short steps
            let guess = if pairs.is_empty() { RATE_HZ } else { RATE_HZ * 32 / 1000 };
            let samples = or_say(*samples, guess, "samples", guesses);
            let window_ms = samples * 1000 / RATE_HZ;
            if window_ms * RATE_HZ / 1000 != samples || window_ms < 10 {
                let message = format!(
                    "input `{}` takes {samples} numbers in a row: no whole milliseconds of sound at {RATE_HZ} Hz, from 10 on; \
                     draft the manifest by hand (docs/bundle.md)",
                    main.name
                );
                return Err(Failure::Check(message));
            }
            guesses.push(format!(
                "input `{}` takes {window_ms} ms of sound at {RATE_HZ} Hz: numbers in one row",
                main.name
            ));
            let hop_ms = if pairs.is_empty() { (window_ms / 2).max(1) } else { window_ms };
            let table = format!(
                "[encoder.audio]\n\
                sample_rate_hz = {RATE_HZ}   # guessed: ask who made the model\n\
                window_ms = {window_ms}\n\
                hop_ms = {hop_ms}   # from one window to the next\n\
                features = \"waveform\"\n"
            );
            ("mic", table, vec![1, samples], None)
        }
        _ => {
            let message =
                format!("input `{}` is {} {:?}; expected 2 to 4 dimensions", main.name, main.dtype, main.shape);
            return Err(Failure::Check(message));
        }
    })
}

/// A dimension; what stands for one that the file leaves open is said.
fn or_say(dim: Option<usize>, guess: usize, what: &str, guesses: &mut Vec<String>) -> usize {
    dim.unwrap_or_else(|| {
        guesses.push(format!("{guess} {what}: the file leaves it open; ask who made the model"));
        guess
    })
}

/// How pictures become the tensor.
struct Picture {
    size: [usize; 2],
    channels: usize,
    layout: &'static str,
    convention: Convention,
}

/// What people commonly make of pixels before a model sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Convention {
    /// 0 to 1.
    Unit,
    /// -1 to 1.
    Signed,
    /// ImageNet's mean and deviation.
    ImageNet,
    /// 0 to 255, blue first: as OpenCV reads them.
    OpenCv,
}

impl Picture {
    fn table(&self) -> String {
        let Picture { size: [height, width], channels, layout, convention } = self;
        let color = match (channels, convention) {
            (1, _) => "gray",
            (_, Convention::OpenCv) => "bgr",
            _ => "rgb",
        };
        let (mean, std) = match convention {
            Convention::Unit => ("0.0", "1.0"),
            Convention::Signed => ("0.5", "0.5"),
            Convention::ImageNet if *channels == 3 => ("0.485, 0.456, 0.406", "0.229, 0.224, 0.225"),
            Convention::ImageNet => ("0.449", "0.226"),
            Convention::OpenCv => ("0.0", "0.00392156863"),
        };
        format!(
            "[encoder.image]\n\
             size = [{height}, {width}]\n\
             color = \"{color}\"   # models that OpenCV feeds want \"bgr\", most others \"rgb\"\n\
             roi = \"full\"\n\
             resize = \"stretch\"   # or \"contain\" to keep the aspect ratio, with a border\n\
             # Pixels are scaled to [0, 1], then (x - mean) / std. Common:\n\
             #   0 to 1       mean = [0.0], std = [1.0]\n\
             #   -1 to 1      mean = [0.5], std = [0.5]\n\
             #   0 to 255     mean = [0.0], std = [0.00392156863]\n\
             #   ImageNet     mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225]\n\
             mean = [{mean}]\n\
             std = [{std}]\n\
             layout = \"{layout}\"\n"
        )
    }
}

fn log_mel(mels: usize, columns: usize, layout: &str) -> String {
    // columns of 25 ms, 10 ms apart, with an FFT of 32 ms
    let window_ms = (columns - 1) * 10 + 32;
    format!(
        "[encoder.audio]\n\
        sample_rate_hz = {RATE_HZ}   # guessed, as all here but n_mels: ask who made the model\n\
        window_ms = {window_ms}\n\
        hop_ms = {}\n\
        features = \"log-mel\"\n\
        n_mels = {mels}\n\
        layout = \"{layout}\"\n",
        (window_ms / 2).max(1)
    )
}

/// Name, dimensions and origin of the outputs that are not carried.
struct Output {
    name: String,
    shape: Vec<usize>,
    origin: Origin,
}

/// The outputs with the dimensions that the drafted input gives them; of a model that does not load, those of the file.
fn outputs_of(file: &Path, draft: &Draft, found: &Inspection) -> Vec<Output> {
    let fact = InputFact { name: None, dtype: draft.dtype, shape: &draft.shape };
    let model = Model::load_with(file, &[fact], &draft.states, &draft.constants);
    let shape = |info: &TensorInfo| match &model {
        Ok(model) => model.output_shape(&info.name).unwrap_or_default().to_vec(),
        Err(_) => info.shape.iter().enumerate().map(|(i, d)| d.unwrap_or(usize::from(i == 0))).collect(),
    };
    let outputs = found.outputs.iter().zip(&found.origins);
    outputs
        .filter(|(o, _)| draft.states.iter().all(|s| s.output != o.name))
        .map(|(o, origin)| Output { name: o.name.clone(), shape: shape(o), origin: origin.clone() })
        .collect()
}

/// The head's table, its labels, and what is left to do.
#[derive(Default)]
struct HeadDraft {
    table: String,
    labels: Option<Vec<String>>,
    next: Vec<String>,
}

impl Draft {
    /// Takes `convention` for pictures, because of `evidence`.
    fn pixels(&mut self, convention: Convention, evidence: &str) {
        if let Some(picture) = &mut self.picture {
            picture.convention = convention;
            self.guesses.push(match convention {
                Convention::Unit => format!("pixels are 0 to 1, red first: {evidence}"),
                Convention::Signed => format!("pixels are -1 to 1, red first: {evidence}"),
                Convention::ImageNet => {
                    format!("pixels have the mean and the deviation of ImageNet, red first: {evidence}")
                }
                Convention::OpenCv => format!("pixels are 0 to 255, blue first, as OpenCV reads them: {evidence}"),
            });
        }
    }
}

/// Most classes that a draft writes labels for.
const CLASSES_MAX: usize = 100_000;

fn head(draft: &mut Draft, outputs: &[Output], found: &Inspection) -> HeadDraft {
    let is_embedding = |o: &&Output| ["embed", "feat", "descriptor"].iter().any(|w| o.name.to_lowercase().contains(w));
    let rows = |o: &Output| o.shape.len() >= 3 && o.shape[1..].iter().filter(|d| **d > 1).count() >= 2;
    if draft.source == "camera" && (outputs.len() > 2 || outputs.iter().any(rows)) {
        return detection(draft, outputs, found);
    }
    if let Some(output) = outputs.first().filter(|_| outputs.iter().all(|o| is_embedding(&o))) {
        draft.guesses.push(format!("output `{}` is an embedding: its name says so", output.name));
        return HeadDraft {
            table: format!(
                "[encoder.retrieval]\noutput = {:?}\nindex = \"index.bin\"\ntop_k = 5\nmin_similarity = 0.0\n",
                output.name
            ),
            labels: None,
            next: vec![
                "make the index of your pictures or sounds: attendant index DIR FILES... -o DIR/index.bin".into(),
            ],
        };
    }
    let Some(output) = outputs.iter().find(|o| !is_embedding(o)) else { return HeadDraft::default() };
    let n = output.shape.iter().fold(1_usize, |n, d| n.saturating_mul(*d));
    if !(1..=CLASSES_MAX).contains(&n) {
        draft
            .guesses
            .push(format!("output `{}` is {:?}: no head was guessed, see docs/heads.md", output.name, output.shape));
        return HeadDraft::default();
    }
    let activation = match output.origin.operator.as_str() {
        "Softmax" | "Sigmoid" => "none",
        _ if n == 1 => "sigmoid",
        _ => "softmax",
    };
    draft.guesses.push(match output.origin.operator.as_str() {
        op @ ("Softmax" | "Sigmoid") => format!("output `{}` is probabilities: a {op} makes them", output.name),
        op => format!("output `{}` is logits: the last operator is {op}", output.name),
    });
    if draft.source == "mic" && (n == 1 || !draft.states.is_empty()) {
        draft.guesses.push(format!("output `{}` says what goes on: sound, {n} in a window", output.name));
        let tags: Vec<String> = (0..n).map(|i| format!("\"tag_{i}\"")).collect();
        return HeadDraft {
            table: format!(
                "[encoder.tagging]\n\
                output = {:?}\n\
                tags = [{}]   # what each number stands for\n\
                activation = \"{activation}\"\n\
                enter = 0.5\n\
                exit = 0.35\n\
                min_on_ms = 0\n\
                min_off_ms = 100\n",
                output.name,
                tags.join(", ")
            ),
            labels: None,
            next: vec!["name the tags in bundle.toml".into()],
        };
    }
    match n {
        1000 | 1001 => draft.pixels(Convention::ImageNet, "1000 classes are ImageNet's"),
        _ => draft.pixels(Convention::Unit, "nothing says otherwise; ask who made the model"),
    }
    let (labels, next) = labels_of(n, found);
    HeadDraft {
        table: format!(
            "[encoder.classification]\n\
            output = {:?}\n\
            labels = \"labels.txt\"   # one a line, in the order of the output\n\
            activation = \"{activation}\"\n\
            top_k = 5\n\
            min_p = 0.05\n",
            output.name
        ),
        labels: Some(labels),
        next,
    }
}

/// Labels from the file's metadata, or numbers that stand for them.
fn labels_of(n: usize, found: &Inspection) -> (Vec<String>, Vec<String>) {
    if let Some(names) = found.metadata.get("names").and_then(|text| names(text)).filter(|names| names.len() == n) {
        return (names, Vec::new());
    }
    let what = if n == 1 { "the label of the class".into() } else { format!("the {n} class labels, one a line,") };
    let next = vec![format!("write {what} into labels.txt; numbers stand for them meanwhile")];
    ((0..n).map(|i| format!("class_{i}")).collect(), next)
}

/// `{0: 'person', 1: 'car'}`, as exporters of detectors write it.
fn names(text: &str) -> Option<Vec<String>> {
    let inside = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let entries = inside.split(&['\'', '"'][..]).skip(1).step_by(2);
    let names: Vec<String> = entries.filter(|n| !n.chars().all(|c| c.is_ascii_digit())).map(str::to_owned).collect();
    let are_unique = names.iter().enumerate().all(|(i, n)| !n.trim().is_empty() && !names[..i].contains(n));
    (!names.is_empty() && are_unique).then_some(names)
}

/// Candidates of an output, and numbers of each.
fn candidates(output: &Output) -> (usize, usize) {
    match output.shape[..] {
        [_, rows, numbers] => (rows, numbers),
        [_, numbers, height, width] => (height.saturating_mul(width), numbers),
        _ => (0, 0),
    }
}

/// Strides whose cells cover a picture of `size` with `rows` cells.
fn stride_of(rows: usize, [height, width]: [usize; 2]) -> Option<usize> {
    [4, 8, 16, 32, 64, 128].into_iter().find(|s| height.div_ceil(*s) * width.div_ceil(*s) == rows)
}

fn detection(draft: &mut Draft, outputs: &[Output], found: &Inspection) -> HeadDraft {
    let mut table = String::from("[encoder.detection]\n");
    let mut n_classes;
    let size = draft.picture.as_ref().map_or([0, 0], |p| p.size);
    let list =
        |of: &[&Output]| format!("[{}]", of.iter().map(|o| format!("{:?}", o.name)).collect::<Vec<_>>().join(", "));
    let boxes: Vec<&Output> = outputs.iter().filter(|o| candidates(o).1 == 4).collect();
    if boxes.is_empty() {
        // everything of a candidate in one row
        let packed = outputs.iter().max_by_key(|o| o.shape.iter().product::<usize>());
        let Some((rows, numbers)) = packed.map(candidates) else { return HeadDraft::default() };
        let transposed = rows < numbers;
        let (rows, numbers) = if transposed { (numbers, rows) } else { (rows, numbers) };
        // a transposed output is the newer kind, without objectness
        let columns = if transposed { "[\"box\", \"scores\"]" } else { "[\"box\", \"objectness\", \"scores\"]" };
        n_classes = numbers.saturating_sub(if transposed { 4 } else { 5 }).max(1);
        let packed = packed.into_iter().collect::<Vec<_>>();
        draft.guesses.push(format!(
            "output {} has {rows} candidates of {numbers} numbers: a box, then {columns}",
            list(&packed)
        ));
        _ = writeln!(
            table,
            "packed = {}\ncolumns = {columns}\ntransposed = {transposed}\ndecode = \"center\"\nunits = \"pixels\"",
            list(&packed)
        );
    } else {
        let rest: Vec<&Output> = outputs.iter().filter(|o| candidates(o).1 != 4).collect();
        let is_said = |o: &Output, words: &[&str]| words.iter().any(|w| o.name.to_lowercase().contains(w));
        let is_points =
            |o: &&&Output| is_said(o, &["kps", "land", "point", "keyp"]) || (candidates(o).1 == 10 && boxes.len() > 1);
        let points: Vec<&Output> = rest.iter().filter(is_points).copied().collect();
        let objects: Vec<&Output> = rest
            .iter()
            .filter(|o| is_said(o, &["obj", "conf", "iou"]) && rest.len() > boxes.len())
            .filter(|o| !is_points(o))
            .copied()
            .collect();
        let scores: Vec<&Output> = rest
            .iter()
            .filter(|o| !is_points(o) && objects.iter().all(|other| other.name != o.name))
            .copied()
            .collect();
        for (key, of) in [("boxes", &boxes), ("scores", &scores), ("objectness", &objects), ("landmarks", &points)] {
            if !of.is_empty() {
                draft.guesses.push(format!("{key} are {}: their names and numbers say so", list(of)));
                _ = writeln!(table, "{key} = {}", list(of));
            }
        }
        let transposed = boxes[0].shape.len() == 4;
        if transposed {
            table.push_str("transposed = true\n");
        }
        n_classes = scores.first().map_or(1, |o| candidates(o).1);
        // a softmax over classes needs one for "nothing there"
        let background = scores.first().is_some_and(|o| o.origin.operator == "Softmax" && n_classes > 1);
        if background {
            n_classes -= 1;
            draft.guesses.push("the first score is the background: a softmax makes them".into());
            table.push_str("background = true\n");
        }
        let strides: Option<Vec<usize>> = boxes.iter().map(|o| stride_of(candidates(o).0, size)).collect();
        match strides.filter(|_| !boxes.iter().any(|o| o.origin.has_exp)) {
            Some(strides) => {
                let (decode, score) = if objects.is_empty() {
                    ("distances", "product")
                } else {
                    ("grid", if points.is_empty() { "product" } else { "root" })
                };
                draft
                    .guesses
                    .push(format!("boxes are relative to cells of {strides:?} pixels: so many candidates there are"));
                _ = writeln!(
                    table,
                    "decode = \"{decode}\"   # or \"grid\", \"distances\", \"ssd\": docs/heads.md\n\
                    strides = {strides:?}\n\
                    score = \"{score}\""
                );
            }
            None => {
                draft.guesses.push(
                    "boxes are whole, as corners in fractions: an exponential is on their way, or they fit no grid"
                        .into(),
                );
                table.push_str("decode = \"corners\"   # or \"center\"; \"ssd\" with priors if they are not decoded: docs/heads.md\n\
                    units = \"fraction\"   # or \"pixels\"\n");
            }
        }
    }
    match (boxes.is_empty(), boxes.len()) {
        (true, _) => draft.pixels(Convention::Unit, "detectors with one packed output are fed so"),
        (_, 2..) => draft.pixels(Convention::OpenCv, "detectors with outputs for each stride are mostly fed by OpenCV"),
        _ => draft.pixels(Convention::Signed, "detectors with two outputs are mostly of the SSD family"),
    }
    let (labels, next) = labels_of(n_classes.min(CLASSES_MAX), found);
    table.push_str(
        "labels = \"labels.txt\"   # one a line, in the order of the scores\n\
        score_threshold = 0.6\n\
        nms_iou = 0.45\n\
        max_detections = 100\n",
    );
    HeadDraft { table, labels: Some(labels), next }
}

fn manifest(draft: &Draft, head: &HeadDraft, model: &str, found: &Inspection) -> String {
    let stem: String = Path::new(model)
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or("model")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .take(48)
        .collect();
    let mut text = format!("# Drafted from {model}. What was guessed, and from what:\n");
    for guess in &draft.guesses {
        // names come from the file, and a line break in one would end the comment
        let guess: String = guess.chars().filter(|c| !c.is_control()).collect();
        _ = writeln!(text, "# - {guess}");
    }
    for (key, value) in found.metadata.iter().take(20) {
        let value: String = value.chars().filter(|c| !c.is_control()).take(120).collect();
        _ = writeln!(text, "# The file says: {key:?} = {value}");
    }
    _ = write!(
        text,
        "# Every key: docs/bundle.md and docs/heads.md.\n\n\
        [bundle]\n\
        name = \"{stem}\"\n\
        version = \"0.1.0\"\n\n\
        [[encoder]]\n\
        name = \"{stem}\"   # shown in every event\n\
        source = \"{}\"\n\
        model = {model:?}\n",
        draft.source
    );
    if draft.source == "camera" {
        text.push_str("rate_hz = 5   # looks at most so often\n");
    }
    let table = draft.picture.as_ref().map_or_else(|| draft.tables.clone(), Picture::table);
    _ = write!(text, "\n{table}");
    for StateSpec { input, output } in &draft.states {
        _ = write!(text, "\n[[encoder.state]]\ninput = {input:?}\noutput = {output:?}\n");
    }
    for ConstantSpec { input, value } in &draft.constants {
        _ = write!(text, "\n[[encoder.constant]]\ninput = {input:?}\nvalue = {value:?}\n");
    }
    _ = write!(text, "\n{}", head.table);
    text
}
