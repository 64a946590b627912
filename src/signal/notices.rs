//! What outputs have to say in the event stream: sent from their own thread, taken by the inference loop.

use std::sync::Arc;

use crate::queue::{Bounded, Wake, WhenFull};

/// Notices that wait for the inference loop; more are dropped, the oldest first: the newest says how things are.
pub const NOTICES_MAX: usize = 16;

/// One notice, as in [`super::EventKind::Notice`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// The output.
    pub source: Arc<str>,
    /// One word.
    pub notice: Arc<str>,
    /// For people.
    pub reason: Arc<str>,
}

/// Notices on their way to the inference loop.
#[derive(Debug)]
pub struct Notices {
    waiting: Bounded<Notice>,
}

impl Default for Notices {
    fn default() -> Self {
        Notices { waiting: Bounded::new(NOTICES_MAX, WhenFull::DropOldest, &Wake::new()) }
    }
}

impl Notices {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Notices::default()
    }

    /// Says something, without waiting.
    pub fn say(&self, mut notice: Notice) {
        self.waiting.push(&mut notice);
    }

    /// The oldest notice that waits.
    #[must_use]
    pub fn take(&self) -> Option<Notice> {
        let mut notice = Notice::default();
        self.waiting.pop(&mut notice).is_item().then_some(notice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_notices_stay() {
        let notices = Notices::new();
        for i in 0..NOTICES_MAX + 2 {
            notices.say(Notice { source: "mqtt".into(), notice: "ok".into(), reason: i.to_string().into() });
        }
        let left: Vec<String> = std::iter::from_fn(|| notices.take()).map(|n| n.reason.to_string()).collect();
        assert_eq!((left.len(), left[0].as_str()), (NOTICES_MAX, "2"));
    }
}
