//! Values of a manifest that parse but cannot work: ranges, pairs of keys that contradict each other, paths that leave the bundle.
//!
//! Needs no file but the manifest. What other files say is [`crate::bundle`]'s; the rules of `[decision]` are checked, with the
//! labels, where they are used.

use std::path::{Component, Path};

use super::manifest::{
    AudioSpec, Color, EncoderSpec, Features, Identity, ImageSpec, IntentSpec, Manifest, Roi, SeriesSpec, StateSpec,
    TextSpec,
};
use super::spans::Step::{self, Item, Key};

/// A value that cannot work, and the way to it in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// For [`super::line_of`].
    pub path: Vec<Step<'static>>,
    /// Key, value, what was expected, the next step.
    pub message: String,
}

pub(super) type Checked = Result<(), Wrong>;

/// Where a check is: the way to a table, and its name in messages.
#[derive(Clone)]
pub(super) struct At {
    path: Vec<Step<'static>>,
    name: String,
}

impl At {
    fn top(key: &'static str) -> At {
        At { path: vec![Key(key)], name: key.to_owned() }
    }

    pub(super) fn table(&self, key: &'static str) -> At {
        At { path: self.to(key), name: format!("{}.{key}", self.name) }
    }

    /// The table at `index` of the list `key`.
    pub(super) fn item(&self, key: &'static str, index: usize) -> At {
        let path = [&self.path[..], &[Key(key), Item(index)]].concat();
        At { path, name: format!("{}.{key}", self.name) }
    }

    pub(super) fn to(&self, key: &'static str) -> Vec<Step<'static>> {
        let mut path = self.path.clone();
        path.push(Key(key));
        path
    }

    /// Fails with the value of `key` unless `ok`.
    pub(super) fn expect(&self, ok: bool, key: &'static str, value: impl std::fmt::Debug, expected: &str) -> Checked {
        if ok {
            return Ok(());
        }
        Err(Wrong { path: self.to(key), message: format!("{}.{key} = {value:?}, expected {expected}", self.name) })
    }

    /// Fails with `message` about `key` unless `ok`.
    pub(super) fn require(&self, ok: bool, key: &'static str, message: &str) -> Checked {
        if ok { Ok(()) } else { Err(Wrong { path: self.to(key), message: format!("{}: {message}", self.name) }) }
    }

    /// Fails unless `file` is a relative path that stays inside the bundle.
    pub(super) fn file(&self, key: &'static str, file: &str) -> Checked {
        let inside = !file.is_empty() && Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
        self.expect(inside, key, file, "a path inside the bundle, without `..` and without a leading `/`")
    }

    fn name(&self, key: &'static str, name: &str) -> Checked {
        let ok = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        self.expect(ok, key, name, "1 to 64 letters, digits, `_` or `-`: it is a key of every event")
    }

    fn temperature(&self, value: f32) -> Checked {
        self.expect(
            value.is_finite() && value > 0.0,
            "temperature",
            value,
            "a number above 0; 1 leaves the logits as they are",
        )
    }

    fn scale(&self, mean: &[f32], std: &[f32], channels: usize) -> Checked {
        let one_each = format!("1 value, or one for each of the {channels} channels");
        self.expect(mean.len() == 1 || mean.len() == channels, "mean", mean, &one_each)?;
        self.expect(std.len() == 1 || std.len() == channels, "std", std, &one_each)?;
        self.expect(mean.iter().all(|x| x.is_finite()), "mean", mean, "finite numbers")?;
        self.expect(std.iter().all(|x| x.is_finite() && *x > 0.0), "std", std, "numbers above 0: it is divided by")
    }
}

/// Checks everything about `manifest` that can be known without another file.
///
/// # Errors
/// The first value that cannot work, in the order of the file.
pub fn check_manifest(manifest: &Manifest) -> Checked {
    identity(&manifest.bundle)?;
    let list = At::top("encoder");
    if manifest.encoder.is_empty() {
        return Err(Wrong { path: list.path, message: "there is no [[encoder]]; add one for each modality".into() });
    }
    for (i, encoder) in manifest.encoder.iter().enumerate() {
        let at = At { path: vec![Key("encoder"), Item(i)], name: format!("encoder \"{}\"", encoder.name) };
        let is_unique = manifest.encoder[..i].iter().all(|other| other.name != encoder.name);
        at.expect(is_unique, "name", &encoder.name, "a name that no other encoder has")?;
        self::encoder(&at, encoder)?;
        let has_own_labels = encoder.labels.is_some();
        if manifest.fusion.is_some() {
            at.require(
                !has_own_labels,
                "labels",
                "labels is for bundles without [fusion]; remove it, [fusion] has the labels",
            )?;
        } else {
            at.require(
                has_own_labels || encoder.has_head(),
                "name",
                "missing key `labels`: without [fusion] the encoder's own logits decide; add it, or a head such as [encoder.classification]",
            )?;
        }
    }
    match &manifest.fusion {
        Some(fusion) => {
            let at = At::top("fusion");
            at.file("model", &fusion.model)?;
            at.expect((1..=3_600_000).contains(&fusion.max_age_ms), "max_age_ms", fusion.max_age_ms, "1 to 3600000")?;
            at.file("labels", &fusion.labels)?;
            at.temperature(fusion.temperature)?;
        }
        // encoders with nothing but heads do not decide, and may be many
        None if manifest.encoder.len() > 1 && manifest.encoder.iter().any(|e| !e.has_head() || e.labels.is_some()) => {
            let message = format!(
                "there are {} encoders and no [fusion]; add it, keep one encoder, or give each a head and none `labels`",
                manifest.encoder.len()
            );
            return Err(Wrong { path: vec![Key("encoder"), Item(1)], message });
        }
        None => {}
    }
    if let Some(advice) = &manifest.advice {
        At::top("advice").file("catalogue", &advice.catalogue)?;
    }
    if let Some(demo) = &manifest.demo {
        At::top("demo").file("recording", &demo.recording)?;
    }
    Ok(())
}

fn identity(bundle: &Identity) -> Checked {
    let at = At::top("bundle");
    at.name("name", &bundle.name)?;
    let core = bundle.version.split(['-', '+']).next().unwrap_or_default();
    let is_semantic = core.split('.').count() == 3
        && core.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        && bundle.version.bytes().all(|b| b.is_ascii_graphic());
    at.expect(is_semantic, "version", &bundle.version, "a semantic version such as 1.0.0")
}

fn encoder(at: &At, encoder: &EncoderSpec) -> Checked {
    at.name("name", &encoder.name)?;
    at.name("source", &encoder.source)?;
    at.file("model", &encoder.model)?;
    if let Some(labels) = &encoder.labels {
        at.file("labels", labels)?;
    }
    if let Some(rate) = encoder.rate_hz {
        at.expect(rate.is_finite() && rate > 0.0 && rate <= 1000.0, "rate_hz", rate, "a number above 0, at most 1000")?;
    }
    at.temperature(encoder.temperature)?;

    let kinds = [
        ("image", encoder.image.is_some(), encoder.source == "camera"),
        ("audio", encoder.audio.is_some(), encoder.source == "mic"),
        ("text", encoder.text.is_some(), encoder.source == "text"),
        ("series", encoder.series.is_some(), !["camera", "mic", "text"].contains(&encoder.source.as_str())),
    ];
    let given: Vec<&str> = kinds.iter().filter(|k| k.1).map(|k| k.0).collect();
    let [kind] = given[..] else {
        let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        let message = format!("expected exactly one of [encoder.image], .audio, .text, .series; found {found}");
        return at.require(false, "name", &message);
    };
    let fits = kinds.iter().any(|k| k.1 && k.2);
    let expected = format!(
        "the source of an encoder with [encoder.{kind}]: camera for image, mic for audio, text for text, a sensor for series"
    );
    at.expect(fits, "source", &encoder.source, &expected)?;
    if let Some(image) = &encoder.image {
        self::image(&at.table("image"), image)?;
    }
    if let Some(audio) = &encoder.audio {
        self::audio(&at.table("audio"), audio)?;
    }
    if let Some(text) = &encoder.text {
        self::text(&at.table("text"), text)?;
    }
    if let Some(series) = &encoder.series {
        self::series(&at.table("series"), series)?;
    }
    if let Some(intents) = &encoder.intents {
        self::intents(&at.table("intents"), intents)?;
    }
    states(at, &encoder.state)?;
    super::check_heads::check(at, encoder)
}

fn image(at: &At, image: &ImageSpec) -> Checked {
    at.expect(
        image.size.iter().all(|n| (1..=4096).contains(n)),
        "size",
        image.size,
        "[height, width], each 1 to 4096",
    )?;
    if let Roi::Rect(rect) = image.roi {
        let [left, top, width, height] = rect;
        let is_inside = rect.iter().all(|x| x.is_finite() && *x >= 0.0)
            && width > 0.0
            && height > 0.0
            && left + width <= 1.0001
            && top + height <= 1.0001;
        at.expect(is_inside, "roi", rect, "[left, top, width, height] as fractions of the frame, inside it")?;
    }
    at.scale(&image.mean, &image.std, if image.color == Color::Gray { 1 } else { 3 })
}

fn audio(at: &At, audio: &AudioSpec) -> Checked {
    let rate = audio.sample_rate_hz;
    at.expect((4000..=192_000).contains(&rate), "sample_rate_hz", rate, "4000 to 192000")?;
    at.expect((10..=60_000).contains(&audio.window_ms), "window_ms", audio.window_ms, "10 to 60000")?;
    at.expect((1..=60_000).contains(&audio.hop_ms), "hop_ms", audio.hop_ms, "1 to 60000")?;
    if audio.features == Features::Waveform {
        return Ok(());
    }
    let n_fft = audio.n_fft;
    at.expect(
        (16..=65_536).contains(&n_fft) && n_fft.is_multiple_of(2),
        "n_fft",
        n_fft,
        "an even number from 16 to 65536",
    )?;
    let samples = |ms: f32| f64::from(ms) * f64::from(rate) / 1000.0;
    let window = samples(audio.window_ms as f32);
    at.expect(n_fft as f64 <= window, "n_fft", n_fft, &format!("at most the window's {window} samples"))?;
    let fits = audio.win_ms.is_finite() && samples(audio.win_ms) >= 2.0 && samples(audio.win_ms) <= n_fft as f64;
    at.expect(fits, "win_ms", audio.win_ms, &format!("2 samples to n_fft = {n_fft} samples"))?;
    let fits = audio.step_ms.is_finite() && samples(audio.step_ms) >= 1.0 && samples(audio.step_ms) <= window;
    at.expect(fits, "step_ms", audio.step_ms, "1 sample to the window's length")?;
    at.expect((1..=512).contains(&audio.n_mels), "n_mels", audio.n_mels, "1 to 512")?;
    let nyquist = rate as f32 / 2.0;
    at.expect(audio.fmin_hz >= 0.0 && audio.fmin_hz < nyquist, "fmin_hz", audio.fmin_hz, "0 to half the sample rate")?;
    let fmax = audio.fmax_hz.unwrap_or(nyquist);
    let expected = format!("above fmin_hz = {}, at most half the sample rate", audio.fmin_hz);
    at.expect(fmax > audio.fmin_hz && fmax <= nyquist, "fmax_hz", fmax, &expected)
}

fn text(at: &At, text: &TextSpec) -> Checked {
    at.file("tokenizer", &text.tokenizer)?;
    at.expect((1..=4096).contains(&text.max_tokens), "max_tokens", text.max_tokens, "1 to 4096")?;
    at.expect(text.pad_id >= 0, "pad_id", text.pad_id, "a token id, 0 or above")?;
    at.expect((1..=1 << 20).contains(&text.max_bytes), "max_bytes", text.max_bytes, "1 to 1048576")?;
    at.expect(text.hold_ms >= 1, "hold_ms", text.hold_ms, "at least 1")?;
    at.expect((0.0..=1.0).contains(&text.distinct_min), "distinct_min", text.distinct_min, "0 to 1")?;
    at.expect((0.0..=1.0).contains(&text.signs_max), "signs_max", text.signs_max, "0 to 1")
}

fn series(at: &At, series: &SeriesSpec) -> Checked {
    let names = &series.channels;
    let are_unique = names.iter().enumerate().all(|(i, n)| !n.is_empty() && !names[..i].contains(n));
    at.expect(!names.is_empty() && names.len() <= 1024 && are_unique, "channels", names, "1 to 1024 different names")?;
    at.expect((1..=65_536).contains(&series.window_len), "window_len", series.window_len, "1 to 65536 readings")?;
    at.expect((1..=65_536).contains(&series.hop_len), "hop_len", series.hop_len, "1 to 65536 readings")?;
    at.scale(&series.mean, &series.std, names.len())
}

fn intents(at: &At, intents: &IntentSpec) -> Checked {
    at.expect(!intents.output.is_empty(), "output", &intents.output, "the name of an output of the model")?;
    at.file("labels", &intents.labels)?;
    at.temperature(intents.temperature)?;
    at.expect((0.0..=1.0).contains(&intents.threshold), "threshold", intents.threshold, "a probability from 0 to 1")
}

fn states(at: &At, states: &[StateSpec]) -> Checked {
    for (i, state) in states.iter().enumerate() {
        let at = at.item("state", i);
        for (key, value) in [("input", &state.input), ("output", &state.output)] {
            at.expect(!value.is_empty(), key, value, "the name of a tensor of the model")?;
        }
        let others = &states[..i];
        at.expect(
            others.iter().all(|o| o.input != state.input),
            "input",
            &state.input,
            "an input that no other state has",
        )?;
        at.expect(
            others.iter().all(|o| o.output != state.output),
            "output",
            &state.output,
            "an output that no other state has",
        )?;
    }
    Ok(())
}
