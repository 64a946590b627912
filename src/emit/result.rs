//! A head's result in a line for people.

use crate::signal::{Found, TagState};

/// `cat 87 %, dog 5 %`; boxes with place and size in percent of the frame; neighbours with their cosine; tags as they change.
pub(super) fn text(found: &Found) -> String {
    let percent = |p: f32| format!("{:.0} %", 100.0 * p);
    let parts: Vec<String> = match found {
        Found::Classification { classes } => classes.iter().map(|c| format!("{} {}", c.class, percent(c.p))).collect(),
        Found::Detection { detections, .. } => detections
            .iter()
            .map(|d| {
                let [left, top, width, height] = d.rect.map(|v| 100.0 * v);
                format!("{} {} at {left:.0},{top:.0} size {width:.0}x{height:.0}", d.class, percent(d.score))
            })
            .collect(),
        Found::Retrieval { neighbours } => neighbours.iter().map(|n| format!("{} {:.3}", n.id, n.similarity)).collect(),
        Found::Tagging { tags } => tags
            .iter()
            .map(|t| match t.state {
                TagState::Enter => format!("{} begins, {}", t.tag, percent(t.p)),
                TagState::Exit => format!("{} ends", t.tag),
            })
            .collect(),
    };
    if parts.is_empty() { "nothing".into() } else { parts.join(", ") }
}
