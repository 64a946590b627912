//! The newest picture, for an observer who asks for one.
//!
//! The inference loop looks at a flag after each picture of the camera, and copies one only while somebody waits: it takes no lock that an
//! observer holds, and with nobody asking it copies nothing. What an observer has looked at is not kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Frame;

/// Between the inference loop and whoever shows the camera's pictures.
#[derive(Debug)]
pub struct Preview {
    /// Name of the source whose pictures are shown.
    pub source: Arc<str>,
    is_wanted: AtomicBool,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    frame: Frame,
    is_fresh: bool,
}

impl Preview {
    /// For the pictures of `source`. Nobody wants one.
    #[must_use]
    pub fn new(source: Arc<str>) -> Self {
        Preview { source, is_wanted: AtomicBool::new(false), slot: Mutex::default() }
    }

    /// For the loop: whether somebody waits for a picture.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// For the loop: a copy of `frame` for whoever waits, unless the one before is being looked at. Allocates when the picture is larger than any
    /// before.
    pub fn offer(&self, frame: &Frame) {
        let Ok(mut slot) = self.slot.try_lock() else { return };
        let Frame { t, seq, width, height, stride, format, data } = frame;
        let into = &mut slot.frame;
        (into.t, into.seq, into.width, into.height) = (*t, *seq, *width, *height);
        (into.stride, into.format) = (*stride, *format);
        into.data.clear();
        into.data.extend_from_slice(data);
        slot.is_fresh = true;
        self.is_wanted.store(false, Ordering::Relaxed);
    }

    /// For an observer: the next picture is wanted; one from before is not.
    pub fn ask(&self) {
        self.forget();
        self.is_wanted.store(true, Ordering::Relaxed);
    }

    /// For an observer: no picture is wanted any more, and none is kept.
    pub fn give_up(&self) {
        self.is_wanted.store(false, Ordering::Relaxed);
        self.forget();
    }

    /// For an observer: what `look` makes of the picture that has come since [`Preview::ask`], which is then forgotten.
    pub fn take<T>(&self, look: impl FnOnce(&Frame) -> T) -> Option<T> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let made = slot.is_fresh.then(|| look(&slot.frame));
        slot.forget();
        made
    }

    fn forget(&self) {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).forget();
    }
}

impl Slot {
    fn forget(&mut self) {
        self.frame.data.clear();
        self.is_fresh = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_copied_once_for_who_asks_and_not_kept() {
        let preview = Preview::new("camera".into());
        let frame = |value: u8| Frame { width: 1, height: 1, stride: 1, data: vec![value], ..Frame::default() };
        assert!(!preview.is_wanted());
        assert_eq!(preview.take(|f| f.data.clone()), None);
        preview.ask();
        assert!(preview.is_wanted());
        preview.offer(&frame(7));
        assert!(!preview.is_wanted(), "one is enough");
        preview.ask();
        assert_eq!(preview.take(|f| f.data.clone()), None, "from before it was asked for");
        preview.offer(&frame(8));
        assert_eq!(preview.take(|f| f.data.clone()), Some(vec![8]));
        assert_eq!(preview.take(|f| f.data.clone()), None);
        preview.ask();
        preview.give_up();
        assert!(!preview.is_wanted());
    }

    #[test]
    fn the_loop_does_not_wait_for_who_looks() {
        let preview = Preview::new("camera".into());
        preview.ask();
        preview.offer(&Frame { data: vec![1], ..Frame::default() });
        let seen = preview.take(|f| {
            preview.offer(&Frame { data: vec![2], ..Frame::default() });
            f.data.clone()
        });
        assert_eq!(seen, Some(vec![1]));
    }
}
