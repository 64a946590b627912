//! Events on output lines: a relay, a lamp, a bell, by `embedded-hal` pin.
//!
//! Each line follows one thing: a class that is decided, any class, a question, a call for staff, a modality that has failed. What
//! a state shows stays as long as the state; what only happens, a question or a call, is shown for a while. The supervisor's
//! ticks end that while.

use std::io;

use embedded_hal::digital::OutputPin;

use crate::signal::{DecisionState, Event, EventKind, ModalityState};
use crate::time::Micros;

use super::{Sink, SinkError};

/// What a line shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// This class is decided.
    Class(String),
    /// Some class is decided.
    Decided,
    /// The visitor is asked back.
    Ask,
    /// Staff is called.
    Escalate,
    /// A modality has failed.
    Failed,
}

impl Trigger {
    /// `decided`, `ask`, `escalate`, `failed`, or the label of a class.
    #[must_use]
    pub fn parse(word: &str) -> Self {
        match word {
            "decided" => Trigger::Decided,
            "ask" => Trigger::Ask,
            "escalate" => Trigger::Escalate,
            "failed" => Trigger::Failed,
            class => Trigger::Class(class.to_owned()),
        }
    }
}

/// What an event means for a line.
enum Wanted {
    Keep,
    On,
    Off,
}

/// One output line that follows the events.
pub struct OutputLine<P> {
    name: String,
    pin: P,
    trigger: Trigger,
    /// How long it stays on; without it, as long as the state.
    pulse: Option<Micros>,
    is_on: bool,
    until: Option<Micros>,
}

impl<P: OutputPin> OutputLine<P> {
    /// A line that is off. `pulse` ends what would else stay on until its state ends.
    pub fn new(name: &str, pin: P, trigger: Trigger, pulse: Option<Micros>) -> Self {
        OutputLine { name: name.into(), pin, trigger, pulse, is_on: false, until: None }
    }

    fn wanted(&self, event: &Event) -> Wanted {
        if matches!(event.kind, EventKind::End) {
            return Wanted::Off;
        }
        if self.trigger == Trigger::Failed {
            let has_failed = event.modalities.iter().any(|m| m.state == ModalityState::Failed);
            return if has_failed { Wanted::On } else { Wanted::Off };
        }
        let EventKind::Decision(decision) = &event.kind else { return Wanted::Keep };
        match (&self.trigger, decision.state) {
            (Trigger::Class(class), DecisionState::Enter) if **class == *decision.class => Wanted::On,
            (Trigger::Decided, DecisionState::Enter) => Wanted::On,
            (Trigger::Ask, DecisionState::Ask) | (Trigger::Escalate, DecisionState::Escalate) => Wanted::On,
            (Trigger::Class(_) | Trigger::Decided, DecisionState::Exit) => Wanted::Off,
            // a question is answered by a decision, and a call ends with its pulse
            (Trigger::Ask, DecisionState::Enter) => Wanted::Off,
            _ => Wanted::Keep,
        }
    }

    fn set(&mut self, on: bool) -> Result<(), SinkError> {
        if on == self.is_on {
            return Ok(());
        }
        let set = if on { self.pin.set_high() } else { self.pin.set_low() };
        set.map_err(|e| SinkError::from_io(&self.name, io::Error::other(format!("the line cannot be set: {e:?}"))))?;
        self.is_on = on;
        Ok(())
    }
}

impl<P: OutputPin + Send> Sink for OutputLine<P> {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        match self.wanted(event) {
            Wanted::Keep => Ok(()),
            Wanted::On => {
                // a state that goes on does not begin again
                if !(self.trigger == Trigger::Failed && (self.is_on || self.until.is_some())) {
                    self.set(true)?;
                    self.until = self.pulse.map(|pulse| event.t_us + pulse);
                }
                Ok(())
            }
            Wanted::Off => {
                self.until = None;
                self.set(false)
            }
        }
    }

    fn tick(&mut self, now: Micros) -> Result<(), SinkError> {
        match self.until {
            Some(until) if now >= until && self.is_on => self.set(false),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::testing::event;
    use super::*;
    use crate::signal::Decision;

    struct Pin(Arc<AtomicBool>);

    impl embedded_hal::digital::ErrorType for Pin {
        type Error = Infallible;
    }

    impl OutputPin for Pin {
        fn set_low(&mut self) -> Result<(), Infallible> {
            self.0.store(false, Ordering::Relaxed);
            Ok(())
        }

        fn set_high(&mut self) -> Result<(), Infallible> {
            self.0.store(true, Ordering::Relaxed);
            Ok(())
        }
    }

    fn decision(class: &str, state: DecisionState) -> EventKind {
        EventKind::Decision(Decision {
            class: class.into(),
            p: 0.9,
            state,
            by: None,
            intent: None,
            advice: None,
            choices: heapless::Vec::new(),
        })
    }

    /// A script of `ENTER desk_3`-like steps a second apart, and the level after each, with a tick before each step.
    fn check(trigger: &str, pulse_ms: Option<u64>, script: &[(&str, &str, bool)]) {
        let level = Arc::new(AtomicBool::new(false));
        let mut line =
            OutputLine::new("lamp", Pin(Arc::clone(&level)), Trigger::parse(trigger), pulse_ms.map(Micros::from_ms));
        let steps = RefCell::new(Vec::new());
        for (i, (what, class, expect)) in script.iter().enumerate() {
            let t_ms = i as u64 * 1000;
            line.tick(Micros::from_ms(t_ms)).unwrap();
            let kind = match *what {
                "enter" => decision(class, DecisionState::Enter),
                "exit" => decision(class, DecisionState::Exit),
                "ask" => decision(class, DecisionState::Ask),
                "escalate" => decision(class, DecisionState::Escalate),
                "end" => EventKind::End,
                _ => EventKind::Start,
            };
            let mut event = event(i as u64, t_ms, kind);
            if let Some(modality) = event.modalities.first_mut() {
                modality.state = if *what == "fails" { ModalityState::Failed } else { ModalityState::Ok };
            }
            line.emit(&event).unwrap();
            steps.borrow_mut().push((*what, level.load(Ordering::Relaxed)));
            assert_eq!(level.load(Ordering::Relaxed), *expect, "{trigger} {pulse_ms:?}: {:?}", steps.borrow());
        }
    }

    #[test]
    fn a_line_follows_its_class() {
        let visit = [
            ("enter", "desk_3", true),
            ("idle", "", true),
            ("exit", "desk_3", false),
            ("enter", "desk_4", false),
            ("exit", "desk_4", false),
            ("enter", "desk_3", true),
            ("end", "", false),
        ];
        check("desk_3", None, &visit);
        check("desk_3", Some(500), &[("enter", "desk_3", true), ("idle", "", false), ("exit", "desk_3", false)]);
    }

    #[test]
    fn a_line_follows_what_is_decided_asked_called_and_broken() {
        check("decided", None, &[("enter", "desk_4", true), ("exit", "desk_4", false)]);
        check("ask", None, &[("ask", "desk_4", true), ("idle", "", true), ("enter", "desk_4", false)]);
        check("escalate", Some(1500), &[("escalate", "desk_4", true), ("idle", "", true), ("idle", "", false)]);
        check("failed", None, &[("fails", "", true), ("fails", "", true), ("idle", "", false)]);
        check(
            "failed",
            Some(1500),
            &[("fails", "", true), ("fails", "", true), ("fails", "", false), ("idle", "", false)],
        );
    }
}
