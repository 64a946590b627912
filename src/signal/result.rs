//! What a head makes of a model's output: classes, boxes, neighbours or tags, as the fields of an event.
//!
//! Filled by [`crate::heads`], carried by [`super::EventKind::Result`]. Numbers are rounded to what a reader can use.

use std::sync::Arc;

use super::Choice;
use crate::time::Micros;

/// Most points of one detection.
pub const MAX_LANDMARKS: usize = 16;

/// What a head found in one window; `head` of the line.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "head", rename_all = "lowercase")]
pub enum Found {
    /// The likeliest classes, likeliest first.
    Classification {
        /// Empty: none reaches the bundle's `min_p`.
        classes: Vec<Choice>,
    },
    /// Boxes, surest first.
    Detection {
        /// Width and height of the frame in pixels; 0 while no picture was seen.
        frame: [u32; 2],
        /// What was found in it.
        detections: Vec<Detection>,
    },
    /// What of the index is most alike, most alike first.
    Retrieval {
        /// Empty: nothing reaches the bundle's `min_similarity`.
        neighbours: Vec<Neighbour>,
    },
    /// Tags that were entered or left.
    Tagging {
        /// At least one.
        tags: Vec<TagChange>,
    },
}

/// One box.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Detection {
    /// Class label.
    pub class: Arc<str>,
    /// 0 to 1.
    pub score: f32,
    /// Left, top, width, height as fractions of the frame; may reach beyond its edges.
    #[serde(rename = "box")]
    pub rect: [f32; 4],
    /// Points in the model's order, as fractions of the frame.
    #[serde(skip_serializing_if = "heapless::Vec::is_empty")]
    pub landmarks: heapless::Vec<[f32; 2], MAX_LANDMARKS>,
}

/// One entry of an index.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Neighbour {
    /// Its name in the index.
    pub id: Arc<str>,
    /// Cosine, -1 to 1.
    pub similarity: f32,
}

/// Whether a tag holds from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TagState {
    /// It holds.
    Enter,
    /// It no longer holds.
    Exit,
}

/// A tag that was entered or left.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TagChange {
    /// Label.
    pub tag: Arc<str>,
    /// What changed.
    pub state: TagState,
    /// Probability in the window that completed the change; 0 when the source failed or paused.
    pub p: f32,
    /// Since when it holds, or does not: the end of the first window of the run that led to the change.
    pub since_us: Micros,
}

/// From pixels of an image tensor to fractions of the frame it was made of: `fraction = pixel * scale + origin`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Horizontal, vertical.
    pub origin: [f32; 2],
    /// Horizontal, vertical.
    pub scale: [f32; 2],
    /// Width and height of the frame in pixels.
    pub frame: [u32; 2],
}

/// What the files that a head names hold, read by who opens files.
#[derive(Clone, Debug, Default)]
pub struct HeadFiles {
    /// Class labels.
    pub labels: Option<Vec<Arc<str>>>,
    /// The bytes of the index of a retrieval.
    pub index: Option<Vec<u8>>,
    /// The text of a file of priors.
    pub priors: Option<String>,
}
