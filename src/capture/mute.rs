//! The hardware mute: a switch on an input line that closes cameras and microphones, whatever the program thinks.
//!
//! It is bound to the devices themselves, as the indicator is: while the line is active no device is opened, and one that is open gives an
//! error at its next look, upon which the supervisor drops it, which closes it, and tries again with backoff until the switch is off. A line
//! that cannot be read counts as active.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use embedded_hal::digital::InputPin;
use log::warn;

use crate::capture::{Camera, CaptureError, Condition, ErrorKind, Mic};
use crate::signal::{AudioBlock, Frame};

/// The switch. Clones are the same switch.
#[derive(Clone, Default)]
pub struct MuteSwitch {
    /// None: there is no switch, and devices are never muted by one.
    line: Option<Arc<Line>>,
}

struct Line {
    /// Whether the line is active.
    read: Mutex<Box<dyn FnMut() -> Result<bool, String> + Send>>,
    /// What the last look found, so that a change is said once.
    was_on: AtomicBool,
}

impl MuteSwitch {
    /// A switch on `pin`: muted while it is active.
    #[must_use]
    pub fn new<P: InputPin + Send + 'static>(mut pin: P) -> Self {
        let read = move || pin.is_high().map_err(|e| format!("{e:?}"));
        MuteSwitch { line: Some(Arc::new(Line { read: Mutex::new(Box::new(read)), was_on: AtomicBool::new(false) })) }
    }

    /// Opens the device, unless the switch is on; the device that is returned fails once it is.
    ///
    /// # Errors
    /// That of `open`; `Reopen` while the switch is on.
    pub fn over<D>(
        &self,
        name: &str,
        open: impl FnOnce() -> Result<D, CaptureError>,
    ) -> Result<Mutable<D>, CaptureError> {
        self.check(name)?;
        Ok(Mutable { device: open()?, name: name.into(), switch: self.clone() })
    }

    fn check(&self, name: &str) -> Result<(), CaptureError> {
        let Some(line) = &self.line else { return Ok(()) };
        let level = (line.read.lock().unwrap_or_else(PoisonError::into_inner))();
        let is_on = *level.as_ref().unwrap_or(&true);
        if line.was_on.swap(is_on, Ordering::Relaxed) != is_on {
            let word = if is_on { "on: cameras and microphones are closed" } else { "off" };
            warn!("mute switch: {word}");
        }
        let message = match level {
            Ok(false) => return Ok(()),
            Ok(true) => "muted by the switch".to_owned(),
            Err(e) => format!("the mute switch cannot be read ({e}); nothing is recorded without it"),
        };
        Err(CaptureError::new(ErrorKind::Reopen, name, message))
    }
}

/// A device that the switch closes.
pub struct Mutable<D> {
    device: D,
    name: String,
    switch: MuteSwitch,
}

impl<D: Camera> Camera for Mutable<D> {
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError> {
        self.switch.check(&self.name)?;
        self.device.capture(into)
    }
}

impl<D: Mic> Mic for Mutable<D> {
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError> {
        self.switch.check(&self.name)?;
        self.device.read(into)
    }

    fn condition(&mut self) -> Option<Condition> {
        self.device.condition()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::fake::{Fake, Step};

    /// A line whose levels follow one after the other, the last one for ever; none is a line that cannot be read.
    struct Levels(Vec<Option<bool>>);

    impl embedded_hal::digital::ErrorType for Levels {
        type Error = embedded_hal::digital::ErrorKind;
    }

    impl InputPin for Levels {
        fn is_high(&mut self) -> Result<bool, Self::Error> {
            let level = if self.0.len() > 1 { self.0.remove(0) } else { self.0[0] };
            level.ok_or(embedded_hal::digital::ErrorKind::Other)
        }

        fn is_low(&mut self) -> Result<bool, Self::Error> {
            self.is_high().map(|high| !high)
        }
    }

    /// What opening and then three reads come to, over a line with these levels.
    fn check(levels: &[Option<bool>], expected: &[&str]) {
        let switch = MuteSwitch::new(Levels(levels.to_vec()));
        let device = Fake::new("camera", (0..4).map(|_| Step::<Frame>::Fail(ErrorKind::Wait)));
        let mut said = Vec::new();
        match switch.over("camera", || Ok(device)) {
            Err(e) => said.push(format!("{:?} {}", e.kind, e.message)),
            Ok(mut device) => {
                said.push("opened".to_owned());
                for _ in 0..3 {
                    let e = device.capture(&mut Frame::default()).expect_err("the script has no frame");
                    said.push(format!("{:?} {}", e.kind, e.message));
                    if e.kind == ErrorKind::Reopen {
                        break;
                    }
                }
            }
        }
        let is_same = said.len() == expected.len() && said.iter().zip(expected).all(|(s, e)| s.starts_with(e));
        assert!(is_same, "{levels:?}: {said:?}, expected {expected:?}");
    }

    #[test]
    fn the_switch_keeps_devices_closed_and_closes_them() {
        let (off, on, broken) = (Some(false), Some(true), None);
        check(&[off], &["opened", "Wait", "Wait", "Wait"]);
        check(&[on], &["Reopen muted by the switch"]);
        check(&[off, off, on], &["opened", "Wait", "Reopen muted by the switch"]);
        check(&[broken], &["Reopen the mute switch cannot be read"]);
        check(&[off, broken], &["opened", "Reopen the mute switch cannot be read"]);
    }

    #[test]
    fn without_a_switch_nothing_is_muted() {
        assert!(MuteSwitch::default().over("mic", || Ok(())).is_ok());
    }
}
