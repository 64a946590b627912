//! What may be asked of a run from outside, and the mailbox it goes through.
//!
//! Sinks that listen (a page, a broker) send; the inference loop takes, once a turn, and the pipeline carries out. The sender never
//! waits: a full mailbox refuses. Every refusal is counted by its kind, wherever it happens.

use std::time::Duration;

use crate::metrics::Counter;
use crate::queue::{Bounded, Pushed, Wake, WhenFull};

/// Commands that wait for the inference loop at most. It looks at least every tenth of a second, so that a full mailbox means a sender
/// that does nothing but send.
pub const COMMANDS_MAX: usize = 16;

/// Most characters of a typed request: what the page's field takes, and far more than an encoder reads.
pub const TEXT_CHARS_MAX: usize = 300;

/// Something asked of a run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A typed request: an utterance of the source `text`, at the time it is taken.
    Text(String),
    /// The visitor's own answer to a question, or to a page that offers every class.
    Choose {
        /// Label of the class.
        class: String,
    },
    /// Samples of this source are left out until it is unmuted. The device stays open.
    Mute {
        /// Name of the source.
        source: String,
        /// Whether it is muted from here on.
        muted: bool,
    },
    /// Smoothed probabilities at which a class is entered and left.
    Thresholds {
        /// Above 0.5 and below 1.
        enter: f32,
        /// Above 0 and below `enter`; without it the one that holds stays.
        exit: Option<f32>,
    },
    /// BCP 47 tag of the advice's language.
    Language(String),
    /// Look for a new bundle, and run it if it is good.
    Reload,
}

impl Default for Command {
    /// An empty text: a buffer for [`Mailbox::take`], never carried out.
    fn default() -> Self {
        Command::Text(String::new())
    }
}

/// Why a command was not carried out, as a word for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The mailbox is full, or the run is over.
    Full,
    /// It names something that the bundle does not have.
    Unknown,
    /// A value outside its range.
    Range,
    /// It is legal, but not at this moment: no question is open.
    NotOffered,
}

impl RefusalKind {
    /// Every kind, in the order of the counters.
    pub const ALL: [RefusalKind; 4] =
        [RefusalKind::Full, RefusalKind::Unknown, RefusalKind::Range, RefusalKind::NotOffered];

    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            RefusalKind::Full => "full",
            RefusalKind::Unknown => "unknown",
            RefusalKind::Range => "range",
            RefusalKind::NotOffered => "not_offered",
        }
    }
}

/// A command that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What sort of reason.
    pub kind: RefusalKind,
    /// The value, what was expected, the next step.
    pub message: String,
}

impl Refusal {
    /// A refusal with its message.
    #[must_use]
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Refusal { kind, message: message.into() }
    }
}

/// Told what became of a command, on the inference loop's thread: it must neither wait nor take long.
pub type Reply = Box<dyn FnOnce(&Result<(), Refusal>) + Send>;

/// A command and who wants to know what becomes of it.
#[derive(Default)]
pub struct Posted {
    /// What is asked.
    pub command: Command,
    /// Whom to tell.
    pub reply: Option<Reply>,
}

impl std::fmt::Debug for Posted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.command.fmt(f)
    }
}

/// Commands on their way to the inference loop.
#[derive(Debug)]
pub struct Mailbox {
    queue: Bounded<Posted>,
    wake: Wake,
    done: Counter,
    refused: [Counter; RefusalKind::ALL.len()],
}

impl Default for Mailbox {
    fn default() -> Self {
        let wake = Wake::new();
        let when_full = WhenFull::WaitThenDrop(Duration::ZERO);
        Mailbox {
            queue: Bounded::new(COMMANDS_MAX, when_full, &wake),
            wake,
            done: Counter::new(),
            refused: [const { Counter::new() }; RefusalKind::ALL.len()],
        }
    }
}

impl Mailbox {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Mailbox::default()
    }

    /// Hands over `command` without waiting, and wakes the loop.
    ///
    /// # Errors
    /// [`RefusalKind::Full`], also when the run is over.
    pub fn send(&self, command: Command) -> Result<(), Refusal> {
        self.post(Posted { command, reply: None })
    }

    /// As [`Mailbox::send`]; `reply` is told what became of the command once it was carried out or refused. It is not told of a
    /// refusal that is returned here, nor of a command that the end of the run left in the mailbox.
    ///
    /// # Errors
    /// As [`Mailbox::send`].
    pub fn ask(&self, command: Command, reply: Reply) -> Result<(), Refusal> {
        self.post(Posted { command, reply: Some(reply) })
    }

    fn post(&self, mut posted: Posted) -> Result<(), Refusal> {
        let full = |message: &str| Err(Refusal::new(RefusalKind::Full, message));
        let result = match self.queue.push(&mut posted) {
            Pushed::Queued | Pushed::DroppedOldest => return Ok(()),
            Pushed::Dropped => full("too many commands are waiting; try again in a second"),
            Pushed::Closed => full("the run is over; nothing is taken any more"),
        };
        self.note(&result);
        result
    }

    /// Swaps the oldest command into `into`; false if none waits.
    pub fn take(&self, into: &mut Posted) -> bool {
        self.queue.pop(into).is_item()
    }

    /// Counts what became of a command.
    pub fn note(&self, result: &Result<(), Refusal>) {
        match result {
            Ok(()) => self.done.inc(),
            Err(refusal) => self.refused[refusal.kind as usize].inc(),
        }
    }

    /// What the loop waits on beside its sources.
    #[must_use]
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Nothing is taken any more.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Commands carried out.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.get()
    }

    /// Commands refused for this kind of reason.
    #[must_use]
    pub fn refused(&self, kind: RefusalKind) -> u64 {
        self.refused[kind as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_refuses_at_once_and_counts() {
        let mailbox = Mailbox::new();
        for i in 0..COMMANDS_MAX {
            mailbox.send(Command::Text(i.to_string())).unwrap();
        }
        let refusal = mailbox.send(Command::Language("zh".into())).unwrap_err();
        assert_eq!((refusal.kind, mailbox.refused(RefusalKind::Full)), (RefusalKind::Full, 1));
        let mut posted = Posted::default();
        assert!(mailbox.take(&mut posted));
        assert_eq!(posted.command, Command::Text("0".into()), "in order");
        mailbox.send(Command::Language("zh".into())).unwrap();
        mailbox.close();
        let refusal = mailbox.send(Command::default()).unwrap_err();
        assert!(refusal.to_string().starts_with("the run is over"), "{refusal}");
    }

    #[test]
    fn a_command_wakes_who_waits_for_sources() {
        let mailbox = Mailbox::new();
        let seen = mailbox.wake().generation();
        mailbox.send(Command::Mute { source: "mic".into(), muted: true }).unwrap();
        assert_ne!(mailbox.wake().generation(), seen);
    }

    #[test]
    fn every_kind_of_refusal_has_its_counter() {
        let mailbox = Mailbox::new();
        for (i, kind) in RefusalKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
            mailbox.note(&Err(Refusal::new(kind, "x")));
            assert_eq!(mailbox.refused(kind), 1, "{}", kind.word());
        }
        mailbox.note(&Ok(()));
        assert_eq!(mailbox.done(), 1);
    }
}
