//! Commands as they come from a broker: bounded, UTF-8, JSON of a fixed schema, or refused with a reason.
//!
//! What is legal for the bundle (classes, sources, languages, the range of thresholds) is the pipeline's to say; here it is only made
//! sure that what reaches it is small and of the right types.

use serde::Deserialize;

use crate::signal::{Command, RefusalKind};

/// Longest payload of a command.
pub const PAYLOAD_BYTES_MAX: usize = 4096;

/// Longest name in a command: of a class, a source, a language.
const NAME_CHARS_MAX: usize = 128;

/// Longest `id`.
const ID_CHARS_MAX: usize = 64;

/// Why a command was refused, as a word for counters and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was retained: it is from another time.
    Retained,
    /// It is longer than [`PAYLOAD_BYTES_MAX`].
    Size,
    /// It is no UTF-8.
    Utf8,
    /// It is no JSON of the command's schema.
    Schema,
    /// There is no such command.
    Unsupported,
    /// The run refused it.
    Run(RefusalKind),
}

impl Why {
    /// Every reason, in the order of the counters.
    pub const ALL: [Why; 9] = [
        Why::Retained,
        Why::Size,
        Why::Utf8,
        Why::Schema,
        Why::Unsupported,
        Why::Run(RefusalKind::Full),
        Why::Run(RefusalKind::Unknown),
        Why::Run(RefusalKind::Range),
        Why::Run(RefusalKind::NotOffered),
    ];

    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Why::Retained => "retained",
            Why::Size => "size",
            Why::Utf8 => "utf8",
            Why::Schema => "schema",
            Why::Unsupported => "unsupported",
            Why::Run(kind) => kind.word(),
        }
    }
}

/// A command that was refused before it reached the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What sort of reason.
    pub why: Why,
    /// For people.
    pub reason: String,
    /// The sender's mark, as far as it could be read.
    pub id: Option<String>,
}

/// A command that can be handed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The sender's mark, which the answer repeats.
    pub id: Option<String>,
    /// What is asked.
    pub command: Command,
}

/// A message on a command's topic.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The last level of the topic.
    pub name: &'a str,
    /// What it carries.
    pub payload: &'a [u8],
    /// Whether the broker kept it from another time.
    pub retained: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    id: Option<String>,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    id: Option<String>,
    class: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mute {
    id: Option<String>,
    source: String,
    muted: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Thresholds {
    id: Option<String>,
    enter: f32,
    exit: Option<f32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Language {
    id: Option<String>,
    lang: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reload {
    id: Option<String>,
}

#[derive(Deserialize)]
struct Marked {
    id: Option<String>,
}

/// Reads a command.
///
/// # Errors
/// [`Rejection`], with the reason for the sender.
pub fn parse(message: &Message<'_>) -> Result<Request, Rejection> {
    let reject = |why, reason: String, id| Err(Rejection { why, reason, id });
    let Message { name, payload, retained } = *message;
    if retained {
        return reject(
            Why::Retained,
            "a retained command is from another time; publish it without retain".into(),
            None,
        );
    }
    if payload.len() > PAYLOAD_BYTES_MAX {
        return reject(Why::Size, format!("{} bytes, expected at most {PAYLOAD_BYTES_MAX}", payload.len()), None);
    }
    let Ok(text) = std::str::from_utf8(payload) else {
        return reject(Why::Utf8, "no UTF-8".into(), None);
    };
    let id =
        serde_json::from_str::<Marked>(text).ok().and_then(|m| m.id).filter(|id| id.chars().count() <= ID_CHARS_MAX);
    let is_known = super::topics::COMMANDS.contains(&name);
    if is_known && !text.trim_start().starts_with('{') {
        return reject(Why::Schema, format!("expected an object, {}", example(name)), None);
    }
    let read = match name {
        "text" => serde_json::from_str(text).map(|Text { id, text }| (id, Command::Text(text))),
        "choice" => serde_json::from_str(text).map(|Choice { id, class }| (id, Command::Choose { class })),
        "mute" => serde_json::from_str(text).map(|Mute { id, source, muted }| (id, Command::Mute { source, muted })),
        "thresholds" => {
            serde_json::from_str(text).map(|Thresholds { id, enter, exit }| (id, Command::Thresholds { enter, exit }))
        }
        "language" => serde_json::from_str(text).map(|Language { id, lang }| (id, Command::Language(lang))),
        "reload" => serde_json::from_str(text).map(|Reload { id }| (id, Command::Reload)),
        _ => {
            let known = super::topics::COMMANDS.join(", ");
            let name: String = name.chars().take(NAME_CHARS_MAX).collect();
            return reject(Why::Unsupported, format!("there is no command {name:?}; known commands: {known}"), id);
        }
    };
    let (id, command) = match read {
        Ok((None, command)) => (None, command),
        Ok((Some(id), command)) if id.chars().count() <= ID_CHARS_MAX => (Some(id), command),
        Ok(_) => return reject(Why::Schema, format!("id: expected at most {ID_CHARS_MAX} characters"), None),
        Err(error) => return reject(Why::Schema, format!("{error}; expected {}", example(name)), id),
    };
    let word = match &command {
        Command::Choose { class: word } | Command::Mute { source: word, .. } | Command::Language(word) => word,
        Command::Text(_) | Command::Thresholds { .. } | Command::Reload => "",
    };
    if word.chars().count() > NAME_CHARS_MAX {
        return reject(Why::Schema, format!("a name of more than {NAME_CHARS_MAX} characters"), id);
    }
    Ok(Request { id, command })
}

/// What a command looks like.
fn example(name: &str) -> &'static str {
    match name {
        "text" => r#"{"text":"my card was declined"}"#,
        "choice" => r#"{"class":"desk_3"}"#,
        "mute" => r#"{"source":"mic","muted":true}"#,
        "thresholds" => r#"{"enter":0.7,"exit":0.45}"#,
        "reload" => "{}",
        _ => r#"{"lang":"en"}"#,
    }
}

/// What became of a command, for its sender.
#[must_use]
pub fn answer(name: &str, id: Option<&str>, result: Result<(), (Why, &str)>) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Answer<'a> {
        v: u32,
        command: &'a str,
        id: Option<&'a str>,
        ok: bool,
        refused: Option<&'a str>,
        reason: Option<&'a str>,
    }
    let name = name.char_indices().nth(NAME_CHARS_MAX).map_or(name, |(end, _)| &name[..end]);
    let (refused, reason) = result.err().map(|(why, reason)| (why.word(), reason)).unzip();
    let answer = Answer { v: 1, command: name, id, ok: result.is_ok(), refused, reason };
    serde_json::to_vec(&answer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, payload, and the command, or the word of its refusal and the beginning of the reason.
    type Row<'a> = (&'a str, &'a [u8], Result<Command, (&'a str, &'a str)>);

    /// What is wrong with a row.
    fn check(name: &str, payload: &[u8], expected: Result<Command, (&str, &str)>) -> Result<(), String> {
        let got = parse(&Message { name, payload, retained: false });
        let is_as_expected = match (&got, &expected) {
            (Ok(request), Ok(command)) => request.command == *command,
            (Err(rejection), Err((word, reason))) => {
                rejection.why.word() == *word && rejection.reason.starts_with(reason)
            }
            _ => false,
        };
        if is_as_expected {
            return Ok(());
        }
        Err(format!("{name} {:?}\n  said     {got:?}\n  expected {expected:?}", String::from_utf8_lossy(payload)))
    }

    #[test]
    fn a_command_is_read_or_refused_with_its_reason() {
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(PAYLOAD_BYTES_MAX));
        let long_name = format!(r#"{{"class":"{}"}}"#, "x".repeat(200));
        let long_id = format!(r#"{{"text":"x","id":"{}"}}"#, "x".repeat(65));
        let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
        let thresholds = |enter, exit| Ok(Command::Thresholds { enter, exit });
        let rows: Vec<Row<'_>> = vec![
            ("text", br#"{"text":"my card"}"#, Ok(Command::Text("my card".into()))),
            ("text", br#"{"text":"\u00e9"}"#, Ok(Command::Text("\u{e9}".into()))),
            ("text", b"my card", Err(("schema", "expected an object, {\"text\":"))),
            ("text", b"", Err(("schema", "expected an object"))),
            ("text", br#"{"text":5}"#, Err(("schema", "invalid type: integer `5`, expected a string"))),
            ("text", br#"{"txt":"x"}"#, Err(("schema", "unknown field `txt`"))),
            ("text", br#"{"text":"x","text":"y"}"#, Err(("schema", "duplicate field `text`"))),
            ("text", br#"{"text":"x"} {}"#, Err(("schema", "trailing characters"))),
            ("text", b"\xff\xfe", Err(("utf8", "no UTF-8"))),
            ("text", br#"{"text":"\ud800"}"#, Err(("schema", "unexpected end of hex escape"))),
            ("text", long.as_bytes(), Err(("size", "4107 bytes, expected at most 4096"))),
            ("text", long_id.as_bytes(), Err(("schema", "id: expected at most 64 characters"))),
            ("text", deep.as_bytes(), Err(("schema", "expected an object"))),
            ("text", br#"["7","x"]"#, Err(("schema", "expected an object"))),
            ("choice", br#"{"class":"desk_3"}"#, Ok(Command::Choose { class: "desk_3".into() })),
            ("choice", long_name.as_bytes(), Err(("schema", "a name of more than 128 characters"))),
            ("mute", br#"{"source":"mic","muted":true}"#, Ok(Command::Mute { source: "mic".into(), muted: true })),
            ("mute", br#"{"source":"mic","muted":"yes"}"#, Err(("schema", "invalid type: string"))),
            ("mute", br#"{"source":"mic"}"#, Err(("schema", "missing field `muted`"))),
            ("thresholds", br#"{"enter":0.8}"#, thresholds(0.8, None)),
            ("thresholds", br#"{"enter":0.8,"exit":0.3}"#, thresholds(0.8, Some(0.3))),
            // ranges are the policy's
            ("thresholds", br#"{"enter":7}"#, thresholds(7.0, None)),
            ("thresholds", br#"{"enter":1e400}"#, Err(("schema", "number out of range"))),
            ("thresholds", br#"{"enter":NaN}"#, Err(("schema", "expected value"))),
            ("language", br#"{"lang":"zh"}"#, Ok(Command::Language("zh".into()))),
            ("reload", b"{}", Ok(Command::Reload)),
            ("reload", br#"{"id":"7"}"#, Ok(Command::Reload)),
            ("reload", b"", Err(("schema", "expected an object, {}"))),
            ("reload", br#"{"file":"x"}"#, Err(("schema", "unknown field `file`"))),
            ("sing", b"{}", Err(("unsupported", "there is no command \"sing\"; known commands: text, choice"))),
        ];
        let wrong: Vec<String> = rows.into_iter().filter_map(|(n, p, e)| check(n, p, e).err()).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let kept = parse(&Message { name: "text", payload: br#"{"text":"x"}"#, retained: true }).unwrap_err();
        assert_eq!(kept.why, Why::Retained);
    }

    #[test]
    fn an_answer_repeats_the_mark() {
        let marked = br#"{"id":"7","txt":1}"#;
        let rejection = parse(&Message { name: "text", payload: marked, retained: false }).unwrap_err();
        assert_eq!(rejection.id.as_deref(), Some("7"));
        let json = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(
            json(answer("text", Some("7"), Ok(()))),
            r#"{"v":1,"command":"text","id":"7","ok":true,"refused":null,"reason":null}"#
        );
        assert_eq!(
            json(answer("mute", None, Err((Why::Run(RefusalKind::Unknown), "no such source")))),
            r#"{"v":1,"command":"mute","id":null,"ok":false,"refused":"unknown","reason":"no such source"}"#
        );
    }

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<&str> = Why::ALL.iter().map(|w| w.word()).collect();
        assert_eq!(words.len(), Why::ALL.len());
    }
}
