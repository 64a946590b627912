//! Scripted sources: what they deliver, and how they fail, is written down beforehand. For tests of whatever uses a source.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use crate::capture::{Camera, CaptureError, ErrorKind, Mic, Sensor, TextSource};
use crate::signal::{AudioBlock, Frame, Reading, Utterance};

/// Outcome of one call.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<T> {
    /// The call delivers this.
    Deliver(T),
    /// The call fails; a timeout is [`ErrorKind::Retry`].
    Fail(ErrorKind),
    /// The call panics, as a driver might.
    Panic,
}

/// A source that follows a script, one step a call, and then is at its end.
///
/// `Fake<Frame>` is a [`Camera`], `Fake<AudioBlock>` a [`Mic`], `Fake<Utterance>` a [`TextSource`], `Fake<Reading>` a [`Sensor`].
/// Clones share the script: a clone is the same device opened again.
#[derive(Debug)]
pub struct Fake<T> {
    name: String,
    script: Arc<Mutex<VecDeque<Step<T>>>>,
}

impl<T> Clone for Fake<T> {
    fn clone(&self) -> Self {
        Fake { name: self.name.clone(), script: Arc::clone(&self.script) }
    }
}

impl<T> Fake<T> {
    /// A source called `name` that follows `script`.
    pub fn new(name: &str, script: impl IntoIterator<Item = Step<T>>) -> Self {
        Fake { name: name.into(), script: Arc::new(Mutex::new(script.into_iter().collect())) }
    }

    /// Steps not yet taken.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn step(&self, into: &mut T) -> Result<(), CaptureError> {
        let step = self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match step {
            Some(Step::Deliver(mut sample)) => {
                mem::swap(into, &mut sample);
                Ok(())
            }
            Some(Step::Fail(kind)) => Err(CaptureError::new(kind, &*self.name, "the script says so")),
            Some(Step::Panic) => panic!("{}: the script says so", self.name),
            None => Err(CaptureError::end(&*self.name)),
        }
    }
}

impl Camera for Fake<Frame> {
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError> {
        self.step(into)
    }
}

impl Mic for Fake<AudioBlock> {
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError> {
        self.step(into)
    }
}

impl TextSource for Fake<Utterance> {
    fn next(&mut self, into: &mut Utterance) -> Result<(), CaptureError> {
        self.step(into)
    }
}

impl Sensor for Fake<Reading> {
    fn read(&mut self, into: &mut Reading) -> Result<(), CaptureError> {
        self.step(into)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::time::Micros;

    #[test]
    fn a_script_is_followed_across_a_panic_and_a_reopening() {
        let reading = |t| Reading { t: Micros(t), values: vec![t as f32] };
        let script = [Step::Deliver(reading(1)), Step::Fail(ErrorKind::Retry), Step::Panic, Step::Deliver(reading(2))];
        let mut fake = Fake::new("sensor", script);
        let mut into = Reading::default();
        fake.read(&mut into).unwrap();
        assert_eq!(into, reading(1));
        assert_eq!(fake.read(&mut into).unwrap_err().kind, ErrorKind::Retry);
        assert!(catch_unwind(AssertUnwindSafe(|| fake.read(&mut into))).is_err());
        let mut reopened = fake.clone();
        drop(fake);
        assert_eq!(reopened.remaining(), 1);
        reopened.read(&mut into).unwrap();
        assert_eq!(into, reading(2));
        assert_eq!(reopened.read(&mut into).unwrap_err().kind, ErrorKind::End);
    }
}
