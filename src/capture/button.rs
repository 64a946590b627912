//! An input line as a modality: a button, a door contact, a presence switch.
//!
//! One channel, 1 while the line is active and 0 while it is not, at a steady rate, so that a series encoder sees how long it was
//! pressed. Any `embedded-hal` pin will do.

use std::sync::Arc;

use embedded_hal::digital::InputPin;

use crate::capture::{CaptureError, ErrorKind, Sensor};
use crate::signal::Reading;
use crate::time::{Clock, Micros};

/// Looks between two readings: a press shorter than a reading's period still shows.
const LOOKS: u64 = 4;

/// A line that is read again and again.
pub struct Button<P> {
    name: String,
    pin: P,
    clock: Arc<dyn Clock>,
    period: Micros,
    due: Micros,
    /// Level of the last look, and the one that counts: a contact bounces for less than two looks.
    last: bool,
    settled: bool,
}

impl<P: InputPin> Button<P> {
    /// A reading every `period`, the first after one period.
    pub fn new(name: &str, pin: P, period: Micros, clock: Arc<dyn Clock>) -> Self {
        let due = clock.now() + period;
        Button { name: name.into(), pin, clock, period, due, last: false, settled: false }
    }
}

impl<P: InputPin + Send> Sensor for Button<P> {
    fn read(&mut self, into: &mut Reading) -> Result<(), CaptureError> {
        let begin = self.due.since(self.period).max(self.clock.now().since(self.period));
        let mut was_pressed = false;
        for look in 1..=LOOKS {
            self.clock.sleep_until(begin + Micros(self.period.0 * look / LOOKS));
            let level = self.pin.is_high().map_err(|e| {
                CaptureError::new(ErrorKind::Reopen, &*self.name, format!("the line cannot be read: {e:?}"))
            })?;
            if level == self.last {
                self.settled = level;
            }
            self.last = level;
            was_pressed |= self.settled;
        }
        into.t = self.clock.now();
        self.due = into.t + self.period;
        into.values.clear();
        into.values.push(f32::from(u8::from(was_pressed)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use super::*;
    use crate::time::VirtualClock;

    struct Script(VecDeque<bool>);

    impl embedded_hal::digital::ErrorType for Script {
        type Error = Infallible;
    }

    impl InputPin for Script {
        fn is_high(&mut self) -> Result<bool, Infallible> {
            Ok(self.0.pop_front().unwrap_or(false))
        }

        fn is_low(&mut self) -> Result<bool, Infallible> {
            self.is_high().map(|high| !high)
        }
    }

    /// Levels seen by the looks, `#` active; the readings of as many periods.
    fn check(levels: &str, expect: &[f32]) {
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock::default());
        let pin = Script(levels.chars().map(|c| c == '#').collect());
        let mut button = Button::new("button", pin, Micros::from_ms(100), Arc::clone(&clock));
        let mut reading = Reading::default();
        for (i, x) in expect.iter().enumerate() {
            button.read(&mut reading).unwrap();
            assert_eq!(
                (reading.values.as_slice(), reading.t),
                (&[*x][..], Micros::from_ms(100 * (i as u64 + 1))),
                "{levels}"
            );
        }
    }

    #[test]
    fn a_press_is_seen_and_a_bounce_is_not() {
        check("....####....", &[0.0, 1.0, 1.0, 0.0]);
        check("..##........", &[1.0, 1.0, 0.0]);
        check(".#.#....#...", &[0.0, 0.0, 0.0]);
    }
}
