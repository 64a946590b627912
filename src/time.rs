//! Time: microseconds on the monotonic clock, and the only place that reads it.
//!
//! Everything below [`crate::supervise`] takes time as an argument of type [`Micros`]; only the supervisor and the
//! device threads hold a [`Clock`]. Nothing here knows about calendars: events carry monotonic time.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A point in time, or a span, in microseconds of `CLOCK_MONOTONIC` (live) or of the recording (replay).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// The zero of the clock.
    pub const ZERO: Micros = Micros(0);

    /// `ms` milliseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Micros(ms * 1000)
    }

    /// Whole milliseconds, rounded down.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0 / 1000
    }

    /// Seconds as a float: for model inputs and for people.
    #[must_use]
    pub fn as_secs_f32(self) -> f32 {
        self.0 as f32 / 1e6
    }

    /// `self - earlier`, or zero when `earlier` lies in the future (a clock that jumped, a reordered sample).
    #[must_use]
    pub const fn since(self, earlier: Micros) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Micros {
    type Output = Micros;
    fn add(self, rhs: Micros) -> Micros {
        Micros(self.0.saturating_add(rhs.0))
    }
}

impl Sub for Micros {
    type Output = Micros;
    fn sub(self, rhs: Micros) -> Micros {
        self.since(rhs)
    }
}

impl From<Micros> for Duration {
    fn from(t: Micros) -> Duration {
        Duration::from_micros(t.0)
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

/// A source of time that can be waited on.
pub trait Clock: Send + Sync {
    /// The present.
    fn now(&self) -> Micros;
    /// Returns once [`Clock::now`] is at least `until`.
    fn sleep_until(&self, until: Micros);
}

/// The machine's monotonic clock, with its zero at construction.
#[derive(Debug)]
pub struct MonotonicClock {
    start: Instant,
}

impl MonotonicClock {
    /// A clock that reads zero at this moment.
    #[must_use]
    pub fn new() -> Self {
        MonotonicClock { start: Instant::now() }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Micros {
        Micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn sleep_until(&self, until: Micros) {
        let now = self.now();
        if until > now {
            std::thread::sleep(Duration::from(until - now));
        }
    }
}

/// `CLOCK_MONOTONIC` as drivers stamp samples with it. Its zero is not that of any [`Clock`]; see [`from_kernel`].
#[must_use]
pub fn kernel_now() -> Micros {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Micros(u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1000)
}

/// A driver's `stamp` on the clock that reads `now` while the kernel's reads `kernel`.
#[must_use]
pub fn from_kernel(stamp: Micros, kernel: Micros, now: Micros) -> Micros {
    now.since(kernel.since(stamp))
}

/// A stopwatch for benchmarks: what a [`Clock`] is too coarse for.
#[derive(Debug)]
pub struct NanoTimer {
    start: Instant,
}

impl NanoTimer {
    /// Starts at this moment.
    #[must_use]
    pub fn start() -> Self {
        NanoTimer { start: Instant::now() }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Nanoseconds since the first call, for profiles whose measured code takes a plain function as its clock.
#[must_use]
pub fn now_ns() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    u64::try_from(FIRST.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A clock that stands still until someone waits on it: simulated time for tests and for replay at full speed.
#[derive(Debug, Default)]
pub struct VirtualClock {
    now_us: AtomicU64,
}

impl VirtualClock {
    /// A clock that reads `start`.
    #[must_use]
    pub fn starting_at(start: Micros) -> Self {
        VirtualClock { now_us: AtomicU64::new(start.0) }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Micros {
        Micros(self.now_us.load(Ordering::Acquire))
    }

    fn sleep_until(&self, until: Micros) {
        self.now_us.fetch_max(until.0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_into_the_future_is_zero() {
        assert_eq!(Micros(5) - Micros(9), Micros::ZERO);
        assert_eq!(Micros(9).since(Micros(5)), Micros(4));
    }

    #[test]
    fn a_stamp_of_the_kernel_keeps_its_age() {
        let (kernel, now) = (Micros::from_ms(90_000), Micros::from_ms(500));
        assert_eq!(from_kernel(Micros::from_ms(89_970), kernel, now), Micros::from_ms(470));
        assert_eq!(from_kernel(Micros::from_ms(90_001), kernel, now), now, "a stamp of the future is of the present");
        assert_eq!(from_kernel(Micros::ZERO, kernel, now), Micros::ZERO, "older than the clock");
        assert!(kernel_now() > Micros::ZERO);
    }

    #[test]
    fn waiting_moves_a_virtual_clock_and_never_back() {
        let clock = VirtualClock::default();
        clock.sleep_until(Micros::from_ms(20));
        clock.sleep_until(Micros::from_ms(10));
        assert_eq!(clock.now(), Micros::from_ms(20));
    }
}
