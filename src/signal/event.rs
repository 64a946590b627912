//! What leaves the program: one [`Event`] is one JSON line. The schema is described in docs/events.md.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::result::Found;
use crate::time::Micros;

/// Version of the event schema, `v` of every line. Grows when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// Most encoders, and so modalities, in one bundle.
pub const MAX_MODALITIES: usize = 8;

/// Most alternatives in a question to the visitor.
pub const MAX_CHOICES: usize = 3;

/// How long a question may be answered by a choice: the time to read it, think, and reach for the screen.
pub const OFFER_HOLDS: Micros = Micros::from_ms(30_000);

/// Whether a modality took part in a decision, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModalityState {
    /// Its token is fresh and took part.
    Ok,
    /// It has delivered, but its last token is older than the bundle's `max_age_ms`.
    Stale,
    /// It has delivered nothing yet, or nothing is expected of it.
    #[default]
    Absent,
    /// Its source or its encoder reports an error.
    Failed,
}

/// Why a modality is [`ModalityState::Absent`] when somebody has muted its source.
pub const MUTED: &str = "muted";

/// One modality's part in a decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModalityView {
    /// Name of the encoder in the bundle.
    pub name: Arc<str>,
    /// Attention of the fusion on this token, 0 when it is masked. Weights of one event sum to 1, or are all 0.
    pub weight: f32,
    /// Drop of p(class) when this modality alone is masked out (leave-one-out); negative when it spoke against.
    pub contribution: f32,
    /// Age of the token at the time of the event.
    pub age: Option<Micros>,
    /// Whether it took part.
    pub state: ModalityState,
}

/// What was counted in one modality since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StageCounters {
    /// Windows encoded.
    pub windows: u64,
    /// Samples skipped because of `rate_hz`.
    pub skipped: u64,
    /// Samples and windows left out because the board was too hot or too busy.
    pub shed: u64,
    /// Samples that could not be preprocessed or encoded.
    pub errors: u64,
    /// Times the source reported a fault.
    pub faults: u64,
    /// Samples left out because somebody muted the source, or the device was talking.
    pub muted: u64,
}

/// What the visitor is told.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Advice {
    /// Key in the bundle's catalogue: a class, an intent, or a rule such as `ask` and `escalate`.
    pub id: Arc<str>,
    /// BCP 47 tag of `text`.
    pub lang: Arc<str>,
    /// What to show or say.
    pub text: Arc<str>,
}

/// One alternative of a question.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Choice {
    /// Class label.
    pub class: Arc<str>,
    /// Fused probability.
    pub p: f32,
}

/// What changed with a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DecisionState {
    /// The class has been decided.
    Enter,
    /// The class that was decided no longer holds; the visit goes on or has ended.
    Exit,
    /// Two or three classes are too close: "did you mean 3 or 8?".
    Ask,
    /// Repeated failures within a visit: staff is called.
    Escalate,
}

/// What led to a decision, where it was not the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DecidedBy {
    /// The visitor chose the class on a page.
    Choice,
}

/// A decision and what follows from it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Decision {
    /// Class label; for [`DecisionState::Ask`] the likelier one.
    pub class: Arc<str>,
    /// Fused, smoothed, calibrated probability of `class`.
    pub p: f32,
    /// What changed.
    pub state: DecisionState,
    /// What led to it, if not the samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<DecidedBy>,
    /// Intent of the request that took part, if an encoder with intents did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<Arc<str>>,
    /// What the visitor is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<Advice>,
    /// The alternatives of an [`DecisionState::Ask`], likeliest first.
    #[serde(skip_serializing_if = "heapless::Vec::is_empty")]
    pub choices: heapless::Vec<Choice, MAX_CHOICES>,
}

/// What happened; `kind` of the line.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// The pipeline is ready.
    Start,
    /// A decision.
    Decision(Decision),
    /// A modality changed its state.
    Modality {
        /// Name of the encoder.
        modality: Arc<str>,
        /// The state it is in from here on.
        state: ModalityState,
        /// Why.
        reason: Arc<str>,
    },
    /// A source that delivers, or the board, has something to say that changes no modality's state.
    Notice {
        /// Name of the source, or `board`.
        source: Arc<str>,
        /// One word: `silent`, `clipped`, `drift`, `ok` of a microphone; `shed`, `ok` of the board.
        notice: Arc<str>,
        /// What was seen, for people.
        reason: Arc<str>,
    },
    /// What an encoder's head found in a window.
    Result {
        /// Name of the encoder.
        encoder: Arc<str>,
        /// Capture time of what it looked at: of the frame, of the end of the window.
        of_us: Micros,
        /// What. Shared with the head, which writes into it again once every sink has let go.
        #[serde(flatten)]
        found: Arc<Found>,
    },
    /// The sources have ended, or the program was asked to stop.
    End,
}

/// One line of the event stream.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Event {
    /// [`SCHEMA_VERSION`].
    pub v: u32,
    /// Counts up from 0 without holes; a hole at a reader is an event that was dropped and counted.
    pub seq: u64,
    /// When, on the clock of the samples.
    pub t_us: Micros,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
    /// Every modality of the bundle, in its order.
    #[serde(serialize_with = "as_map")]
    pub modalities: heapless::Vec<ModalityView, MAX_MODALITIES>,
    /// `name@version` of the bundle.
    pub bundle: Arc<str>,
    /// Name of the board the binary was built for.
    pub board: &'static str,
}

/// A modality without its name, which is the key of the map.
#[derive(serde::Serialize)]
struct ModalityBody {
    weight: f32,
    contribution: f32,
    age_ms: Option<u64>,
    state: ModalityState,
}

fn as_map<S: Serializer>(
    views: &heapless::Vec<ModalityView, MAX_MODALITIES>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(views.len()))?;
    for v in views {
        let body = ModalityBody {
            weight: round4(v.weight),
            contribution: round4(v.contribution),
            age_ms: v.age.map(Micros::as_ms),
            state: v.state,
        };
        map.serialize_entry(&*v.name, &body)?;
    }
    map.end()
}

/// Four decimals are what a reader can use, and keep a line short.
fn round4(x: f32) -> f32 {
    (x * 1e4).round() / 1e4
}

impl ModalityView {
    /// A modality of which nothing is known yet.
    #[must_use]
    pub fn absent(name: Arc<str>) -> Self {
        ModalityView { name, ..ModalityView::default() }
    }
}

impl Event {
    /// The event as one line of JSON, without the line break, appended to `line`.
    ///
    /// # Errors
    /// None in practice: every field serializes; the signature is serde's.
    pub fn write_json(&self, line: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        self.serialize(&mut serde_json::Serializer::new(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_documented_line() {
        let card = ModalityView {
            name: "card".into(),
            weight: 0.312_345,
            contribution: 0.22,
            age: Some(Micros::from_ms(60)),
            state: ModalityState::Ok,
        };
        let event = Event {
            v: SCHEMA_VERSION,
            seq: 42,
            t_us: Micros(81_234_567),
            kind: EventKind::Decision(Decision {
                class: "desk_3".into(),
                p: 0.94,
                state: DecisionState::Enter,
                by: None,
                intent: None,
                advice: Some(Advice { id: "desk_3".into(), lang: "en".into(), text: "Desk 3".into() }),
                choices: heapless::Vec::new(),
            }),
            modalities: heapless::Vec::from_slice(&[card, ModalityView::absent("request".into())]).unwrap(),
            bundle: "kiosk@1.0.0".into(),
            board: "pi5",
        };
        let mut line = Vec::new();
        event.write_json(&mut line).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            concat!(
                r#"{"v":1,"seq":42,"t_us":81234567,"kind":"decision","class":"desk_3","p":0.94,"state":"enter","#,
                r#""advice":{"id":"desk_3","lang":"en","text":"Desk 3"},"#,
                r#""modalities":{"card":{"weight":0.3123,"contribution":0.22,"age_ms":60,"state":"ok"},"#,
                r#""request":{"weight":0.0,"contribution":0.0,"age_ms":null,"state":"absent"}},"#,
                r#""bundle":"kiosk@1.0.0","board":"pi5"}"#
            )
        );
    }
}
