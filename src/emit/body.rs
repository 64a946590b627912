//! What a client may write: the bodies of the web interface's requests, and the mark of where an event stream goes on.
//!
//! Text in, values out: no socket, no header. Built with or without the feature `web`, so that fuzzing and tests need no server.

use crate::signal::TEXT_CHARS_MAX;

/// Why a body is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It is no JSON of the expected form.
    Json(String),
    /// Its text is too long.
    TooLong(String),
    /// Its text says nothing.
    Empty(&'static str),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TextBody {
    text: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ChoiceBody {
    class: String,
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8], expected: &str) -> Result<T, BodyError> {
    serde_json::from_slice(bytes).map_err(|error| BodyError::Json(format!("the body is not {expected}: {error}")))
}

/// Of a typed request: `{"text":"..."}`, not empty, of at most [`TEXT_CHARS_MAX`] characters.
///
/// # Errors
/// [`BodyError`].
pub fn text(bytes: &[u8]) -> Result<String, BodyError> {
    let TextBody { text } = json(bytes, "{\"text\":\"...\"}")?;
    let chars = text.chars().count();
    if chars > TEXT_CHARS_MAX {
        return Err(BodyError::TooLong(format!("the text has {chars} characters, expected at most {TEXT_CHARS_MAX}")));
    }
    if text.trim().is_empty() {
        return Err(BodyError::Empty("the text is empty; write what is wanted"));
    }
    Ok(text)
}

/// Of a choice: `{"class":"..."}`; the class need not exist.
///
/// # Errors
/// [`BodyError::Json`].
pub fn choice(bytes: &[u8]) -> Result<String, BodyError> {
    json::<ChoiceBody>(bytes, "{\"class\":\"...\"}").map(|body| body.class)
}

/// What `Last-Event-ID` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// What is new from here on.
    Now,
    /// What follows this event of this run.
    After(u64),
    /// Everything that is left: the client knows another run of the program.
    AnotherRun,
}

impl Resume {
    /// Reads the header: `RUN-SEQ`. What is no id of ours counts as none.
    #[must_use]
    pub fn parse(id: Option<&str>, run: &str) -> Self {
        let Some((theirs, seq)) = id.and_then(|id| id.trim().split_once('-')) else { return Resume::Now };
        match seq.parse() {
            Ok(seq) if theirs == run => Resume::After(seq),
            Ok(_) => Resume::AnotherRun,
            Err(_) => Resume::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_taken_or_refused_with_what_was_expected() {
        let long = format!("{{\"text\":\"{}\"}}", "\u{e9}".repeat(TEXT_CHARS_MAX + 1));
        let fits = format!("{{\"text\":\"{}\"}}", "\u{e9}".repeat(TEXT_CHARS_MAX));
        assert_eq!(text(fits.as_bytes()).map(|t| t.chars().count()), Ok(TEXT_CHARS_MAX));
        assert!(matches!(text(long.as_bytes()), Err(BodyError::TooLong(why)) if why.contains("301 characters")));
        assert!(matches!(text(b"{\"text\":\" \\n\"}"), Err(BodyError::Empty(_))));
        for wrong in [&b""[..], b"{}", b"{\"text\":1}", b"{\"text\":\"a\",\"b\":1}", b"\xff", b"[[[["] {
            assert!(matches!(text(wrong), Err(BodyError::Json(why)) if why.starts_with("the body is not {\"text\":")));
        }
        assert_eq!(choice(b"{\"class\":\"desk_3\"}").as_deref(), Ok("desk_3"));
        assert!(matches!(choice(b"{\"text\":\"a\"}"), Err(BodyError::Json(_))));
    }

    #[test]
    fn an_id_says_where_to_go_on() {
        for (id, expect) in [
            (None, Resume::Now),
            (Some("a1-7"), Resume::After(7)),
            (Some(" a1-0 "), Resume::After(0)),
            (Some("b2-7"), Resume::AnotherRun),
            (Some("7"), Resume::Now),
            (Some("a1-"), Resume::Now),
            (Some("a1--1"), Resume::Now),
            (Some("a1-99999999999999999999999"), Resume::Now),
            (Some(""), Resume::Now),
        ] {
            assert_eq!(Resume::parse(id, "a1"), expect, "{id:?}");
        }
    }
}
