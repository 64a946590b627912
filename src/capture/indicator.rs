//! The recording indicator: a line that is active whenever a camera or a microphone is open, and never claims less.
//!
//! It is bound to the devices themselves. The line is switched on before a device is opened, and only the drop of the last one,
//! after its own drop, switches it off: whatever happens in between, also a panic, cannot let the lamp go out earlier. A line that
//! cannot be switched on keeps the device from being opened.

use std::sync::{Arc, Mutex, PoisonError};

use embedded_hal::digital::OutputPin;
use log::warn;

use crate::capture::{Camera, CaptureError, Condition, ErrorKind, Mic};
use crate::signal::{AudioBlock, Frame};

/// The lamp. Clones are the same lamp.
#[derive(Clone, Default)]
pub struct Indicator {
    /// None: there is no lamp, and nothing to wait for.
    lamp: Option<Arc<Mutex<Lamp>>>,
}

struct Lamp {
    set: Box<dyn FnMut(bool) -> Result<(), String> + Send>,
    open: usize,
}

impl Indicator {
    /// A lamp on `pin`, off.
    #[must_use]
    pub fn new<P: OutputPin + Send + 'static>(mut pin: P) -> Self {
        let set = move |on: bool| if on { pin.set_high() } else { pin.set_low() }.map_err(|e| format!("{e:?}"));
        Indicator { lamp: Some(Arc::new(Mutex::new(Lamp { set: Box::new(set), open: 0 }))) }
    }

    /// Switches on, then opens the device; it stays on until the device that is returned is dropped.
    ///
    /// # Errors
    /// That of `open`; `Reopen` if the line cannot be set.
    pub fn over<D>(
        &self,
        name: &str,
        open: impl FnOnce() -> Result<D, CaptureError>,
    ) -> Result<Indicated<D>, CaptureError> {
        let guard = self.light(name)?;
        Ok(Indicated { device: open()?, _guard: guard })
    }

    fn light(&self, name: &str) -> Result<Guard, CaptureError> {
        if let Some(lamp) = &self.lamp {
            let mut lamp = lamp.lock().unwrap_or_else(PoisonError::into_inner);
            (lamp.set)(true).map_err(|e| {
                let message =
                    format!("the recording indicator cannot be switched on ({e}); nothing is recorded without it");
                CaptureError::new(ErrorKind::Reopen, name, message)
            })?;
            lamp.open += 1;
        }
        Ok(Guard { lamp: self.lamp.clone() })
    }
}

struct Guard {
    lamp: Option<Arc<Mutex<Lamp>>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(lamp) = &self.lamp else { return };
        let mut lamp = lamp.lock().unwrap_or_else(PoisonError::into_inner);
        lamp.open -= 1;
        if lamp.open == 0
            && let Err(e) = (lamp.set)(false)
        {
            warn!("the recording indicator cannot be switched off ({e}); it shows more than there is");
        }
    }
}

/// A device over which the indicator is on.
pub struct Indicated<D> {
    // dropped in this order
    device: D,
    _guard: Guard,
}

impl<D: Camera> Camera for Indicated<D> {
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError> {
        self.device.capture(into)
    }
}

impl<D: Mic> Mic for Indicated<D> {
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError> {
        self.device.read(into)
    }

    fn condition(&mut self) -> Option<Condition> {
        self.device.condition()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// What happened, in order.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<&'static str>>>);

    impl Log {
        fn say(&self, what: &'static str) {
            self.0.lock().unwrap().push(what);
        }
    }

    struct Pin(Log);

    impl embedded_hal::digital::ErrorType for Pin {
        type Error = Infallible;
    }

    impl OutputPin for Pin {
        fn set_low(&mut self) -> Result<(), Infallible> {
            self.0.say("off");
            Ok(())
        }

        fn set_high(&mut self) -> Result<(), Infallible> {
            self.0.say("on");
            Ok(())
        }
    }

    struct Device(Log);

    impl Device {
        fn open(log: &Log) -> Result<Self, CaptureError> {
            log.say("opened");
            Ok(Device(log.clone()))
        }
    }

    impl Drop for Device {
        fn drop(&mut self) {
            self.0.say("closed");
        }
    }

    #[test]
    fn the_lamp_is_on_before_the_first_device_and_until_after_the_last() {
        let log = Log::default();
        let lamp = Indicator::new(Pin(log.clone()));
        let camera = lamp.over("camera", || Device::open(&log)).unwrap();
        let mic = lamp.over("mic", || Device::open(&log)).unwrap();
        drop(camera);
        drop(mic);
        assert!(lamp.over("mic", || Err::<Device, _>(CaptureError::end("mic"))).is_err());
        let expect = ["on", "opened", "on", "opened", "closed", "closed", "off", "on", "off"];
        assert_eq!(*log.0.lock().unwrap(), expect);
    }

    struct Broken;

    impl embedded_hal::digital::ErrorType for Broken {
        type Error = embedded_hal::digital::ErrorKind;
    }

    impl OutputPin for Broken {
        fn set_low(&mut self) -> Result<(), Self::Error> {
            Err(embedded_hal::digital::ErrorKind::Other)
        }

        fn set_high(&mut self) -> Result<(), Self::Error> {
            Err(embedded_hal::digital::ErrorKind::Other)
        }
    }

    #[test]
    fn without_its_lamp_nothing_is_opened() {
        let log = Log::default();
        let error = Indicator::new(Broken).over("camera", || Device::open(&log)).err().expect("the line is broken");
        assert_eq!(error.kind, ErrorKind::Reopen, "{error}");
        assert!(log.0.lock().unwrap().is_empty());
        assert!(Indicator::default().over("camera", || Device::open(&log)).is_ok(), "no lamp, nothing to wait for");
    }
}
