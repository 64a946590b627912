//! How things are: the retained JSON of the topic `state`, folded from the events and from what the run shows.

use std::sync::Arc;

use crate::signal::{Advice, DecisionState, Event, EventKind, MAX_MODALITIES, ModalityState, ModalityView};

/// What no event tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Whether somebody is there.
    pub visit: bool,
    /// Smoothed probability at which a class is entered.
    pub enter: f32,
    /// Smoothed probability below which it is left.
    pub exit: f32,
    /// Tag of the advice's language.
    pub lang: Option<Arc<str>>,
    /// Sources that are muted.
    pub muted: Vec<Arc<str>>,
}

/// The state as the events have left it.
#[derive(Clone, Debug, Default)]
pub struct View {
    t_us: u64,
    events: u64,
    run: &'static str,
    class: Option<Arc<str>>,
    p: Option<f32>,
    decision: Option<DecisionState>,
    advice: Option<Advice>,
    modalities: heapless::Vec<ModalityView, MAX_MODALITIES>,
    bundle: Arc<str>,
    board: &'static str,
}

#[derive(serde::Serialize)]
struct Modality {
    state: ModalityState,
    weight: f32,
    contribution: f32,
}

#[derive(serde::Serialize)]
struct Thresholds {
    enter: f32,
    exit: f32,
}

/// The order of the fields is that of the documentation.
#[derive(serde::Serialize)]
struct Body<'a> {
    v: u32,
    t_us: u64,
    run: &'static str,
    events: u64,
    visit: bool,
    class: Option<&'a str>,
    p: Option<f32>,
    decision: Option<DecisionState>,
    advice: Option<&'a Advice>,
    modalities: std::collections::BTreeMap<&'a str, Modality>,
    muted: &'a [Arc<str>],
    thresholds: Thresholds,
    lang: Option<&'a str>,
    bundle: &'a str,
    board: &'a str,
}

/// Three decimals: thresholds are set with two.
fn round3(x: f32) -> f32 {
    (x * 1e3).round() / 1e3
}

impl View {
    /// Whether any event was taken in.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.events > 0
    }

    /// Takes one event in.
    pub fn fold(&mut self, event: &Event) {
        self.t_us = event.t_us.0;
        self.events += 1;
        if self.bundle != event.bundle {
            self.bundle = Arc::clone(&event.bundle);
        }
        self.board = event.board;
        self.run = if matches!(event.kind, EventKind::End) { "ended" } else { "running" };
        let EventKind::Decision(decision) = &event.kind else {
            // weights belong to decisions: other events have none, and those of the last one stay
            for view in &event.modalities {
                match self.modalities.iter_mut().find(|m| m.name == view.name) {
                    Some(known) => known.state = view.state,
                    None => _ = self.modalities.push(view.clone()),
                }
            }
            return;
        };
        self.modalities.clone_from(&event.modalities);
        self.decision = Some(decision.state);
        self.advice.clone_from(&decision.advice);
        (self.class, self.p) = match decision.state {
            DecisionState::Enter | DecisionState::Ask | DecisionState::Escalate => {
                (Some(Arc::clone(&decision.class)), Some(decision.p))
            }
            DecisionState::Exit => (None, None),
        };
    }

    /// The JSON.
    #[must_use]
    pub fn json(&self, look: &Look) -> Vec<u8> {
        let modality = |m: &ModalityView| Modality {
            state: m.state,
            weight: round3(m.weight),
            contribution: round3(m.contribution),
        };
        let body = Body {
            v: 1,
            t_us: self.t_us,
            run: self.run,
            events: self.events,
            visit: look.visit,
            class: self.class.as_deref(),
            p: self.p.map(round3),
            decision: self.decision,
            advice: self.advice.as_ref(),
            modalities: self.modalities.iter().map(|m| (&*m.name, modality(m))).collect(),
            muted: &look.muted,
            thresholds: Thresholds { enter: round3(look.enter), exit: round3(look.exit) },
            lang: look.lang.as_deref(),
            bundle: &self.bundle,
            board: self.board,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{decision, event};
    use super::*;

    fn json(view: &View, look: &Look) -> serde_json::Value {
        serde_json::from_slice(&view.json(look)).unwrap()
    }

    #[test]
    fn the_state_follows_the_events() {
        let mut view = View::default();
        view.fold(&event(0, 0, EventKind::Start));
        let look = Look { enter: 0.7, exit: 0.45, lang: Some("en".into()), ..Look::default() };
        let state = json(&view, &look);
        assert_eq!((&state["run"], &state["class"], &state["advice"]), (&"running".into(), &().into(), &().into()));
        assert_eq!(state["modalities"]["request"]["state"], "absent");
        view.fold(&event(1, 400, decision(DecisionState::Enter, "desk_3", 0.94, "Go to 3.")));
        let state = json(&view, &Look { visit: true, muted: vec!["mic".into()], ..look.clone() });
        assert_eq!(
            String::from_utf8(view.json(&Look { visit: true, muted: vec!["mic".into()], ..look.clone() })).unwrap(),
            concat!(
                r#"{"v":1,"t_us":400000,"run":"running","events":2,"visit":true,"class":"desk_3","p":0.94,"decision":"enter","#,
                r#""advice":{"id":"desk_3","lang":"en","text":"Go to 3."},"#,
                r#""modalities":{"card":{"state":"ok","weight":0.62,"contribution":0.31},"#,
                r#""request":{"state":"absent","weight":0.0,"contribution":0.0},"#,
                r#""speech":{"state":"ok","weight":0.38,"contribution":0.19}},"#,
                r#""muted":["mic"],"thresholds":{"enter":0.7,"exit":0.45},"lang":"en","bundle":"kiosk@1.0.0","board":"host"}"#
            ),
            "{state:#}"
        );
        view.fold(&event(2, 900, decision(DecisionState::Exit, "desk_3", 0.2, "Bye.")));
        let state = json(&view, &look);
        assert_eq!(
            (&state["class"], &state["decision"], &state["advice"]["text"]),
            (&().into(), &"exit".into(), &"Bye.".into())
        );
        view.fold(&event(3, 1000, EventKind::End));
        assert_eq!(
            (json(&view, &look)["run"].clone(), json(&view, &look)["events"].clone()),
            ("ended".into(), 4.into())
        );
    }

    #[test]
    fn an_event_that_is_no_decision_changes_states_and_keeps_weights() {
        let mut view = View::default();
        view.fold(&event(0, 400, decision(DecisionState::Enter, "desk_3", 0.94, "Go to 3.")));
        let mut failed = event(1, 500, EventKind::Start);
        failed.modalities[0] = ModalityView {
            state: ModalityState::Failed,
            ..ModalityView::absent(Arc::clone(&failed.modalities[0].name))
        };
        view.fold(&failed);
        let state = json(&view, &Look::default());
        assert_eq!(
            state["modalities"]["card"],
            serde_json::json!({ "state": "failed", "weight": 0.62, "contribution": 0.31 })
        );
        assert_eq!(state["class"], "desk_3");
    }
}
