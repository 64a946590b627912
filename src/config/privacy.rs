//! `[privacy]` of `attendant.toml`: what the device promises to the people in front of it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::runtime::LineSpec;

/// `[privacy]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacySpec {
    /// What happens where the kernel cannot confine the program.
    #[serde(default)]
    pub sandbox: SandboxKind,
    /// What visitors are told of being seen and heard, by language: in the log, and for the page.
    #[serde(default)]
    pub notice: BTreeMap<String, String>,
    /// Hours after its last change at which a recording is removed from the directory that is recorded into.
    pub recordings_age_h_max: Option<u32>,
    /// The switch that closes cameras and microphones (feature `gpio`).
    pub mute: Option<MuteSpec>,
}

/// What happens where the kernel cannot confine the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxKind {
    /// It does not run.
    Require,
    /// It runs, and says what is missing.
    #[default]
    BestEffort,
    /// It is not confined.
    Off,
}

/// `[privacy.mute]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuteSpec {
    /// The input line; active is muted.
    pub line: LineSpec,
}

/// Longest notice: a page shows it in a few lines.
const NOTICE_CHARS_MAX: usize = 600;

/// Fewest hours: what is being written, or kept for the next decision, is never older than one.
const AGE_H_MIN: u32 = 2;

impl PrivacySpec {
    /// The keys to what is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static [&'static str], String)> {
        let is_wrong = |text: &str| text.trim().is_empty() || text.chars().count() > NOTICE_CHARS_MAX;
        if let Some((lang, _)) = self.notice.iter().find(|(_, text)| is_wrong(text)) {
            let message = format!("notice.{lang}: expected 1 to {NOTICE_CHARS_MAX} characters");
            return Err((&["notice"], message));
        }
        if let Some(hours) = self.recordings_age_h_max.filter(|hours| *hours < AGE_H_MIN) {
            let message = format!("recordings_age_h_max = {hours}, expected at least {AGE_H_MIN}");
            return Err((&["recordings_age_h_max"], message));
        }
        match &self.mute {
            Some(mute) => mute.line.check().map_err(|m| (&["mute", "line"][..], format!("mute.{m}"))),
            None => Ok(()),
        }
    }
}
