//! Text: an utterance to token ids.
//!
//! Owns cleaning, Unicode normalising, tokenizing and padding. Called once an utterance by the pipeline, `eval` and the
//! tensor export. It knows no language and corrects no spelling. Tokenizers that are not WordPiece are those of the
//! `tokenizers` library, a Cargo feature: it costs binary size and allocates for every utterance.

use std::borrow::Cow;

#[cfg(feature = "tokenizers")]
use tokenizers::tokenizer::{PostProcessor, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};
use unicode_normalization::UnicodeNormalization;

use crate::config::manifest::TextSpec;
use crate::signal::{Tensor, TensorData};

use super::PreprocessError;
use super::wordpiece::{Refusal, WordPiece};

/// Most tokens, and most bytes, that a manifest can ask for.
const MAX_TOKENS: usize = 8192;
const MAX_BYTES: usize = 1 << 20;

/// Utterances to token ids. One per encoder.
#[derive(Debug)]
pub struct TextPreprocessor {
    tokenizer: Kind,
    shape: [usize; 2],
    pad_id: i64,
    max_bytes: usize,
    whole: bool,
    distinct_min: f32,
    signs_max: f32,
    clean: String,
    truncated: u64,
}

/// Below so many tokens nothing is called a repetition: "no no no" is an answer.
const REPETITION_TOKENS_MIN: usize = 8;

/// Characters of programs, pictures and scripts that do not occur in a sentence. Letters and digits of every script are none of them.
#[must_use]
pub fn is_sign(c: char) -> bool {
    !c.is_alphanumeric() && !c.is_whitespace() && !".,?!'\"-:%$€£&/’‘“”。，？！、：；".contains(c)
}

#[derive(Debug)]
enum Kind {
    WordPiece(WordPiece),
    #[cfg(feature = "tokenizers")]
    Library(Box<Tokenizer>),
}

impl TextPreprocessor {
    /// Checks `spec` and reads the tokenizer, the bytes of the file that `spec.tokenizer` names.
    ///
    /// Padding and truncation that the file sets are replaced by the spec's; its special tokens stay and survive cutting.
    ///
    /// # Errors
    /// [`PreprocessError::Spec`] naming the key or the file, the value and what is expected.
    pub fn new(spec: &TextSpec, tokenizer_json: &[u8]) -> Result<Self, PreprocessError> {
        if !(1..=MAX_TOKENS).contains(&spec.max_tokens) {
            let expected = format!("1 to {MAX_TOKENS}");
            return Err(PreprocessError::spec("encoder.text.max_tokens", spec.max_tokens, expected));
        }
        if !(4..=MAX_BYTES).contains(&spec.max_bytes) {
            let expected = format!("4 to {MAX_BYTES} bytes");
            return Err(PreprocessError::spec("encoder.text.max_bytes", spec.max_bytes, expected));
        }
        if spec.pad_id < 0 {
            return Err(PreprocessError::spec("encoder.text.pad_id", spec.pad_id, "0 or above"));
        }
        let tokenizer = match WordPiece::read(tokenizer_json) {
            Ok(tokenizer) => Kind::WordPiece(tokenizer),
            #[cfg(feature = "tokenizers")]
            Err(Refusal::Kind { .. }) => library(spec, tokenizer_json)?,
            Err(refusal) => return Err(refuse(spec, &refusal)),
        };
        let special = tokenizer.special();
        if spec.max_tokens <= special {
            let expected = format!("more than the {special} special tokens that {} adds", spec.tokenizer);
            return Err(PreprocessError::spec("encoder.text.max_tokens", spec.max_tokens, expected));
        }
        Ok(TextPreprocessor {
            tokenizer,
            shape: [1, spec.max_tokens],
            pad_id: spec.pad_id,
            max_bytes: spec.max_bytes,
            whole: spec.whole,
            distinct_min: spec.distinct_min,
            signs_max: spec.signs_max,
            clean: String::new(),
            truncated: 0,
        })
    }

    /// Dimensions of the tensor: `[1, max_tokens]`.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Every id of the tokenizer lies below this: rows that the model's embedding table needs.
    #[must_use]
    pub fn id_end(&self) -> u32 {
        match &self.tokenizer {
            Kind::WordPiece(tokenizer) => tokenizer.id_end(),
            #[cfg(feature = "tokenizers")]
            Kind::Library(tokenizer) => tokenizer.get_vocab(true).values().max().map_or(0, |id| id.saturating_add(1)),
        }
    }

    /// Turns `text` into the i64 tensor `out`, which is made to fit if it does not.
    ///
    /// # Errors
    /// [`PreprocessError::Sample`] if nothing readable is left of the text, [`PreprocessError::Refused`] if it is outside of the manifest's
    /// bounds; `out` is then unspecified but usable.
    pub fn run(&mut self, text: &str, out: &mut Tensor) -> Result<(), PreprocessError> {
        let head = &text[..text.floor_char_boundary(self.max_bytes)];
        if head.len() < text.len() {
            self.truncated += 1;
        }
        clean(head, &mut self.clean);
        if self.clean.is_empty() {
            let bytes = text.len();
            return Err(PreprocessError::Sample(format!(
                "text of {bytes} bytes holds nothing readable, expected words"
            )));
        }
        self.check_signs()?;
        let max_tokens = self.shape[1];
        // one more than fits tells whether it does
        let read_max = max_tokens + usize::from(self.whole);
        if out.shape != self.shape || !matches!(out.data, TensorData::I64(_)) {
            *out = Tensor::zeros_i64(&self.shape);
        }
        let ids = out.as_i64_mut().expect("the tensor has just been made i64");
        ids.clear();
        match &mut self.tokenizer {
            Kind::WordPiece(tokenizer) => tokenizer.encode(&self.clean, read_max, ids),
            #[cfg(feature = "tokenizers")]
            Kind::Library(tokenizer) => {
                let encoding = tokenizer.encode_fast(self.clean.as_str(), true).map_err(|e| {
                    PreprocessError::Sample(format!("text of {} bytes: tokenizer: {e}", self.clean.len()))
                })?;
                ids.extend(encoding.get_ids().iter().take(read_max).map(|id| i64::from(*id)));
            }
        }
        let refused = if self.whole && (ids.len() > max_tokens || head.len() < text.len()) {
            Some(format!("text is longer than the {max_tokens} tokens that are read; say it shorter"))
        } else {
            repetition(ids, self.distinct_min)
        };
        ids.resize(max_tokens, self.pad_id);
        refused.map_or(Ok(()), |reason| Err(PreprocessError::Refused(reason)))
    }

    fn check_signs(&self) -> Result<(), PreprocessError> {
        let (signs, chars) = self.clean.chars().fold((0, 0), |(signs, n), c| (signs + usize::from(is_sign(c)), n + 1));
        if signs as f32 <= self.signs_max * chars as f32 {
            return Ok(());
        }
        Err(PreprocessError::Refused(format!("text has {signs} signs among {chars} characters, expected words")))
    }

    /// Texts of which only the first `max_bytes` were looked at.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.truncated
    }
}

/// Why `ids` are a repetition, if they are.
fn repetition(ids: &[i64], distinct_min: f32) -> Option<String> {
    if ids.len() < REPETITION_TOKENS_MIN || distinct_min <= 0.0 {
        return None;
    }
    let distinct = (0..ids.len()).filter(|i| !ids[..*i].contains(&ids[*i])).count();
    let repeats = (distinct as f32) < distinct_min * ids.len() as f32;
    repeats.then(|| format!("text has {distinct} different tokens of {}, expected a sentence", ids.len()))
}

impl Kind {
    /// Tokens that are added to every text.
    fn special(&self) -> usize {
        match self {
            Kind::WordPiece(tokenizer) => tokenizer.special(),
            #[cfg(feature = "tokenizers")]
            Kind::Library(tokenizer) => tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false)),
        }
    }
}

fn refuse(spec: &TextSpec, refusal: &Refusal) -> PreprocessError {
    let file = &spec.tokenizer;
    PreprocessError::Spec(match refusal {
        Refusal::Damaged(what) => format!("{file}: {what}; expected a tokenizer.json of the tokenizers library"),
        Refusal::Kind { .. } => format!(
            "{file}: {refusal}, expected a WordPiece model with BERT's normalizer and pre-tokenizer; for other kinds \
             build with --features tokenizers"
        ),
    })
}

/// Any tokenizer of the library, without the file's padding and with the spec's truncation.
#[cfg(feature = "tokenizers")]
fn library(spec: &TextSpec, json: &[u8]) -> Result<Kind, PreprocessError> {
    let bad = |e: tokenizers::Error| refuse(spec, &Refusal::Damaged(e.to_string()));
    let mut tokenizer = Box::new(Tokenizer::from_bytes(json).map_err(bad)?);
    tokenizer.with_padding(None);
    let truncation = TruncationParams {
        direction: TruncationDirection::Right,
        max_length: spec.max_tokens + usize::from(spec.whole),
        strategy: TruncationStrategy::LongestFirst,
        stride: 0,
    };
    let special = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
    // Too few tokens are the caller's to report.
    if spec.max_tokens > special {
        tokenizer.with_truncation(Some(truncation)).map_err(bad)?;
    }
    Ok(Kind::Library(tokenizer))
}

/// Bytes that claim to be UTF-8 as text: what is invalid becomes U+FFFD, which cleaning turns into a space.
#[must_use]
pub fn decode_lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// `text` in Unicode form NFKC, without control and invisible characters, every run of white space one space, none at
/// the ends. Appended to nothing: `out` is replaced.
fn clean(text: &str, out: &mut String) {
    out.clear();
    let mut space = false;
    for c in text.nfkc() {
        if c.is_whitespace() || c == char::REPLACEMENT_CHARACTER {
            space = true;
        } else if !c.is_control() && !is_invisible(c) {
            if space && !out.is_empty() {
                out.push(' ');
            }
            space = false;
            out.push(c);
        }
    }
}

/// Characters without a shape that steer layout: soft hyphen, zero-width characters, direction marks, byte order mark.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of a closed list, lower-cased; id 0 pads, 1 is unknown.
    const TOKENIZER: &str = r###"{
        "version": "1.0", "truncation": null,
        "padding": {"strategy": {"Fixed": 99}, "direction": "Left", "pad_to_multiple_of": null,
                    "pad_id": 7, "pad_type_id": 0, "pad_token": "x"},
        "added_tokens": [], "normalizer": {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[unk]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {"[pad]": 0, "[unk]": 1, "lost": 2, "my": 3, "card": 4, "fi": 5}}}"###;

    fn spec() -> TextSpec {
        TextSpec {
            tokenizer: "tokenizer.json".into(),
            max_tokens: 5,
            pad_id: 0,
            max_bytes: 40,
            hold_ms: 0,
            whole: false,
            distinct_min: 0.0,
            signs_max: 1.0,
        }
    }

    fn ids(text: &str) -> Result<Vec<i64>, String> {
        let mut out = Tensor::zeros_f32(&[1]);
        let mut text_preprocessor = TextPreprocessor::new(&spec(), TOKENIZER.as_bytes()).unwrap();
        text_preprocessor.run(text, &mut out).map_err(|e| e.to_string())?;
        assert_eq!(out.shape, [1, 5]);
        Ok(out.as_i64_mut().unwrap().clone())
    }

    #[test]
    fn text_is_cleaned_normalised_tokenized_and_padded() {
        let cases: [(&str, [i64; 5]); 8] = [
            ("Lost my card", [2, 3, 4, 0, 0]),
            (" \t lost\r\n\n my  ", [2, 3, 0, 0, 0]),
            ("lo\u{0}st\u{200b} \u{feff}my", [2, 3, 0, 0, 0]), // control and invisible characters vanish
            ("my\u{fffd}card", [3, 4, 0, 0, 0]),               // what was invalid parts words
            ("\u{fb01}", [5, 0, 0, 0, 0]),                     // the ligature is compatible with its letters
            ("ｌｏｓｔ", [2, 0, 0, 0, 0]),                     // full-width forms as typed with an Asian keyboard
            ("my my my my my my card", [3, 3, 3, 3, 3]),       // cut to max_tokens
            ("zebra", [1, 0, 0, 0, 0]),
        ];
        for (text, expect) in cases {
            assert_eq!(ids(text), Ok(expect.to_vec()), "{text:?}");
        }
    }

    #[test]
    fn text_without_words_is_refused() {
        for text in ["", "  \n", "\u{0}\u{7}\u{200b}", "\u{fffd}"] {
            let error = ids(text).unwrap_err();
            assert!(error.contains("nothing readable"), "{text:?}: {error}");
        }
    }

    #[test]
    fn text_beyond_max_bytes_is_dropped_at_a_character_and_counted() {
        let mut p = TextPreprocessor::new(&spec(), TOKENIZER.as_bytes()).unwrap();
        let mut out = Tensor::zeros_i64(&[1, 5]);
        p.run(&"é".repeat(20), &mut out).unwrap();
        assert_eq!(p.truncated(), 0);
        p.run(&format!("a{}", "é".repeat(20)), &mut out).unwrap();
        p.run(&"lost ".repeat(2_000_000), &mut out).unwrap();
        assert_eq!(p.truncated(), 2);
        assert_eq!(out.data, TensorData::I64(vec![2; 5]));
    }

    #[test]
    fn what_is_outside_of_the_bounds_is_refused_with_the_reason() {
        let bounds =
            TextSpec { max_tokens: 9, max_bytes: 60, whole: true, distinct_min: 0.5, signs_max: 0.1, ..spec() };
        let none = TextSpec { max_tokens: 9, max_bytes: 60, ..spec() };
        // (text, the reason, empty if it is taken)
        let cases = [
            ("lost my card", ""),
            ("my my my my my my my", ""), // too short to be called a repetition
            ("my card my card my card my card", "2 different tokens of 8"),
            ("my lost card fi my lost card fi", ""), // half of them
            ("my lost card fi my lost card fi zebra", ""),
            ("my lost card fi my lost card fi zebra my", "longer than the 9 tokens"),
            ("my card: 50%?", ""),
            ("f(x) = {my; card}", "6 signs among 17 characters"),
            ("丢了我的卡。", ""),
            ("lost my card lost my card lost my card lost my card lost my card lost my", "longer than"),
        ];
        let mut out = Tensor::zeros_i64(&[1, 9]);
        for (text, expect) in cases {
            let run = |spec: &TextSpec, out: &mut Tensor| {
                TextPreprocessor::new(spec, TOKENIZER.as_bytes()).unwrap().run(text, out)
            };
            let got = match run(&bounds, &mut out) {
                Ok(()) => String::new(),
                Err(PreprocessError::Refused(reason)) => reason,
                Err(other) => panic!("{text:?}: {other}"),
            };
            assert!(if expect.is_empty() { got.is_empty() } else { got.contains(expect) }, "{text:?}: {got:?}");
            assert_eq!(out.as_i64_mut().unwrap().len(), 9, "{text:?}");
            assert!(run(&none, &mut out).is_ok(), "{text:?}: without bounds everything is read");
        }
    }

    #[test]
    fn invalid_bytes_become_replacement_characters() {
        assert_eq!(decode_lossy(b"lost \xff\xfe card"), "lost \u{fffd}\u{fffd} card");
        assert_eq!(decode_lossy(b"\xe2\x82"), "\u{fffd}");
    }

    #[test]
    fn impossible_specs_name_the_key() {
        let check = |spec: TextSpec, json: &str, part: &str| {
            let error = TextPreprocessor::new(&spec, json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}, expected {part}");
        };
        check(TextSpec { max_tokens: 0, ..spec() }, TOKENIZER, "encoder.text.max_tokens = 0, expected");
        check(TextSpec { max_bytes: 0, ..spec() }, TOKENIZER, "encoder.text.max_bytes = 0, expected");
        check(TextSpec { pad_id: -1, ..spec() }, TOKENIZER, "encoder.text.pad_id = -1, expected");
        check(spec(), "{}", "tokenizer.json: ");
        check(spec(), "not json", "tokenizer.json: ");
        check(spec(), "", "tokenizer.json: ");
        let unknown = TOKENIZER.replace(r#""unk_token": "[unk]""#, r#""unk_token": "[none]""#);
        check(spec(), &unknown, "tokenizer.json: model.unk_token = \"[none]\" is not in its vocabulary");
    }

    #[cfg(not(feature = "tokenizers"))]
    #[test]
    fn other_tokenizers_are_refused_with_the_feature_to_build() {
        let bpe = TOKENIZER.replace("WordPiece", "BPE");
        let error = TextPreprocessor::new(&spec(), bpe.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer.json: model = BPE, expected a WordPiece model"), "{error}");
        assert!(error.contains("--features tokenizers"), "{error}");
    }
}
