//! Whether the device itself is talking: set by the sink that speaks, read by whoever hands on sound.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Micros;

/// Until when microphones hear the device itself.
#[derive(Debug, Default)]
pub struct Speaking {
    /// In microseconds of the samples' clock; `u64::MAX` while it speaks.
    until_us: AtomicU64,
}

impl Speaking {
    /// Silent.
    #[must_use]
    pub fn new() -> Self {
        Speaking::default()
    }

    /// It begins to speak.
    pub fn begin(&self) {
        self.until_us.store(u64::MAX, Ordering::Relaxed);
    }

    /// It has stopped; `until` is when the room has, too.
    pub fn end(&self, until: Micros) {
        self.until_us.store(until.0, Ordering::Relaxed);
    }

    /// Whether what was recorded at `t` may be the device itself.
    #[must_use]
    pub fn is_on(&self, t: Micros) -> bool {
        t.0 < self.until_us.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_belongs_to_it() {
        let speaking = Speaking::new();
        assert!(!speaking.is_on(Micros::ZERO));
        speaking.begin();
        assert!(speaking.is_on(Micros::from_ms(1 << 40)));
        speaking.end(Micros::from_ms(500));
        assert_eq!([499, 500].map(|ms| speaking.is_on(Micros::from_ms(ms))), [true, false]);
    }
}
