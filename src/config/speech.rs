//! `[speech]` of `attendant.toml`: the program that says the advice.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `[speech]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechSpec {
    /// Program and arguments; no shell. `{lang}` becomes the language, `{text}` the text. Without a `{text}` the program reads
    /// it from its standard input.
    pub command: Vec<String>,
    /// How long it may speak before it is ended.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u32,
    /// The microphones stay muted this long after it has ended: the room still sounds, and sound cards play on.
    #[serde(default = "default_tail_ms")]
    pub tail_ms: u32,
    /// What `{lang}` becomes, by the language of the advice, where the program calls it otherwise: `zh = "cmn"`.
    #[serde(default)]
    pub languages: BTreeMap<String, String>,
}

fn default_timeout_ms() -> u32 {
    15_000
}

fn default_tail_ms() -> u32 {
    300
}

impl SpeechSpec {
    /// The key that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let Some(program) = self.command.first().filter(|p| !p.is_empty()) else {
            let message = "command: expected a program and its arguments, such as [\"espeak-ng\", \"--stdin\"]".into();
            return Err(("command", message));
        };
        if program.contains("{text}") || program.contains("{lang}") {
            return Err(("command", "command: the program itself cannot be {text} or {lang}; name it".into()));
        }
        if self.command.iter().any(|a| a.contains("{text}") && a != "{text}") {
            let message =
                "command: {text} has to be an argument of its own: no part of one, so that nothing reads it as code";
            return Err(("command", message.into()));
        }
        for (key, ms, range) in [("timeout_ms", self.timeout_ms, 100..=120_000), ("tail_ms", self.tail_ms, 0..=10_000)]
        {
            if !range.contains(&ms) {
                return Err((key, format!("{key} = {ms}, expected {} to {}", range.start(), range.end())));
            }
        }
        if let Some((tag, name)) = self.languages.iter().find(|(_, name)| name.is_empty()) {
            return Err(("languages", format!("languages.{tag} = {name:?}, expected what the program calls it")));
        }
        Ok(())
    }
}
