//! Heat and load: past the board's limits rates drop, a step at a time and in the board's order, and come back.
//!
//! [`Governor`] decides from two numbers; the inference loop measures and carries out. A step halves the rate of the next
//! kind of encoder in `budget.shed` of the board; after the last the first is halved once more, and that is the end.

use std::path::Path;

use crate::board::{Budget, Kind};
use crate::time::Micros;

/// Time between two looks, and so between two steps.
pub const LOOK: Micros = Micros::from_ms(2000);

/// Halvings of each kind at most.
const ROUNDS: usize = 2;

/// Load has to fall to this share of its limit before a rate comes back: halving the work must not bring it back at once.
const LOAD_BACK: f32 = 0.5;

/// What was measured since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Of the hottest zone; None if there is no thermometer.
    pub celsius: Option<f32>,
    /// Share of the time that the inference thread was at work, 0 to 1.
    pub busy: f32,
}

/// A step up or down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Steps taken; 0 is full speed.
    pub level: usize,
    /// Why, and what runs how fast.
    pub reason: String,
}

/// Decides how much is shed.
#[derive(Clone, Debug)]
pub struct Governor {
    budget: Budget,
    level: usize,
}

impl Governor {
    /// At full speed.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Governor { budget, level: 0 }
    }

    /// Looks at what was measured; a change if a step is due.
    pub fn look(&mut self, measured: Measured) -> Option<Change> {
        let (max, back) = (self.budget.celsius_max as f32, self.budget.celsius_back as f32);
        let busy_max = self.budget.busy_percent_max as f32 / 100.0;
        let is_hot = measured.celsius.is_some_and(|c| c >= max);
        let is_busy = measured.busy > busy_max;
        let is_cool = measured.celsius.is_none_or(|c| c < back);
        let is_idle = measured.busy < busy_max * LOAD_BACK;
        let last = self.budget.shed.len() * ROUNDS;
        let level = match () {
            () if (is_hot || is_busy) && self.level < last => self.level + 1,
            () if is_cool && is_idle && self.level > 0 => self.level - 1,
            () => return None,
        };
        self.level = level;
        let heat = measured.celsius.map_or(String::new(), |c| format!("{c:.0} C (limit {max:.0} C), "));
        let load = format!("{:.0} % busy (limit {} %)", measured.busy * 100.0, self.budget.busy_percent_max);
        let rates: Vec<String> = self.divisors().map(|(kind, d)| format!("{} 1/{d}", kind.word())).collect();
        Some(Change { level, reason: format!("{heat}{load}; rates: {}", rates.join(", ")) })
    }

    /// What the rate of each kind is divided by.
    pub fn divisors(&self) -> impl Iterator<Item = (Kind, u32)> + '_ {
        let n = self.budget.shed.len().max(1);
        let (rounds, rest) = (self.level / n, self.level % n);
        self.budget.shed.iter().enumerate().map(move |(i, kind)| (*kind, 1 << (rounds + usize::from(i < rest))))
    }
}

/// Temperature of the hottest zone below `class` (`/sys/class/thermal`).
#[must_use]
pub fn hottest_celsius(class: &Path) -> Option<f32> {
    let zones = std::fs::read_dir(class).ok()?.flatten();
    let zones = zones.filter(|z| z.file_name().to_string_lossy().starts_with("thermal_zone"));
    let celsius = |text: String| Some(text.trim().parse::<f32>().ok()? / 1000.0);
    zones.filter_map(|z| celsius(std::fs::read_to_string(z.path().join("temp")).ok()?)).reduce(f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget =
        Budget { celsius_max: 80, celsius_back: 70, busy_percent_max: 80, shed: &[Kind::Image, Kind::Audio] };

    /// Looks in a row: temperature, percent busy, level afterwards, divisors of image and audio.
    fn check(looks: &[(f32, f32, usize, [u32; 2])]) {
        let mut governor = Governor::new(BUDGET);
        for (i, (celsius, percent, level, divisors)) in looks.iter().enumerate() {
            let measured = Measured { celsius: Some(*celsius), busy: percent / 100.0 };
            let change = governor.look(measured);
            assert_eq!(governor.level, *level, "look {i}: {change:?}");
            let got: Vec<u32> = governor.divisors().map(|(_, d)| d).collect();
            assert_eq!(got, divisors, "look {i}");
        }
    }

    #[test]
    fn rates_drop_in_the_boards_order_and_come_back() {
        check(&[
            (50.0, 10.0, 0, [1, 1]),
            (80.0, 10.0, 1, [2, 1]),
            (81.0, 10.0, 2, [2, 2]),
            (82.0, 10.0, 3, [4, 2]),
            (83.0, 10.0, 4, [4, 4]),
            (84.0, 10.0, 4, [4, 4]),
            // between the limits nothing changes
            (75.0, 10.0, 4, [4, 4]),
            (69.0, 10.0, 3, [4, 2]),
            (69.0, 10.0, 2, [2, 2]),
            (69.0, 50.0, 2, [2, 2]),
            (69.0, 10.0, 1, [2, 1]),
            (69.0, 10.0, 0, [1, 1]),
            (69.0, 10.0, 0, [1, 1]),
        ]);
        check(&[(50.0, 81.0, 1, [2, 1]), (50.0, 60.0, 1, [2, 1]), (50.0, 30.0, 0, [1, 1])]);
    }

    #[test]
    fn a_change_says_why_and_what_runs_how_fast() {
        let mut governor = Governor::new(BUDGET);
        let change = governor.look(Measured { celsius: Some(83.2), busy: 0.41 }).unwrap();
        assert_eq!(change.reason, "83 C (limit 80 C), 41 % busy (limit 80 %); rates: image 1/2, audio 1/1");
        let change = Governor::new(BUDGET).look(Measured { celsius: None, busy: 0.9 }).unwrap();
        assert_eq!((change.level, change.reason.starts_with("90 % busy")), (1, true));
        assert_eq!(
            Governor::new(Budget { shed: &[], ..BUDGET }).look(Measured { celsius: Some(99.0), busy: 1.0 }),
            None
        );
    }

    #[test]
    fn the_hottest_zone_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hottest_celsius(dir.path()), None);
        for (zone, text) in [
            ("thermal_zone0", "51000\n"),
            ("thermal_zone1", "63500\n"),
            ("thermal_zone2", "x"),
            ("cooling_device0", "99000"),
        ] {
            std::fs::create_dir(dir.path().join(zone)).unwrap();
            std::fs::write(dir.path().join(zone).join("temp"), text).unwrap();
        }
        assert_eq!(hottest_celsius(dir.path()), Some(63.5));
        assert_eq!(hottest_celsius(Path::new("/no/such/folder")), None);
    }
}
