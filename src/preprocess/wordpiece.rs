//! WordPiece: cleaned text to token ids, as the `tokenizers` library does it.
//!
//! Owns the kinds of `tokenizer.json` that BERT's family of small text encoders uses: BERT's normalizer and
//! pre-tokenizer, a WordPiece model, and special tokens around the text. The text code calls it once an utterance. Other
//! kinds are refused with their name ([`Refusal::Kind`]); the library reads them. Equality with the library is tested.
//!
//! Sources: J. Devlin et al., `tokenization.py` of BERT (2018); the library's version 0.23.2.

use std::collections::HashMap;

use serde::Deserialize;
use unicode_categories::UnicodeCategories;
use unicode_normalization::UnicodeNormalization;

/// Why a `tokenizer.json` is not read here.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    /// It is none, or it contradicts itself.
    #[error("{0}")]
    Damaged(String),
    /// It is of another kind: the part and what it is.
    #[error("{part} = {kind}")]
    Kind { part: &'static str, kind: String },
}

/// A tokenizer.
#[derive(Debug)]
pub(super) struct WordPiece {
    normalizer: Normalizer,
    /// Ids of the pieces that begin a word, and of those that continue one, the latter without their prefix.
    initial: HashMap<Box<str>, u32>,
    continuing: HashMap<Box<str>, u32>,
    unknown: u32,
    chars_max: usize,
    /// Bytes of the longest piece.
    piece_bytes_max: usize,
    /// Tokens that are looked for in the text before it is normalized.
    added: Vec<(Box<str>, u32)>,
    /// Ids in front of the text and behind it.
    before: Vec<u32>,
    after: Vec<u32>,
    id_end: u32,
    normalized: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Part,
    #[serde(default)]
    pre_tokenizer: Part,
    #[serde(default)]
    post_processor: Part,
    model: serde_json::Value,
}

/// A part of a tokenizer, tagged with its kind; null: there is none.
type Part = serde_json::Value;

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: Box<str>,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Normalizer {
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
}

#[derive(Deserialize)]
struct Model {
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
    vocab: HashMap<Box<str>, u32>,
}

#[derive(Deserialize)]
struct BertProcessing {
    sep: (String, u32),
    cls: (String, u32),
}

#[derive(Deserialize)]
struct TemplateProcessing {
    single: Vec<TemplatePiece>,
    special_tokens: HashMap<String, TemplateToken>,
}

#[derive(Deserialize)]
enum TemplatePiece {
    SpecialToken { id: String },
    Sequence {},
}

#[derive(Deserialize)]
struct TemplateToken {
    ids: Vec<u32>,
}

impl WordPiece {
    /// Reads a `tokenizer.json`.
    pub fn read(json: &[u8]) -> Result<Self, Refusal> {
        let file: File = serde_json::from_slice(json).map_err(|e| Refusal::Damaged(e.to_string()))?;
        let normalizer = match kind_of(&file.normalizer) {
            "BertNormalizer" => parse(&file.normalizer)?,
            _ => return Err(other("normalizer", &file.normalizer)),
        };
        if kind_of(&file.pre_tokenizer) != "BertPreTokenizer" {
            return Err(other("pre_tokenizer", &file.pre_tokenizer));
        }
        let (before, after) = surroundings(&file.post_processor)?;
        if kind_of(&file.model) != "WordPiece" {
            return Err(other("model", &file.model));
        }
        let model: Model = parse(&file.model)?;
        let Some(&unknown) = model.vocab.get(model.unk_token.as_str()) else {
            return Err(Refusal::Damaged(format!("model.unk_token = {:?} is not in its vocabulary", model.unk_token)));
        };
        if let Some(token) = file.added_tokens.iter().find(|t| t.single_word || t.lstrip || t.rstrip || t.normalized) {
            let kind = format!("{:?} with single_word, lstrip, rstrip or normalized", token.content);
            return Err(Refusal::Kind { part: "added_tokens", kind });
        }
        let ids = model.vocab.values().chain(file.added_tokens.iter().map(|t| &t.id)).chain(&before).chain(&after);
        let id_end = ids.max().map_or(0, |id| id.saturating_add(1));
        let piece_bytes_max = model.vocab.keys().map(|piece| piece.len()).max().unwrap_or(0);
        let prefix = model.continuing_subword_prefix.as_str();
        let continuing = model.vocab.iter().filter_map(|(piece, id)| Some((piece.strip_prefix(prefix)?, *id)));
        // A piece of nothing would never end.
        let continuing = continuing.filter(|(piece, _)| !piece.is_empty()).map(|(piece, id)| (piece.into(), id));
        Ok(WordPiece {
            normalizer,
            continuing: continuing.collect(),
            initial: model.vocab.into_iter().filter(|(piece, _)| !piece.is_empty()).collect(),
            unknown,
            chars_max: model.max_input_chars_per_word,
            piece_bytes_max,
            added: file.added_tokens.into_iter().filter(|t| !t.content.is_empty()).map(|t| (t.content, t.id)).collect(),
            before,
            after,
            id_end,
            normalized: String::new(),
            ids: Vec::new(),
        })
    }

    /// Tokens that are added to every text.
    pub fn special(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// Every id lies below this.
    pub fn id_end(&self) -> u32 {
        self.id_end
    }

    /// Appends the ids of `text` to `out`, at most `tokens_max`, which is more than [`WordPiece::special`].
    pub fn encode(&mut self, text: &str, tokens_max: usize, out: &mut Vec<i64>) {
        self.ids.clear();
        // What is beyond is cut off anyway, and a text may be long.
        let kept = tokens_max - self.special();
        let mut rest = text;
        while self.ids.len() < kept
            && let Some((start, token, id)) = self.first_added(rest)
        {
            self.encode_piece(&rest[..start], kept);
            self.ids.push(id);
            rest = &rest[start + token..];
        }
        self.encode_piece(rest, kept);
        self.ids.truncate(kept);
        let ids = self.before.iter().chain(&self.ids).chain(&self.after);
        out.extend(ids.map(|id| i64::from(*id)));
    }

    /// The first added token in `text`, the longest of those that begin there: where it begins, its bytes, its id.
    fn first_added(&self, text: &str) -> Option<(usize, usize, u32)> {
        let found = self.added.iter().filter_map(|(token, id)| Some((text.find(&**token)?, token.len(), *id)));
        found.min_by_key(|(start, len, _)| (*start, std::cmp::Reverse(*len)))
    }

    /// Appends the ids of `text`, until there are `kept`.
    fn encode_piece(&mut self, text: &str, kept: usize) {
        let mut normalized = std::mem::take(&mut self.normalized);
        normalized.clear();
        self.normalizer.run(text, &mut normalized);
        'words: for word in normalized.split(char::is_whitespace) {
            for part in word.split_inclusive(is_punctuation) {
                if self.ids.len() >= kept {
                    break 'words;
                }
                // The punctuation at the end of a part is a word of its own.
                let mark = part.chars().next_back().filter(|c| is_punctuation(*c)).map_or(0, char::len_utf8);
                let (letters, mark) = part.split_at(part.len() - mark);
                self.encode_word(letters);
                self.encode_word(mark);
            }
        }
        self.normalized = normalized;
    }

    /// The longest piece first, from the left; a word that cannot be pieced together is unknown as a whole.
    fn encode_word(&mut self, word: &str) {
        let first = self.ids.len();
        if word.chars().count() > self.chars_max {
            self.ids.push(self.unknown);
            return;
        }
        let mut rest = word;
        while !rest.is_empty() {
            let vocabulary = if rest.len() == word.len() { &self.initial } else { &self.continuing };
            let mut piece = &rest[..rest.floor_char_boundary(self.piece_bytes_max)];
            let id = loop {
                if let Some(id) = vocabulary.get(piece) {
                    break *id;
                }
                let Some((last, _)) = piece.char_indices().next_back().filter(|(last, _)| *last > 0) else {
                    self.ids.truncate(first);
                    self.ids.push(self.unknown);
                    return;
                };
                piece = &piece[..last];
            };
            self.ids.push(id);
            rest = &rest[piece.len()..];
        }
    }
}

impl Normalizer {
    /// Appends `text` to `out`, normalized.
    fn run(self, text: &str, out: &mut String) {
        let cleaned = text.chars().filter_map(|c| match c {
            _ if !self.clean_text => Some(c),
            '\t' | '\n' | '\r' => Some(' '),
            '\0' | char::REPLACEMENT_CHARACTER => None,
            _ if c.is_other() => None,
            _ if c.is_whitespace() => Some(' '),
            _ => Some(c),
        });
        let parted = cleaned.flat_map(|c| {
            let space = (self.handle_chinese_chars && is_chinese(c)).then_some(' ');
            space.into_iter().chain([c]).chain(space)
        });
        if self.strip_accents.unwrap_or(self.lowercase) {
            self.lower(parted.nfd().filter(|c| !c.is_mark_nonspacing()), out);
        } else {
            self.lower(parted, out);
        }
    }

    fn lower(self, text: impl Iterator<Item = char>, out: &mut String) {
        if self.lowercase {
            out.extend(text.flat_map(char::to_lowercase));
        } else {
            out.extend(text);
        }
    }
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.is_punctuation()
}

/// The blocks of CJK unified and compatibility ideographs that BERT's normalizer knows.
fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4e00..=0x9fff
            | 0x3400..=0x4dbf
            | 0x20000..=0x2a6df
            | 0x2a700..=0x2b73f
            | 0x2b740..=0x2b81f
            | 0x2b920..=0x2ceaf
            | 0xf900..=0xfaff
            | 0x2f800..=0x2fa1f
    )
}

/// Ids in front of a text and behind it.
fn surroundings(part: &Part) -> Result<(Vec<u32>, Vec<u32>), Refusal> {
    match kind_of(part) {
        "null" => Ok((Vec::new(), Vec::new())),
        "BertProcessing" => {
            let BertProcessing { sep, cls } = parse(part)?;
            Ok((vec![cls.1], vec![sep.1]))
        }
        "TemplateProcessing" => {
            let template: TemplateProcessing = parse(part)?;
            let mut ids = (Vec::new(), Vec::new());
            let mut texts = 0;
            for piece in &template.single {
                match piece {
                    TemplatePiece::Sequence {} => texts += 1,
                    TemplatePiece::SpecialToken { id } => {
                        let side = if texts == 0 { &mut ids.0 } else { &mut ids.1 };
                        let missing = || Refusal::Damaged(format!("post_processor: there is no special token {id:?}"));
                        side.extend(&template.special_tokens.get(id).ok_or_else(missing)?.ids);
                    }
                }
            }
            if texts == 1 { Ok(ids) } else { Err(other("post_processor", part)) }
        }
        _ => Err(other("post_processor", part)),
    }
}

fn kind_of(part: &Part) -> &str {
    match part {
        Part::Null => "null",
        part => part.get("type").and_then(Part::as_str).unwrap_or("of no type"),
    }
}

fn other(part: &'static str, value: &Part) -> Refusal {
    Refusal::Kind { part, kind: kind_of(value).to_string() }
}

fn parse<'a, T: Deserialize<'a>>(part: &'a Part) -> Result<T, Refusal> {
    T::deserialize(part).map_err(|e| Refusal::Damaged(format!("{}: {e}", kind_of(part))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::Tokenizer;

    use super::*;

    const KIOSK: &[u8] = include_bytes!("../../models/kiosk/tokenizer.json");
    const TOKENS_MAX: usize = 4096;

    fn with(json: &[u8], changes: &[(&str, &str)]) -> Vec<u8> {
        let mut text = String::from_utf8(json.to_vec()).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        text.into_bytes()
    }

    /// Ours and the library's.
    struct Pair(WordPiece, Tokenizer);

    impl Pair {
        fn new(json: &[u8]) -> Self {
            Pair(WordPiece::read(json).unwrap(), Tokenizer::from_bytes(json).unwrap())
        }

        fn check(&mut self, text: &str) {
            let mut ids = Vec::new();
            self.0.encode(text, TOKENS_MAX, &mut ids);
            let theirs = self.1.encode_fast(text, true).unwrap();
            let theirs: Vec<i64> = theirs.get_ids().iter().map(|id| i64::from(*id)).collect();
            assert_eq!(ids, theirs, "{text:?}");
        }
    }

    /// The ids of every text are the same.
    fn check<'a>(json: &[u8], texts: impl IntoIterator<Item = &'a str>) {
        let mut pair = Pair::new(json);
        texts.into_iter().for_each(|text| pair.check(text));
    }

    const TEXTS: &[&str] = &[
        "my card was declined at the restaurant",
        "What's the exchange-rate between USD and GBP, please?!",
        "Ich möchte eine Überweisung über 3.50€ ausführen",
        "déjà vu; İstanbul; ǅungla; ΟΔΟΣ; ﬁancé",
        "我的卡丢了 and 私はカードをなくした 카드를 잃어버렸어요",
        "[UNK][PAD] [unk] a[PAD]b [PAD",
        "##ing ## # a##b",
        "tab\tline\nreturn\r\u{a0}\u{2003}end\u{200b}\u{ad}x\u{7f}",
        "e\u{301}\u{323}\u{302} \u{1f600}\u{1f3fd} \u{e000} \u{fffd}",
        "¿qué? «oui» “no” … – — ‰ $5 5% ^_^ <b>",
        "",
        "   ",
    ];

    #[test]
    fn ids_are_the_librarys() {
        check(KIOSK, TEXTS.iter().copied());
        let intents = include_str!("../../models/kiosk/intents.txt").replace('_', " ");
        check(KIOSK, intents.lines());
        check(KIOSK, include_str!("../../README.md").lines());
        check(KIOSK, include_str!("../../models/kiosk/advice.toml").lines());
        for length in [99, 100, 101] {
            check(KIOSK, ["a".repeat(length).as_str(), "é".repeat(length).as_str()]);
        }
    }

    #[test]
    fn every_option_of_the_normalizer_is_the_librarys() {
        for (from, to) in [
            (r#""lowercase":true"#, r#""lowercase":false"#),
            (r#""clean_text":true"#, r#""clean_text":false"#),
            (r#""handle_chinese_chars":true"#, r#""handle_chinese_chars":false"#),
            (r#""strip_accents":null"#, r#""strip_accents":false"#),
        ] {
            check(&with(KIOSK, &[(from, to)]), TEXTS.iter().copied());
        }
    }

    #[test]
    fn special_tokens_surround_the_text_and_survive_cutting() {
        let bert = r#""post_processor":{"type":"BertProcessing","sep":["c",3],"cls":["0",5]}"#;
        let template = r#""post_processor":{"type":"TemplateProcessing",
            "single":[{"SpecialToken":{"id":"0","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"c","type_id":0}}],
            "pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],
            "special_tokens":{"0":{"id":"0","ids":[5],"tokens":["0"]},"c":{"id":"c","ids":[3],"tokens":["c"]}}}"#;
        for post in [bert, template] {
            let json = with(KIOSK, &[(r#""post_processor":null"#, post)]);
            check(&json, TEXTS.iter().copied());
            let mut tokenizer = WordPiece::read(&json).unwrap();
            assert_eq!(tokenizer.special(), 2);
            let mut ids = Vec::new();
            tokenizer.encode("2 8 2 8 2 8", 4, &mut ids);
            assert_eq!(ids, [5, 7, 8, 3]);
        }
    }

    #[test]
    fn a_text_is_read_no_further_than_its_tokens_reach() {
        let mut tokenizer = WordPiece::read(KIOSK).unwrap();
        let mut all = Vec::new();
        let text = TEXTS.join(" ");
        tokenizer.encode(&text, TOKENS_MAX, &mut all);
        for tokens_max in 1..all.len() {
            let mut ids = Vec::new();
            tokenizer.encode(&text, tokens_max, &mut ids);
            assert_eq!(ids, all[..tokens_max]);
        }
        // Every added token is looked for in all that is left: this takes minutes unless it ends with the last id wanted.
        let mut ids = Vec::new();
        tokenizer.encode(&"[UNK]".repeat(200_000), 32, &mut ids);
        assert_eq!(ids.len(), 32);
        assert!(tokenizer.ids.capacity() < 10_000, "{}", tokenizer.ids.capacity());
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        let refuse = |from: &str, to: &str, expect: &str| {
            let refusal = WordPiece::read(&with(KIOSK, &[(from, to)])).unwrap_err();
            assert!(matches!(&refusal, Refusal::Kind { .. }) && refusal.to_string() == expect, "{refusal}");
        };
        refuse(r#""type":"BertNormalizer""#, r#""type":"NFC""#, "normalizer = NFC");
        refuse(r#""type":"BertPreTokenizer""#, r#""type":"Metaspace""#, "pre_tokenizer = Metaspace");
        refuse(r#""post_processor":null"#, r#""post_processor":{"type":"ByteLevel"}"#, "post_processor = ByteLevel");
        refuse(r#""model":{"type":"WordPiece""#, r#""model":{"type":"Unigram""#, "model = Unigram");
    }

    #[test]
    fn ids_of_any_text_are_the_librarys() {
        let pair = std::cell::RefCell::new(Pair::new(KIOSK));
        proptest!(ProptestConfig::with_cases(400), |(text in ".{0,40}|[a-zA-Z ,.'-]{0,60}|\\PC{0,20}")| {
            // The library's Unicode tables are older than ours: a letter assigned since then decomposes here alone.
            if text.nfd().eq(unicode_normalization_of_the_library(&text)) {
                pair.borrow_mut().check(&text);
            }
        });
    }

    fn unicode_normalization_of_the_library(text: &str) -> impl Iterator<Item = char> {
        let mut normalized = tokenizers::NormalizedString::from(text);
        normalized.nfd();
        normalized.get().chars().collect::<Vec<_>>().into_iter()
    }
}
