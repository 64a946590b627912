//! Where in a TOML text something stands, and what is wrong there in plain words.
//!
//! Used by [`super::from_toml`], by the bundle's value checks and, compiled a second time, by build.rs: so nothing of the
//! crate is imported here, only `toml`.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Line, counted from 1, of the byte at `at`.
#[must_use]
pub fn line_at(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

/// Line and plain words for an error of the `toml` crate: an unknown key with the known ones, a wrong type with the key.
#[must_use]
pub fn explain(text: &str, error: &toml::de::Error) -> (usize, String) {
    let line = line_at(text, error.span().map_or(0, |span| span.start));
    let message = error.message();
    let key = key_of(error);
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (name, known) = rest.split_once('`').unwrap_or((rest, ""));
        let known = known.trim_start_matches(", ").trim_start_matches("expected ").trim_start_matches("one of ");
        let known = if known.is_empty() || known == "there are no fields" { "none" } else { known };
        let table = header_above(text, line).map(|table| format!(" in `{table}`")).unwrap_or_default();
        return (
            line,
            format!("unknown key `{name}`{table}; known keys: {}", known.replace('`', "").replace(" or ", ", ")),
        );
    }
    if let Some(name) = message.strip_prefix("missing field `") {
        let name = name.trim_end_matches('`');
        let at = if key.is_empty() { String::new() } else { format!(" in `{key}`") };
        return (line, format!("missing key `{name}`{at}; add it"));
    }
    if let Some(name) = message.strip_prefix("duplicate key") {
        return (line, format!("a key is given twice{name}; remove one"));
    }
    // What the crate says about an enum that is given neither as a word nor as a table.
    let message = message.replace("wanted string or table", "wrong type, expected a word in quotes");
    let message = message.replace("invalid type:", "wrong type:").replace("unknown variant", "unknown value");
    if key.is_empty() { (line, message) } else { (line, format!("{key}: {message}")) }
}

/// Name of the table that `line` belongs to: errors about unknown keys carry no path.
fn header_above(text: &str, line: usize) -> Option<&str> {
    let above: Vec<&str> = text.lines().take(line).collect();
    let header = above.iter().rev().find_map(|l| l.trim().strip_prefix('['))?;
    header.split(']').next().map(|name| name.trim_start_matches('[').trim())
}

/// Dotted path of the key an error is about; empty for errors of the syntax.
fn key_of(error: &toml::de::Error) -> String {
    // The path is only in the error's text, and only in the form without the source.
    let mut plain = error.clone();
    plain.set_input(None);
    let text = plain.to_string();
    text.lines()
        .rev()
        .find_map(|l| l.strip_prefix("in `"))
        .map(|k| k.trim_end_matches('`').to_owned())
        .unwrap_or_default()
}

/// One step of the way to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A key of a table.
    Key(&'a str),
    /// An element of an array, of tables or of values.
    Item(usize),
}

/// Line, counted from 1, of the value at `path`; of the last step that exists, if the rest is absent; 1 for anything else.
#[must_use]
pub fn line_of(text: &str, path: &[Step<'_>]) -> usize {
    find(text, path).0
}

/// Whether there is a value at `path`.
#[must_use]
pub fn is_given(text: &str, path: &[Step<'_>]) -> bool {
    find(text, path).1
}

fn find(text: &str, path: &[Step<'_>]) -> (usize, bool) {
    let Ok(root) = DeTable::parse(text) else { return (1, false) };
    let Some((Step::Key(first), rest)) = path.split_first() else { return (1, path.is_empty()) };
    let Some((key, mut value)) = root.get_ref().get_key_value(*first) else { return (1, false) };
    let mut at = key.span().start;
    for step in rest {
        let next: Option<(usize, &Spanned<DeValue<'_>>)> = match (step, value.get_ref()) {
            (Step::Key(k), DeValue::Table(t)) => t.get_key_value(*k).map(|(k, v)| (k.span().start, v)),
            (Step::Item(i), DeValue::Array(a)) => a.get(*i).map(|v| (v.span().start, v)),
            _ => None,
        };
        let Some((start, found)) = next else { return (line_at(text, at), false) };
        (at, value) = (start, found);
    }
    (line_at(text, at), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are looked at")]
    struct File {
        name: String,
        #[serde(default)]
        item: Vec<Item>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are looked at")]
    struct Item {
        rate: u32,
        kind: Option<Kind>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Red,
        Blue,
    }

    #[test]
    fn an_error_names_line_key_and_what_is_known() {
        let cases = [
            ("nme = 1", 1, "unknown key `nme`; known keys: name, item"),
            ("name = \"x\"\n\n[[item]]\nrate = 1\nrat = 2\n", 5, "unknown key `rat` in `item`; known keys: rate, kind"),
            ("name = 7", 1, "name: wrong type: integer `7`, expected a string"),
            ("name = \"x\"\n[[item]]\nrate = \"5\"\n", 3, "item.rate: wrong type: string \"5\", expected u32"),
            ("name = \"x\"\n[[item]]\nrate = -5\n", 3, "item.rate: invalid value: integer `-5`, expected u32"),
            ("name = \"x\"\n[[item]]\nkind = \"red\"\n", 2, "missing key `rate` in `item`; add it"),
            ("item = []\n", 1, "missing key `name`; add it"),
            (
                "name = \"x\"\n[[item]]\nrate = 1\nkind = \"green\"\n",
                4,
                "item.kind: unknown value `green`, expected `red` or `blue`",
            ),
            ("name = \"x\"\nname = \"y\"\n", 2, "a key is given twice; remove one"),
            ("name = \"x\n", 1, "invalid basic string, expected `\"`"),
        ];
        let mut wrong = Vec::new();
        for (text, line, message) in cases {
            let error = toml::from_str::<File>(text).expect_err(text);
            let said = explain(text, &error);
            if said != (line, message.to_owned()) {
                wrong.push(format!("{text:?}\n  said   {said:?}\n  wanted {:?}", (line, message)));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_path_leads_to_its_line() {
        use Step::{Item, Key};
        let text = "a = 1\n[t]\nx = 1\n[[e]]\nn = 1\n[e.i]\nsize = [1,\n 2]\n[[e]]\nn = 2\n";
        let cases: [(&[Step], usize, bool); 8] = [
            (&[Key("a")], 1, true),
            (&[Key("t"), Key("x")], 3, true),
            (&[Key("t"), Key("y")], 2, false),
            (&[Key("e"), Item(0), Key("n")], 5, true),
            (&[Key("e"), Item(0), Key("i"), Key("size"), Item(1)], 8, true),
            (&[Key("e"), Item(1), Key("n")], 10, true),
            (&[Key("e"), Item(1), Key("i"), Key("size")], 9, false),
            (&[Key("nowhere")], 1, false),
        ];
        for (path, line, given) in cases {
            assert_eq!((line_of(text, path), is_given(text, path)), (line, given), "{path:?}");
        }
    }
}
