//! Values of heads and of constant inputs that parse but cannot work.

use super::check::{At, Checked};
use super::manifest::{BoxDecode, ClassificationSpec, Column, DetectionSpec, EncoderSpec, RetrievalSpec, TaggingSpec};

/// Most results of one window that are told.
const TOLD_MAX: usize = 1000;

/// Checks what of `encoder`, which is at `at`, has to do with heads.
pub(super) fn check(at: &At, encoder: &EncoderSpec) -> Checked {
    let heads = [
        ("classification", encoder.classification.is_some()),
        ("detection", encoder.detection.is_some()),
        ("retrieval", encoder.retrieval.is_some()),
        ("tagging", encoder.tagging.is_some()),
    ];
    let given: Vec<&str> = heads.iter().filter(|h| h.1).map(|h| h.0).collect();
    if given.len() > 1 {
        let message = format!("expected at most one head, found [encoder.{}]", given.join("] and [encoder."));
        return at.require(false, "name", &message);
    }
    if let Some(head) = &encoder.classification {
        classification(&at.table("classification"), head)?;
    }
    if let Some(head) = &encoder.detection {
        at.require(
            encoder.image.is_some(),
            "name",
            "[encoder.detection] looks for boxes in pictures; it needs [encoder.image]",
        )?;
        detection(&at.table("detection"), head)?;
    }
    if let Some(head) = &encoder.retrieval {
        retrieval(&at.table("retrieval"), head)?;
    }
    if let Some(head) = &encoder.tagging {
        tagging(&at.table("tagging"), head)?;
    }
    for (i, constant) in encoder.constant.iter().enumerate() {
        let at = at.item("constant", i);
        at.expect(!constant.input.is_empty(), "input", &constant.input, "the name of an input of the model")?;
        at.expect(constant.value.is_finite(), "value", constant.value, "a finite number")?;
        let is_only = encoder.constant[..i].iter().all(|o| o.input != constant.input)
            && encoder.state.iter().all(|s| s.input != constant.input);
        at.expect(is_only, "input", &constant.input, "an input that no other constant and no state has")?;
    }
    Ok(())
}

fn told(at: &At, key: &'static str, n: usize) -> Checked {
    at.expect((1..=TOLD_MAX).contains(&n), key, n, &format!("1 to {TOLD_MAX}"))
}

fn probability(at: &At, key: &'static str, p: f32) -> Checked {
    at.expect((0.0..=1.0).contains(&p), key, p, "0 to 1")
}

fn classification(at: &At, head: &ClassificationSpec) -> Checked {
    at.file("labels", &head.labels)?;
    told(at, "top_k", head.top_k)?;
    probability(at, "min_p", head.min_p)
}

fn retrieval(at: &At, head: &RetrievalSpec) -> Checked {
    at.file("index", &head.index)?;
    told(at, "top_k", head.top_k)?;
    at.expect(
        (-1.0..=1.0).contains(&head.min_similarity),
        "min_similarity",
        head.min_similarity,
        "a cosine from -1 to 1",
    )
}

fn tagging(at: &At, head: &TaggingSpec) -> Checked {
    let tags = &head.tags;
    let are_unique = tags.iter().enumerate().all(|(i, t)| !t.is_empty() && !tags[..i].contains(t));
    at.expect(
        !tags.is_empty() && tags.len() <= TOLD_MAX && are_unique,
        "tags",
        tags,
        "at least one name, all different",
    )?;
    probability(at, "enter", head.enter)?;
    at.expect(head.enter > 0.0, "enter", head.enter, "above 0")?;
    probability(at, "exit", head.exit)?;
    at.expect(head.exit <= head.enter, "exit", head.exit, &format!("at most enter = {}", head.enter))?;
    for (key, ms) in [("min_on_ms", head.min_on_ms), ("min_off_ms", head.min_off_ms)] {
        at.expect(ms <= 3_600_000, key, ms, "0 to 3600000")?;
    }
    Ok(())
}

fn detection(at: &At, head: &DetectionSpec) -> Checked {
    if let Some(labels) = &head.labels {
        at.file("labels", labels)?;
    }
    if let Some(priors) = &head.priors {
        at.file("priors", priors)?;
    }
    let apart = [&head.boxes, &head.scores, &head.objectness, &head.landmarks];
    if head.packed.is_empty() {
        at.expect(!head.boxes.is_empty(), "boxes", &head.boxes, "outputs with the boxes, or `packed` and `columns`")?;
        at.expect(!head.scores.is_empty(), "scores", &head.scores, "outputs with the scores")?;
        at.expect(head.columns.is_empty(), "columns", &head.columns, "none: it goes with `packed`")?;
    } else {
        at.expect(
            apart.iter().all(|o| o.is_empty()),
            "packed",
            &head.packed,
            "either it or boxes, scores, objectness, landmarks",
        )?;
        let has = |c: Column| head.columns.iter().filter(|o| **o == c).count();
        let fits = has(Column::Box) == 1
            && has(Column::Scores) == 1
            && has(Column::Objectness) <= 1
            && has(Column::Landmarks) <= 1;
        at.expect(
            fits,
            "columns",
            &head.columns,
            "`box` and `scores`, perhaps `objectness` and `landmarks`, each once, in the output's order",
        )?;
        let has_points = has(Column::Landmarks) == 1;
        at.expect(
            has_points == (head.n_landmarks > 0),
            "n_landmarks",
            head.n_landmarks,
            "points of the column `landmarks`, 0 without it",
        )?;
    }
    at.expect(
        head.strides.iter().all(|s| (1..=4096).contains(s)),
        "strides",
        &head.strides,
        "pixels from cell to cell, 1 to 4096",
    )?;
    let has_cells = !head.strides.is_empty();
    match head.decode {
        BoxDecode::Corners | BoxDecode::Center => {
            at.expect(!has_cells, "strides", &head.strides, "none: `corners` and `center` are whole boxes")?;
        }
        BoxDecode::Grid | BoxDecode::Distances => {
            at.expect(has_cells, "strides", &head.strides, "one for each level of cells, such as [8, 16, 32]")?;
            at.expect((1..=64).contains(&head.per_cell), "per_cell", head.per_cell, "1 to 64 candidates in a cell")?;
        }
        BoxDecode::Ssd if head.priors.is_none() => {
            let sizes = &head.min_sizes;
            let fits = has_cells
                && sizes.len() == head.strides.len()
                && sizes.iter().flatten().all(|s| s.is_finite() && *s > 0.0);
            at.expect(
                fits,
                "min_sizes",
                sizes,
                "a list of sizes above 0 for each of the strides, or a file of `priors`",
            )?;
        }
        BoxDecode::Ssd => {
            at.expect(
                !has_cells && head.min_sizes.is_empty(),
                "priors",
                &head.priors,
                "either it or strides and min_sizes",
            )?;
        }
    }
    at.expect((0.0..=1.0).contains(&head.cell_offset), "cell_offset", head.cell_offset, "0 to 1")?;
    let are_variances = head.variances.iter().all(|v| v.is_finite() && *v > 0.0);
    at.expect(are_variances, "variances", head.variances, "two numbers above 0")?;
    probability(at, "score_threshold", head.score_threshold)?;
    probability(at, "nms_iou", head.nms_iou)?;
    told(at, "max_detections", head.max_detections)
}
