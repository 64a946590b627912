//! Rows as a device would meet them: a picture is held before the camera, a clip is heard in silence, a text is typed; and the decision
//! rules decide or not.
//!
//! Times are those of the samples. What lies between two rows is longer than anything that the rules and the modalities remember.

use std::path::Path;
use std::sync::Arc;

use attendant::capture::{image, wav};
use attendant::config::manifest::{DecisionSpec, EncoderSpec};
use attendant::pipeline::{Pipeline, TICK};
use attendant::signal::{AudioBlock, DecisionState, Event, EventKind, Frame, Sample, Utterance};
use attendant::time::Micros;
use indicatif::{ProgressBar, ProgressStyle};

use super::Candidate;
use super::rows::{Row, RowScore};
use crate::cli::Failure;

/// Shortest time that a row is shown.
const SHOWN: Micros = Micros::from_ms(3000);
/// Silence before and after a clip.
const SILENCE: Micros = Micros::from_ms(1000);
/// From one frame to the next, and length of a block of sound.
const STEP: Micros = Micros::from_ms(100);
/// Between two rows, beyond what the bundle says that it remembers.
const PAUSE: Micros = Micros::from_ms(10_000);

/// What was decided of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// A class other than the row's was entered.
    pub wrong: bool,
    /// The row's class was entered.
    pub right: bool,
}

/// A row's inputs, read.
struct Shown {
    frame: Option<Frame>,
    /// With silence around it.
    sound: Option<(Vec<f32>, u32)>,
    text: Option<String>,
}

/// Shows every row of `file` to the bundle's rules; what they decided, in the order of the rows.
pub fn rows(rows: &[Row], each: &[RowScore], candidate: &Candidate, file: &Path) -> Result<Vec<Decided>, Failure> {
    let mut pipeline = candidate.pipeline()?;
    let labels = pipeline.labels().to_vec();
    let encoders = &candidate.bundle.manifest.encoder;
    let pause = PAUSE + remembered(encoders, &candidate.bundle.manifest.decision);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} rows shown  {eta}").expect("a constant template");
    let bar = ProgressBar::new(rows.len() as u64).with_style(style);
    let mut now = Micros::ZERO;
    let mut all = Vec::with_capacity(rows.len());
    for (row, score) in rows.iter().zip(each) {
        let shown = Shown::read(row)?;
        let mut events = Vec::new();
        let end = shown.play(&mut pipeline, encoders, now, &mut events);
        all.push(judge(&events, &labels, score.target));
        if pipeline.fusion_errors() > 0 {
            return Err(Failure::Input(format!("{}:{}: the fusion failed", file.display(), row.line)));
        }
        now = end + pause;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(all)
}

/// The longest time for which a token or a decision matters.
fn remembered(encoders: &[EncoderSpec], decision: &DecisionSpec) -> Micros {
    let held = encoders.iter().filter_map(|e| e.text.as_ref().map(|t| t.hold_ms)).max().unwrap_or(0);
    let rules = [decision.cooldown_ms, decision.visit_end_ms, decision.exit_dwell_ms];
    Micros::from_ms(u64::from(held) + rules.iter().map(|ms| u64::from(*ms)).sum::<u64>())
}

fn judge(events: &[Event], labels: &[Arc<str>], target: usize) -> Decided {
    let mut decided = Decided::default();
    for event in events {
        let EventKind::Decision(decision) = &event.kind else { continue };
        if decision.state == DecisionState::Enter {
            let is_right = *decision.class == *labels[target];
            decided.right |= is_right;
            decided.wrong |= !is_right;
        }
    }
    decided
}

impl Shown {
    fn read(row: &Row) -> Result<Shown, Failure> {
        let frame = match &row.image {
            None => None,
            Some(path) => {
                let mut frame = Frame::default();
                image::read_image(path, &mut frame)?;
                Some(frame)
            }
        };
        let sound = match &row.audio {
            None => None,
            Some(path) => {
                let (clip, rate_hz) = wav::read_clip(path)?;
                let silence = vec![0.0; (SILENCE.0 * u64::from(rate_hz) / 1_000_000) as usize];
                Some(([&silence[..], &clip, &silence].concat(), rate_hz))
            }
        };
        Ok(Shown { frame, sound, text: row.text.clone() })
    }

    /// Plays the row from `begin` on, the inputs together; when it ended.
    fn play(self, pipeline: &mut Pipeline, encoders: &[EncoderSpec], begin: Micros, events: &mut Vec<Event>) -> Micros {
        let source = |of: fn(&EncoderSpec) -> bool| encoders.iter().find(|e| of(e)).map(|e| e.source.as_str());
        let (camera, mic) = (source(|e| e.image.is_some()), source(|e| e.audio.is_some()));
        let typed = source(|e| e.text.is_some());
        let heard = self.sound.as_ref().map_or(Micros::ZERO, |(x, hz)| length(x.len(), *hz));
        let end = begin + SHOWN.max(heard);
        let mut sound = self.sound.as_ref().map(|(x, hz)| (x.chunks(block_len(*hz)), *hz, 0));
        if let (Some(source), Some(text)) = (typed, self.text) {
            pipeline.process(source, &Sample::Text(Utterance { t: begin, text }), begin, events);
        }
        let mut frame = self.frame.map(Sample::Frame);
        let mut now = begin;
        while now < end {
            if let (Some(source), Some(sample)) = (camera, &mut frame) {
                if let Sample::Frame(frame) = &mut *sample {
                    frame.t = now;
                    frame.seq.0 += 1;
                }
                pipeline.process(source, sample, now, events);
            }
            if let (Some(source), Some((blocks, rate_hz, first))) = (mic, &mut sound)
                && let Some(data) = blocks.next()
            {
                let t = begin + length(*first, *rate_hz);
                let mut block =
                    AudioBlock { t, sample_rate_hz: *rate_hz, data: data.to_vec(), ..AudioBlock::default() };
                block.first.0 = *first as u64;
                *first += data.len();
                let complete = begin + length(*first, *rate_hz);
                pipeline.process(source, &Sample::Audio(block), complete, events);
            }
            now = now + STEP.min(TICK);
            pipeline.tick(now, events);
        }
        end
    }
}

fn length(samples: usize, rate_hz: u32) -> Micros {
    Micros(samples as u64 * 1_000_000 / u64::from(rate_hz.max(1)))
}

fn block_len(rate_hz: u32) -> usize {
    ((STEP.0 * u64::from(rate_hz) / 1_000_000) as usize).max(1)
}
