//! Why a packed or installed bundle is not taken: one word for counters and exit codes, one sentence for people.

use std::fmt;
use std::path::Path;

/// The sort of reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The system could not read or write something.
    Io,
    /// The file ends before the bundle does.
    Truncated,
    /// A byte is not what the packer writes there, or parts are not in their order.
    Layout,
    /// A part has a name that no part may have: a path that leads elsewhere, for one.
    Name,
    /// Two parts have the same name.
    Duplicate,
    /// A length, or their sum, is above its bound.
    Size,
    /// What the bundle says of itself is not of the schema, or not what `bundle.toml` in it says.
    Manifest,
    /// It has no signature, and this device takes none without.
    Unsigned,
    /// It is signed with a key that this device does not have.
    Key,
    /// The signature does not belong to this bundle.
    Signature,
    /// A part is not the one that was packed.
    Part,
    /// An older one than this device has had.
    Downgrade,
    /// It is for another purpose: its name differs from that of the bundle the device has.
    Other,
    /// It cannot be loaded on this device.
    Unfit,
    /// It brings no golden recording to test it with.
    Untested,
    /// Its answers to its own golden recording are not the golden ones.
    Wrong,
    /// It is too slow for this device.
    Slow,
    /// It was tried, and reverted.
    Reverted,
}

impl Why {
    /// Every reason.
    pub const ALL: [Why; 18] = [
        Why::Io,
        Why::Truncated,
        Why::Layout,
        Why::Name,
        Why::Duplicate,
        Why::Size,
        Why::Manifest,
        Why::Unsigned,
        Why::Key,
        Why::Signature,
        Why::Part,
        Why::Downgrade,
        Why::Other,
        Why::Unfit,
        Why::Untested,
        Why::Wrong,
        Why::Slow,
        Why::Reverted,
    ];

    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Why::Io => "io",
            Why::Truncated => "truncated",
            Why::Layout => "layout",
            Why::Name => "name",
            Why::Duplicate => "duplicate",
            Why::Size => "size",
            Why::Manifest => "manifest",
            Why::Unsigned => "unsigned",
            Why::Key => "key",
            Why::Signature => "signature",
            Why::Part => "part",
            Why::Downgrade => "downgrade",
            Why::Other => "other",
            Why::Unfit => "unfit",
            Why::Untested => "untested",
            Why::Wrong => "wrong",
            Why::Slow => "slow",
            Why::Reverted => "reverted",
        }
    }
}

/// A bundle that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused ({}): {message}", why.word())]
pub struct Refused {
    /// What sort of reason.
    pub why: Why,
    /// The thing, the value, what was expected, the next step.
    pub message: String,
}

impl Refused {
    /// A refusal with its message.
    #[must_use]
    pub fn new(why: Why, message: impl Into<String>) -> Self {
        Refused { why, message: message.into() }
    }

    /// The system's error about `what`.
    #[must_use]
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let why = if error.kind() == std::io::ErrorKind::UnexpectedEof { Why::Truncated } else { Why::Io };
        Refused::new(why, format!("{what}: {error}"))
    }

    /// The same, about the file at `path`.
    #[must_use]
    pub fn of(mut self, path: &Path) -> Self {
        self.message = format!("{}: {}", path.display(), self.message);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<&str> = Why::ALL.iter().map(|w| w.word()).collect();
        assert_eq!(words.len(), Why::ALL.len());
        for (i, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, i, "{}", why.word());
        }
    }
}
