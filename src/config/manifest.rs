//! `bundle.toml`: what a bundle declares about its encoders, fusion, decision rules and advice.

use serde::Deserialize;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Who the bundle is.
    pub bundle: Identity,
    /// One per modality, at least one. The order is the order of the tokens.
    pub encoder: Vec<EncoderSpec>,
    /// How tokens are fused; without it the only encoder's own logits decide.
    pub fusion: Option<FusionSpec>,
    /// When a fused probability becomes a decision.
    #[serde(default)]
    pub decision: DecisionSpec,
    /// What is said and done about a decision.
    pub advice: Option<AdviceSpec>,
    /// The recording that shows the bundle at work.
    pub demo: Option<DemoSpec>,
}

/// `[bundle]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Shown in every event as `name@version`.
    pub name: String,
    /// Semantic version.
    pub version: String,
}

/// `[[encoder]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// Token name, shown in events.
    pub name: String,
    /// Which source feeds it: `camera`, `mic`, `text`, or a sensor's name.
    pub source: String,
    /// ONNX file. Outputs: `embedding` f32 `[1,D]` (needed with fusion), `logits` f32 `[1,C]` (needed without, to decide).
    pub model: String,
    /// Class labels, one a line, in the order of `logits`: without fusion the encoder decides alone. An encoder with a head
    /// can do without.
    pub labels: Option<String>,
    /// Most runs per second; samples in between are skipped. None: every sample or window.
    pub rate_hz: Option<f32>,
    /// Softmax temperature of the encoder's own logits, from calibration.
    #[serde(default = "one")]
    pub temperature: f32,
    /// Exactly one of the four preprocessings.
    pub image: Option<ImageSpec>,
    /// See `image`.
    pub audio: Option<AudioSpec>,
    /// See `image`.
    pub text: Option<TextSpec>,
    /// See `image`.
    pub series: Option<SeriesSpec>,
    /// Finer classes than the bundle's, from a third output of the model.
    pub intents: Option<IntentSpec>,
    /// Tensors carried from one run to the next (streaming models).
    #[serde(default)]
    pub state: Vec<StateSpec>,
    /// Inputs that always have the same value.
    #[serde(default)]
    pub constant: Vec<ConstantSpec>,
    /// What the model's output means to people; at most one of the four heads.
    pub classification: Option<ClassificationSpec>,
    /// See `classification`.
    pub detection: Option<DetectionSpec>,
    /// See `classification`.
    pub retrieval: Option<RetrievalSpec>,
    /// See `classification`.
    pub tagging: Option<TaggingSpec>,
}

impl EncoderSpec {
    /// Whether it has a head, whose results are events of their own.
    #[must_use]
    pub fn has_head(&self) -> bool {
        self.classification.is_some() || self.detection.is_some() || self.retrieval.is_some() || self.tagging.is_some()
    }
}

/// `[encoder.image]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// `[height, width]` of the tensor.
    pub size: [u32; 2],
    /// Channels of the tensor.
    #[serde(default)]
    pub color: Color,
    /// Which part of the frame is looked at.
    #[serde(default)]
    pub roi: Roi,
    /// How the region meets the size.
    #[serde(default)]
    pub resize: Resize,
    /// Per channel, of pixels scaled to [0, 1]: `(x - mean) / std`.
    #[serde(default = "half")]
    pub mean: Vec<f32>,
    /// See `mean`.
    #[serde(default = "half")]
    pub std: Vec<f32>,
    /// Order of the dimensions.
    #[serde(default)]
    pub layout: Layout,
}

/// Channels of an image tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// One channel, BT.601 luminance.
    #[default]
    Gray,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// Part of a frame, before resizing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Roi {
    /// The whole frame.
    Full,
    /// The largest centred region with the tensor's aspect ratio.
    #[default]
    Center,
    /// Fractions of the frame: `roi = { rect = [left, top, width, height] }`.
    Rect([f32; 4]),
}

/// How a region of another aspect ratio becomes the tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Fill the tensor, cut what hangs over.
    #[default]
    Cover,
    /// Fit into the tensor, pad with the mean.
    Contain,
    /// Change the aspect ratio.
    Stretch,
}

/// Order of an image tensor's dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[1, C, H, W]`
    #[default]
    Nchw,
    /// `[1, H, W, C]`
    Nhwc,
}

/// `[encoder.audio]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioSpec {
    /// Rate the model was trained at; sources of another rate are resampled.
    pub sample_rate_hz: u32,
    /// Length of one window.
    pub window_ms: u32,
    /// From one window to the next.
    pub hop_ms: u32,
    /// What the tensor holds.
    #[serde(default)]
    pub features: Features,
    /// FFT length, samples (log-mel).
    #[serde(default = "n_fft")]
    pub n_fft: usize,
    /// Length of the Hann window inside the FFT, ms (log-mel).
    #[serde(default = "win_ms")]
    pub win_ms: f32,
    /// From one FFT to the next, ms (log-mel).
    #[serde(default = "step_ms")]
    pub step_ms: f32,
    /// Mel bands (log-mel).
    #[serde(default = "n_mels")]
    pub n_mels: usize,
    /// Lower edge of the lowest band, Hz.
    #[serde(default)]
    pub fmin_hz: f32,
    /// Upper edge of the highest band, Hz; half the sample rate if absent.
    pub fmax_hz: Option<f32>,
    /// Order of the tensor's dimensions.
    #[serde(default)]
    pub layout: AudioLayout,
}

/// What an audio tensor holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Features {
    /// `ln(max(mel power, 1e-10))`, mel power as librosa 0.11's `melspectrogram(center=False, power=2, htk=False, norm="slaney")`.
    #[default]
    LogMel,
    /// The samples themselves, `[1, N]`.
    Waveform,
}

/// Order of a log-mel tensor's dimensions. `T = 1 + (window - n_fft) / step`, all in samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioLayout {
    /// `[1, n_mels, T]`
    #[default]
    Nct,
    /// `[1, T, n_mels]`
    Ntc,
    /// `[1, 1, n_mels, T]`
    Nchw,
}

/// `[encoder.text]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    /// A `tokenizer.json` as the `tokenizers` library writes it.
    pub tokenizer: String,
    /// Tokens in the tensor `[1, max_tokens]`; longer text is cut, shorter padded.
    pub max_tokens: usize,
    /// Id of the padding.
    #[serde(default)]
    pub pad_id: i64,
    /// Bytes of text looked at; the rest is dropped and counted.
    #[serde(default = "max_bytes")]
    pub max_bytes: usize,
    /// How long an utterance counts as fresh, ms. Longer than the fusion's `max_age_ms`: a typed line does not repeat itself.
    #[serde(default = "hold_ms")]
    pub hold_ms: u32,
    /// Refuse a text that does not fit into `max_tokens`, instead of reading its beginning.
    #[serde(default)]
    pub whole: bool,
    /// Refuse a text of eight tokens or more of which a smaller share is different: it repeats itself. 0: none.
    #[serde(default)]
    pub distinct_min: f32,
    /// Refuse a text of which a larger share of the characters are signs of programs and pictures, [`is_sign`](crate::preprocess::is_sign). 1: none.
    #[serde(default = "one")]
    pub signs_max: f32,
}

/// `[encoder.series]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesSpec {
    /// Names of the channels, in the order of a reading's values.
    pub channels: Vec<String>,
    /// Readings in one window.
    pub window_len: usize,
    /// Readings from one window to the next.
    pub hop_len: usize,
    /// Per channel: `(x - mean) / std`.
    pub mean: Vec<f32>,
    /// See `mean`.
    pub std: Vec<f32>,
    /// Order of the tensor's dimensions.
    #[serde(default)]
    pub layout: SeriesLayout,
}

/// Order of a series tensor's dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeriesLayout {
    /// `[1, channels, window_len]`
    #[default]
    Nct,
    /// `[1, window_len, channels]`
    Ntc,
}

/// `[encoder.intents]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentSpec {
    /// Name of the model's output, f32 `[1, I]` logits.
    #[serde(default = "intents_output")]
    pub output: String,
    /// Lines `intent class`, in the order of the logits.
    pub labels: String,
    /// Softmax temperature, from calibration.
    #[serde(default = "one")]
    pub temperature: f32,
    /// Below this probability of the likeliest intent the text is out of scope.
    pub threshold: f32,
}

/// `[[encoder.state]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSpec {
    /// Model input that takes the state; zeros at the start and after a gap.
    pub input: String,
    /// Model output that becomes the input of the next run.
    pub output: String,
}

/// `[[encoder.constant]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConstantSpec {
    /// Model input.
    pub input: String,
    /// Every element of it.
    pub value: f64,
}

/// What the numbers of an output are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Probabilities already.
    None,
    /// Logits of alternatives: exactly one holds.
    #[default]
    Softmax,
    /// Logits of independent answers.
    Sigmoid,
}

/// When a head tells what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// Every window.
    #[default]
    Every,
    /// When the answer is another one than in the window before; its numbers alone are no other answer.
    Change,
}

/// `[encoder.classification]`: the likeliest classes of a window.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassificationSpec {
    /// Model output with one number a class; the only output if absent.
    pub output: Option<String>,
    /// Class labels, one a line.
    pub labels: String,
    /// What the numbers are.
    #[serde(default)]
    pub activation: Activation,
    /// Classes told, at most.
    #[serde(default = "top_k")]
    pub top_k: usize,
    /// Less likely classes are left out.
    #[serde(default)]
    pub min_p: f32,
    /// When it is told.
    #[serde(default)]
    pub report: Report,
}

/// How the numbers of a box become a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BoxDecode {
    /// Left, top, right, bottom.
    Corners,
    /// Centre x, centre y, width, height.
    Center,
    /// SSD: offsets of centre and logarithms of size, relative to priors.
    Ssd,
    /// YOLOX and YuNet: offset of the centre from the cell and logarithms of size, in strides.
    Grid,
    /// FCOS and SCRFD: distances of the four edges from the cell's point, in strides.
    Distances,
}

/// In what `corners` and `center` are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BoxUnits {
    /// Fractions of the tensor's width and height.
    #[default]
    Fraction,
    /// Pixels of the tensor.
    Pixels,
}

/// How class and objectness make a score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objectness {
    /// Their product.
    #[default]
    Product,
    /// The root of their product.
    Root,
}

/// A part of the columns of a packed output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Column {
    /// Four numbers of the box.
    Box,
    /// One number.
    Objectness,
    /// One number a class.
    Scores,
    /// Two numbers a point.
    Landmarks,
}

/// `[encoder.detection]`: boxes in a picture. Outputs have one row a candidate; several outputs of one kind follow each other.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionSpec {
    /// Class labels, one a line, without the background; without it there is one class, `object`.
    pub labels: Option<String>,
    /// How boxes are written.
    pub decode: BoxDecode,
    /// Outputs with four numbers of the box.
    #[serde(default)]
    pub boxes: Vec<String>,
    /// Outputs with one number a class.
    #[serde(default)]
    pub scores: Vec<String>,
    /// Outputs with one number.
    #[serde(default)]
    pub objectness: Vec<String>,
    /// Outputs with two numbers a point.
    #[serde(default)]
    pub landmarks: Vec<String>,
    /// Instead of the four above: outputs whose columns hold several of them ...
    #[serde(default)]
    pub packed: Vec<String>,
    /// ... in this order.
    #[serde(default)]
    pub columns: Vec<Column>,
    /// Points of a packed row.
    #[serde(default)]
    pub n_landmarks: usize,
    /// Candidates lie along the last axes: `[1, K, N]` or `[1, K, H, W]`.
    #[serde(default)]
    pub transposed: bool,
    /// Of `corners` and `center`.
    #[serde(default)]
    pub units: BoxUnits,
    /// Pixels from one cell to the next, for `grid`, `distances` and `ssd` with `min_sizes`; one for each level.
    #[serde(default)]
    pub strides: Vec<u32>,
    /// Where in its cell the point of `grid` and `distances` lies: 0 the corner, 0.5 the middle.
    #[serde(default)]
    pub cell_offset: f32,
    /// Candidates in one cell of `grid` and `distances`.
    #[serde(default = "one_each")]
    pub per_cell: usize,
    /// Of `ssd`: sizes of the square priors of each level, pixels.
    #[serde(default)]
    pub min_sizes: Vec<Vec<f32>>,
    /// Of `ssd`, instead of `strides` and `min_sizes`: a file with a line `centre_x centre_y width height` for each prior, in
    /// fractions.
    pub priors: Option<String>,
    /// Of `ssd`: of centre and size.
    #[serde(default = "variances")]
    pub variances: [f32; 2],
    /// What scores and objectness are.
    #[serde(default = "no_activation")]
    pub activation: Activation,
    /// The first column of the scores is the background.
    #[serde(default)]
    pub background: bool,
    /// How class and objectness make a score.
    #[serde(default)]
    pub score: Objectness,
    /// Less sure candidates are left out.
    #[serde(default = "half_of_one")]
    pub score_threshold: f32,
    /// Of two boxes of a class that overlap more (intersection over union) the less sure one is left out.
    #[serde(default = "nms_iou")]
    pub nms_iou: f32,
    /// Boxes told, at most.
    #[serde(default = "max_detections")]
    pub max_detections: usize,
    /// When it is told.
    #[serde(default)]
    pub report: Report,
}

/// `[encoder.retrieval]`: the entries of an index that are most alike.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrievalSpec {
    /// Model output with the embedding; the only output if absent.
    pub output: Option<String>,
    /// The file that `attendant index` made.
    pub index: String,
    /// Entries told, at most.
    #[serde(default = "top_k")]
    pub top_k: usize,
    /// Less alike ones are left out.
    #[serde(default)]
    pub min_similarity: f32,
    /// When it is told.
    #[serde(default)]
    pub report: Report,
}

/// `[encoder.tagging]`: what goes on, from window to window.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaggingSpec {
    /// Model output with one number a tag; the only output if absent.
    pub output: Option<String>,
    /// Names of the tags, in the order of the output.
    pub tags: Vec<String>,
    /// What the numbers are.
    #[serde(default = "no_activation")]
    pub activation: Activation,
    /// A tag is entered at this probability or above ...
    #[serde(default = "half_of_one")]
    pub enter: f32,
    /// ... held for this long ...
    #[serde(default)]
    pub min_on_ms: u32,
    /// ... and left below this one ...
    #[serde(default = "tag_exit")]
    pub exit: f32,
    /// ... for this long.
    #[serde(default)]
    pub min_off_ms: u32,
}

/// `[fusion]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionSpec {
    /// ONNX file. Inputs `tokens` f32 `[1,N,D]`, `mask` bool `[1,N]` (true: takes part), `age_s` f32 `[1,N]`; outputs
    /// `logits` f32 `[1,C]`, `attention` f32 `[1,N]`.
    pub model: String,
    /// Older tokens are masked and called stale.
    pub max_age_ms: u32,
    /// Class labels, one a line, in the order of `logits`.
    pub labels: String,
    /// Softmax temperature of the fused logits, from calibration.
    #[serde(default = "one")]
    pub temperature: f32,
}

/// `[decision]`: from fused probabilities to decisions. docs/decision.md explains every key and how the defaults were chosen.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecisionSpec {
    /// The label that means "nobody asks anything"; it is never decided. Empty: the bundle has no such label.
    pub none: String,
    /// Time constant of the exponential smoothing of the probabilities.
    pub smoothing_ms: u32,
    /// A class is entered at this smoothed probability or above ...
    pub enter: f32,
    /// ... held for this long ...
    pub dwell_ms: u32,
    /// ... and left below this one ...
    pub exit: f32,
    /// ... for this long.
    pub exit_dwell_ms: u32,
    /// After an exit, the same class is not entered again for this long, and an answered question is not repeated.
    pub cooldown_ms: u32,
    /// A fused result holds until the next, but at most for this long: what lies beyond counts as absence.
    pub max_step_ms: u32,
    /// If the two or three likeliest classes together reach `enter` but none does alone, ask after this long.
    pub ask_after_ms: u32,
    /// A choice is offered from this probability on.
    pub ask_min: f32,
    /// Somebody is there but nothing was decided or asked for this long: a failure.
    pub unclear_ms: u32,
    /// Failures in a row within a visit before staff is called; 0: never.
    pub escalate_after: u32,
    /// With nothing but `none` for this long, the visit has ended.
    pub visit_end_ms: u32,
}

impl Default for DecisionSpec {
    /// Chosen so that a spoken word that two 250 ms windows see is entered, and one stray window is not: see docs/decision.md.
    fn default() -> Self {
        DecisionSpec {
            none: "none".into(),
            smoothing_ms: 120,
            enter: 0.8,
            dwell_ms: 180,
            exit: 0.4,
            exit_dwell_ms: 500,
            cooldown_ms: 2000,
            max_step_ms: 1000,
            ask_after_ms: 400,
            ask_min: 0.2,
            unclear_ms: 3000,
            escalate_after: 3,
            visit_end_ms: 5000,
        }
    }
}

/// `[advice]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdviceSpec {
    /// The catalogue file.
    pub catalogue: String,
}

/// `[demo]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoSpec {
    /// MCAP file; its `/truth` channel says what is shown when.
    pub recording: String,
}

fn one() -> f32 {
    1.0
}
fn half() -> Vec<f32> {
    vec![0.5]
}
fn n_fft() -> usize {
    512
}
fn win_ms() -> f32 {
    25.0
}
fn step_ms() -> f32 {
    10.0
}
fn n_mels() -> usize {
    40
}
fn max_bytes() -> usize {
    4096
}
fn hold_ms() -> u32 {
    4000
}
fn top_k() -> usize {
    5
}
fn one_each() -> usize {
    1
}
fn variances() -> [f32; 2] {
    [0.1, 0.2]
}
fn no_activation() -> Activation {
    Activation::None
}
fn half_of_one() -> f32 {
    0.5
}
fn nms_iou() -> f32 {
    0.45
}
fn max_detections() -> usize {
    100
}
fn tag_exit() -> f32 {
    0.35
}
fn intents_output() -> String {
    "intents".into()
}
