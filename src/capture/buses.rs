//! GPIO lines and I2C buses of Linux as `embedded-hal` traits: the one place that names the `linux_embedded_hal` crate.
//!
//! A chip is found by its label, because its number moves between kernels. What is done with a line or a bus is elsewhere,
//! written against the traits, and tested with fakes: [`super::button`], [`super::indicator`], [`super::sensor::Lm75`], `emit::lines`.

use std::path::Path;

use embedded_hal::digital::{InputPin, OutputPin, PinState};
use embedded_hal::i2c::I2c;
use linux_embedded_hal::gpio_cdev::{self, Chip, LineRequestFlags};
use linux_embedded_hal::{CdevPin, I2cdev};

use crate::capture::{CaptureError, ErrorKind};

/// Who holds a line, as `gpioinfo` shows it.
const CONSUMER: &str = "attendant";

/// One line of one chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineId {
    /// Label of the chip.
    pub label: String,
    /// Its line.
    pub line: u32,
    /// The line is active when its level is low.
    pub active_low: bool,
}

impl std::fmt::Display for LineId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} line {}", self.label, self.line)
    }
}

fn reopen(name: &str, message: impl Into<String>) -> CaptureError {
    CaptureError::new(ErrorKind::Reopen, name, message)
}

fn chip(name: &str, label: &str) -> Result<Chip, CaptureError> {
    let chips = gpio_cdev::chips().map_err(|e| reopen(name, format!("/dev cannot be searched for GPIO chips: {e}")))?;
    let (mut known, mut closed) = (Vec::new(), None);
    for chip in chips {
        match chip {
            Ok(chip) if chip.label() == label => return Ok(chip),
            Ok(chip) => known.push(chip.label().to_owned()),
            Err(e) => closed = Some(e),
        }
    }
    let hint = closed.map_or(String::new(), |e| format!("; one cannot be opened ({e}): `sudo usermod -aG gpio $USER`"));
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(reopen(name, format!("no GPIO chip is called {label:?}; chips here: {known}{hint}")))
}

fn request(name: &str, id: &LineId, mut flags: LineRequestFlags) -> Result<CdevPin, CaptureError> {
    let failed = |e: gpio_cdev::Error| reopen(name, format!("GPIO {id}: {e}; `gpioinfo` shows who holds it"));
    flags.set(LineRequestFlags::ACTIVE_LOW, id.active_low);
    let line = chip(name, &id.label)?.get_line(id.line).map_err(failed)?;
    CdevPin::new(line.request(flags, 0, CONSUMER).map_err(failed)?).map_err(failed)
}

/// A line to set. `High` is active, whatever its level; the crate's own pin takes an inverted line's state for its level.
pub struct Output {
    pin: CdevPin,
}

impl embedded_hal::digital::ErrorType for Output {
    type Error = embedded_hal::digital::ErrorKind;
}

impl OutputPin for Output {
    fn set_low(&mut self) -> Result<(), Self::Error> {
        self.pin.0.set_value(0).map_err(|_| embedded_hal::digital::ErrorKind::Other)
    }

    fn set_high(&mut self) -> Result<(), Self::Error> {
        self.pin.0.set_value(1).map_err(|_| embedded_hal::digital::ErrorKind::Other)
    }

    fn set_state(&mut self, state: PinState) -> Result<(), Self::Error> {
        if state == PinState::High { self.set_high() } else { self.set_low() }
    }
}

/// A line to look at. `High` is active, whatever its level.
pub struct Input {
    pin: CdevPin,
}

impl embedded_hal::digital::ErrorType for Input {
    type Error = embedded_hal::digital::ErrorKind;
}

impl InputPin for Input {
    fn is_high(&mut self) -> Result<bool, Self::Error> {
        self.pin.0.get_value().map(|v| v != 0).map_err(|_| embedded_hal::digital::ErrorKind::Other)
    }

    fn is_low(&mut self) -> Result<bool, Self::Error> {
        self.is_high().map(|high| !high)
    }
}

/// Takes a line for output, inactive.
///
/// # Errors
/// `Reopen`, with the chips that are there.
pub fn output(name: &str, id: &LineId) -> Result<Output, CaptureError> {
    Ok(Output { pin: request(name, id, LineRequestFlags::OUTPUT)? })
}

/// Takes a line for input.
///
/// # Errors
/// As [`output`].
pub fn input(name: &str, id: &LineId) -> Result<Input, CaptureError> {
    Ok(Input { pin: request(name, id, LineRequestFlags::INPUT)? })
}

/// Opens an I2C bus such as `/dev/i2c-1`.
///
/// # Errors
/// `Reopen`, with the next step.
pub fn i2c(name: &str, bus: &Path) -> Result<impl I2c + Send + use<>, CaptureError> {
    I2cdev::new(bus).map_err(|e| {
        let hint = "load i2c-dev, switch the bus on, and let the user into the group i2c";
        reopen(name, format!("{}: {e}; {hint}", bus.display()))
    })
}

/// Label and number of lines of every chip, for `doctor`.
#[must_use]
pub fn chips() -> Vec<(String, u32)> {
    let all = gpio_cdev::chips().into_iter().flatten().flatten();
    all.map(|chip| (chip.label().to_owned(), chip.num_lines())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_or_a_bus_that_is_not_there_may_come_back() {
        let id = LineId { label: "no-such-chip".into(), line: 3, active_low: false };
        let error = output("lamp", &id).err().expect("no such chip");
        assert_eq!(error.kind, ErrorKind::Reopen);
        assert!(
            error.to_string().starts_with("lamp: no GPIO chip is called \"no-such-chip\"; chips here: "),
            "{error}"
        );
        assert!(input("button", &id).is_err());
        let error = i2c("climate", Path::new("/dev/no-such-bus")).err().expect("no such bus");
        assert!(error.kind == ErrorKind::Reopen && error.message.starts_with("/dev/no-such-bus: "), "{error}");
    }
}
