//! Sources: everything that delivers samples, behind one small trait per kind of device.
//!
//! A source blocks for a bounded time and writes into the caller's buffer. Files, recordings and scripted fakes stand
//! beside the drivers; [`faults`] wraps any of them. Threads, pacing and reopening are the supervisor's: a file delivers
//! as fast as it is read, and its timestamps say when each sample belongs.

#[cfg(feature = "alsa")]
pub mod alsa;
#[cfg(feature = "gpio")]
pub mod buses;
pub mod button;
pub mod child;
#[cfg(test)]
mod contract;
pub mod fake;
pub mod faults;
pub mod image;
pub mod indicator;
mod jpeg;
pub mod mute;
pub mod node;
pub mod pixels;
pub mod recording;
pub mod sensor;
pub mod sound;
pub mod text;
#[cfg(feature = "v4l")]
pub mod v4l2;
pub mod video;
pub mod wav;

use std::sync::Arc;

use crate::signal::{AudioBlock, Frame, Reading, Utterance};

/// What the caller does about an error of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again at once: nothing was lost (a timeout, an interrupted call).
    Retry,
    /// Nothing yet, and nothing wrong: the source waits in slices and says `Reopen` itself when that has been too long.
    Wait,
    /// Close, wait, open again (unplugged, EIO, a stalled device).
    Reopen,
    /// There will be no more samples (end of a file).
    End,
    /// Opening again cannot help (permission, unsupported format): the modality is failed until the configuration changes.
    Fatal,
}

/// A source that could not deliver.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{source_name}: {message}")]
pub struct CaptureError {
    /// What the caller does.
    pub kind: ErrorKind,
    /// The source: a path, a device.
    pub source_name: String,
    /// The value, what was expected, and the next step.
    pub message: String,
}

impl CaptureError {
    /// An error of `source_name`, on which the caller does what `kind` says.
    #[must_use]
    pub fn new(kind: ErrorKind, source_name: impl Into<String>, message: impl Into<String>) -> Self {
        CaptureError { kind, source_name: source_name.into(), message: message.into() }
    }

    /// An error that trying again does not mend.
    #[must_use]
    pub fn fatal(source_name: impl Into<String>, message: impl Into<String>) -> Self {
        CaptureError::new(ErrorKind::Fatal, source_name, message)
    }

    /// The regular end of a source.
    #[must_use]
    pub fn end(source_name: impl Into<String>) -> Self {
        CaptureError::new(ErrorKind::End, source_name, "end of the file")
    }
}

/// Opens a file that a source reads.
///
/// # Errors
/// [`ErrorKind::Fatal`], with the system's reason.
fn open_file(path: &std::path::Path) -> Result<std::fs::File, CaptureError> {
    let fatal = |e: std::io::Error| CaptureError::fatal(path.display().to_string(), format!("cannot be opened: {e}"));
    let file = std::fs::File::open(path).map_err(fatal)?;
    // a directory opens, and fails only when it is read
    if file.metadata().map_err(fatal)?.is_dir() {
        return Err(CaptureError::fatal(path.display().to_string(), "is a directory, expected a file"));
    }
    Ok(file)
}

/// What a source that delivers has to say about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// One word: `silent`, `clipped`, `drift`, `ok`.
    pub state: &'static str,
    /// What was seen, and the next step.
    pub reason: Arc<str>,
}

/// A source of pictures.
pub trait Camera: Send {
    /// Waits, at most for the source's own timeout, for the next frame and writes it into `into`.
    ///
    /// # Errors
    /// [`CaptureError`]; `into` is then unspecified but usable.
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError>;

    /// Whether it delivers the same for ever, as a still picture does: nobody waits for its end.
    fn is_endless(&self) -> bool {
        false
    }
}

/// A source of sound.
pub trait Mic: Send {
    /// Waits, at most for the source's own timeout, for the next block and writes it into `into`.
    ///
    /// # Errors
    /// [`CaptureError`]; an overrun is no error but `gap_samples` of the next block.
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError>;

    /// What has changed about the signal since the last call.
    fn condition(&mut self) -> Option<Condition> {
        None
    }
}

/// A source of typed or received text.
pub trait TextSource: Send {
    /// Waits for the next utterance and writes it into `into`.
    ///
    /// # Errors
    /// [`CaptureError`].
    fn next(&mut self, into: &mut Utterance) -> Result<(), CaptureError>;
}

/// A source of sensor readings.
pub trait Sensor: Send {
    /// Waits for the next reading and writes it into `into`.
    ///
    /// # Errors
    /// [`CaptureError`].
    fn read(&mut self, into: &mut Reading) -> Result<(), CaptureError>;
}

impl<S: Camera + ?Sized> Camera for Box<S> {
    fn capture(&mut self, into: &mut Frame) -> Result<(), CaptureError> {
        (**self).capture(into)
    }

    fn is_endless(&self) -> bool {
        (**self).is_endless()
    }
}

impl<S: Mic + ?Sized> Mic for Box<S> {
    fn read(&mut self, into: &mut AudioBlock) -> Result<(), CaptureError> {
        (**self).read(into)
    }

    fn condition(&mut self) -> Option<Condition> {
        (**self).condition()
    }
}

impl<S: TextSource + ?Sized> TextSource for Box<S> {
    fn next(&mut self, into: &mut Utterance) -> Result<(), CaptureError> {
        (**self).next(into)
    }
}

impl<S: Sensor + ?Sized> Sensor for Box<S> {
    fn read(&mut self, into: &mut Reading) -> Result<(), CaptureError> {
        (**self).read(into)
    }
}
