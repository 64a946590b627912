//! What the events so far add up to: the visit that is under way, and why each modality is as it is.
//!
//! Fed with every event in its order, read by `GET /api/state`, by the check of choices and by the health check. It only repeats what
//! events said; the rules are the pipeline's.

use std::sync::Arc;

use crate::signal::{Decision, DecisionState, Event, EventKind, MUTED, ModalityState, OFFER_HOLDS};
use crate::time::Micros;

/// A modality's last word.
#[derive(Clone, Debug)]
struct Said {
    name: Arc<str>,
    state: ModalityState,
    reason: Arc<str>,
}

/// The fold of all events.
#[derive(Debug, Default)]
pub(super) struct View {
    said: Vec<Said>,
    /// The newest decision that has not been left, and when it came.
    visit: Option<(Decision, Micros)>,
    has_ended: bool,
}

impl View {
    /// Takes the next event.
    pub fn fold(&mut self, event: &Event) {
        if self.said.is_empty() {
            let absent = |name: &Arc<str>| Said { name: name.clone(), state: ModalityState::Absent, reason: "".into() };
            self.said = event.modalities.iter().map(|m| absent(&m.name)).collect();
        }
        match &event.kind {
            EventKind::Decision(decision) if decision.state == DecisionState::Exit => self.visit = None,
            EventKind::Decision(decision) => self.visit = Some((decision.clone(), event.t_us)),
            EventKind::Modality { modality, state, reason } => {
                if let Some(said) = self.said.iter_mut().find(|s| s.name == *modality) {
                    (said.state, said.reason) = (*state, reason.clone());
                }
            }
            EventKind::Start => self.has_ended = false,
            EventKind::End => self.has_ended = true,
            EventKind::Notice { .. } | EventKind::Result { .. } => {}
        }
    }

    /// State and reason of the modality; none if nothing has been said.
    pub fn said(&self, name: &str) -> Option<(ModalityState, &str)> {
        self.said.iter().find(|s| *s.name == *name).map(|s| (s.state, &*s.reason))
    }

    /// Why the modality is in its state; empty if nothing has been said.
    pub fn reason(&self, name: &str) -> &str {
        self.said.iter().find(|s| *s.name == *name).map_or("", |s| &s.reason)
    }

    /// The newest decision, while it holds at `now`: a class until its exit, a question and a call for staff for half a minute.
    pub fn visit(&self, now: Micros) -> Option<&Decision> {
        let (decision, t) = self.visit.as_ref()?;
        let holds = decision.state == DecisionState::Enter || now - *t <= OFFER_HOLDS;
        holds.then_some(decision)
    }

    /// Whether a question that is open at `now` offers `class`.
    pub fn offers(&self, class: &str, now: Micros) -> bool {
        let asked = self.visit(now).filter(|d| d.state == DecisionState::Ask);
        asked.is_some_and(|d| d.choices.iter().any(|c| *c.class == *class))
    }

    /// Why nothing can be decided, if nothing can: every modality is stale, failed or muted.
    pub fn why_stuck(&self) -> Option<String> {
        let is_usable = |s: &Said| match s.state {
            ModalityState::Ok => true,
            ModalityState::Absent => &*s.reason != MUTED,
            ModalityState::Stale | ModalityState::Failed => false,
        };
        if self.has_ended {
            return Some("the run has ended".into());
        }
        if self.said.iter().any(is_usable) {
            return None;
        }
        let why: Vec<String> = self.said.iter().map(|s| format!("{}: {}", s.name, s.reason)).collect();
        Some(if why.is_empty() { "the run has not begun".into() } else { why.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{decision, event};
    use super::*;

    fn says(modality: &str, state: ModalityState, reason: &str) -> EventKind {
        EventKind::Modality { modality: modality.into(), state, reason: reason.into() }
    }

    #[test]
    fn a_question_is_open_until_it_is_answered_or_half_a_minute_old() {
        let mut view = View::default();
        let (early, late) = (Micros::from_ms(31_000), Micros::from_ms(31_001));
        view.fold(&event(0, 1000, decision(DecisionState::Ask, "desk_3", 0.5, "3 or 8?")));
        assert!(view.offers("desk_3", early) && view.offers("desk_8", early) && !view.offers("desk_1", early));
        assert!(!view.offers("desk_3", late) && view.visit(late).is_none());
        view.fold(&event(1, 2000, decision(DecisionState::Enter, "desk_3", 0.9, "3.")));
        assert!(!view.offers("desk_3", early));
        assert_eq!(view.visit(Micros::from_ms(900_000)).map(|d| &*d.class), Some("desk_3"));
        view.fold(&event(2, 3000, decision(DecisionState::Exit, "desk_3", 0.1, "")));
        assert!(view.visit(early).is_none());
    }

    #[test]
    fn nothing_can_be_decided_when_every_modality_is_out() {
        use ModalityState::{Absent, Failed, Ok, Stale};
        let mut view = View::default();
        assert_eq!(view.why_stuck().as_deref(), Some("the run has not begun"));
        view.fold(&event(0, 0, EventKind::Start));
        assert_eq!(view.why_stuck(), None, "all are waited for");
        let steps = [
            (says("card", Failed, "unplugged"), true),
            (says("speech", Stale, "no sound"), true),
            (says("request", Absent, "muted"), false),
            (says("request", Absent, "nothing given"), true),
            (says("request", Absent, "muted"), false),
            (says("card", Ok, "samples arrive"), true),
            (EventKind::End, false),
        ];
        for (i, (kind, works)) in steps.into_iter().enumerate() {
            view.fold(&event(1, 0, kind));
            assert_eq!(view.why_stuck().is_none(), works, "step {i}: {:?}", view.why_stuck());
        }
        view.fold(&event(1, 0, EventKind::Start));
        view.fold(&event(1, 0, says("card", Failed, "unplugged")));
        assert_eq!(view.why_stuck().as_deref(), Some("card: unplugged; speech: no sound; request: muted"));
    }
}
