//! The advice catalogue: what the visitor is told about a decision, in every language of the bundle, and the actions that
//! go with it.
//!
//! The bundle parses it once ([`Catalogue::parse`]), the pipeline asks it on every verdict. Texts are checked and formatted
//! at load, so that giving advice only counts references. Carrying out actions is not done here: they are data.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{ConfigError, from_toml};
use crate::signal::{Advice, Choice, Decision, DecisionState, Listing, MAX_CHOICES};

use super::{Policy, Verdict};

/// Up to this many classes, every question is formatted at load (of 16 classes 120 pairs and 560 triples a language).
const MAX_CACHED_CLASSES: usize = 16;

/// A language that the catalogue does not speak.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "language \"{tag}\" is not in the advice catalogue, which has {known}; choose one of them, or declare [fallback] \"{tag}\" = ... there"
)]
pub struct UnknownLanguage {
    /// What was asked for.
    pub tag: String,
    /// What there is.
    pub known: String,
}

/// A language of one [`Catalogue`]; cheap to copy and to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lang(usize);

/// Something to do about a decision. Data for the sinks; nothing here carries it out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Action {
    /// Show this page: a path below the kiosk's page.
    Page(String),
    /// Speak: `advice` for the text of the advice, or the name of a recorded announcement.
    Say(String),
    /// Set an output line, found by its label.
    Gpio {
        /// Label of the line on the board.
        line: String,
        /// Back to low after this long; absent: it stays.
        pulse_ms: Option<u32>,
    },
    /// Publish a message.
    Mqtt {
        /// Topic.
        topic: String,
        /// Message, as is.
        payload: String,
    },
}

/// The file as written. Keys are kept with their place, so that an error names the line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    languages: Vec<Spanned<String>>,
    #[serde(default)]
    fallback: BTreeMap<Spanned<String>, Spanned<String>>,
    rules: Rules,
    class: BTreeMap<Spanned<String>, ClassEntry>,
    #[serde(default)]
    intent: BTreeMap<Spanned<String>, Texts>,
    #[serde(default)]
    actions: BTreeMap<Spanned<String>, Vec<Action>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    ask: Spanned<Texts>,
    ask_three: Spanned<Texts>,
    escalate: Spanned<Texts>,
    exit: Spanned<Texts>,
    intent: Spanned<Texts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassEntry {
    name: Texts,
    short: Texts,
    text: Texts,
}

/// Text by language tag.
type Texts = BTreeMap<Spanned<String>, Spanned<String>>;

/// Text by language, in the order of the catalogue's languages.
type ByLang = Vec<Arc<str>>;

/// One class as shown.
#[derive(Clone, Debug)]
struct ClassText {
    short: ByLang,
    text: ByLang,
}

#[derive(Clone, Debug)]
struct IntentText {
    id: Arc<str>,
    class: usize,
    text: ByLang,
}

/// The checked catalogue of one bundle.
#[derive(Clone, Debug)]
pub struct Catalogue {
    languages: Vec<Arc<str>>,
    labels: Vec<Arc<str>>,
    /// By class; `None` for the label that is never decided.
    classes: Vec<Option<ClassText>>,
    intents: HashMap<Arc<str>, IntentText>,
    /// Two-way and three-way templates.
    ask: [ByLang; 2],
    /// Questions by their classes in label order.
    questions: HashMap<heapless::Vec<u16, MAX_CHOICES>, ByLang>,
    escalate: ByLang,
    exit: ByLang,
    ids: RuleIds,
    actions: BTreeMap<String, Vec<Action>>,
}

#[derive(Clone, Debug)]
struct RuleIds {
    ask: Arc<str>,
    escalate: Arc<str>,
    exit: Arc<str>,
}

/// What a catalogue is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The classes, in the order of the probabilities.
    pub labels: &'a [Arc<str>],
    /// Index of the label that is never decided and needs no advice.
    pub none: Option<usize>,
    /// Every intent of the bundle and the class it belongs to.
    pub intents: &'a [(Arc<str>, usize)],
}

impl Catalogue {
    /// Parses and checks `text`, which came from `path`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the line: unknown key, class or intent, a class without advice, a language that is
    /// missing somewhere and has no fallback, a template with a placeholder it does not know.
    pub fn parse(path: &Path, text: &str, known: Known) -> Result<Catalogue, ConfigError> {
        let file: File = from_toml(path, text)?;
        let check = Checker::new(path, text, &file)?;
        let class_of = |key: &Spanned<String>| known.labels.iter().position(|l| **l == **key.get_ref());

        let mut classes: Vec<Option<ClassText>> = vec![None; known.labels.len()];
        let mut names: Vec<ByLang> = vec![Vec::new(); known.labels.len()];
        for (key, entry) in &file.class {
            let label = key.get_ref();
            let Some(class) = class_of(key) else {
                let message = format!("unknown class \"{label}\", known are: {}", known.labels.join(", "));
                return Err(check.error(key.span().start, message));
            };
            let at = key.span().start;
            names[class] = check.texts(&entry.name, at, &format!("class.{label}.name"))?;
            classes[class] = Some(ClassText {
                short: check.texts(&entry.short, at, &format!("class.{label}.short"))?,
                text: check.texts(&entry.text, at, &format!("class.{label}.text"))?,
            });
        }
        for (class, label) in known.labels.iter().enumerate() {
            if classes[class].is_none() && known.none != Some(class) {
                return Err(check.error(text.len(), format!("class \"{label}\" has no advice; add [class.{label}]")));
            }
        }

        let rule = |texts: &Spanned<Texts>, key: &str, places: &[&str]| -> Result<ByLang, ConfigError> {
            let at = texts.span().start;
            let by_lang = check.texts(texts.get_ref(), at, &format!("rules.{key}"))?;
            for template in &by_lang {
                check_places(template, places).map_err(|what| check.error(at, format!("rules.{key}: {what}")))?;
            }
            Ok(by_lang)
        };
        let ask = [
            rule(&file.rules.ask, "ask", &["{a}", "{b}"])?,
            rule(&file.rules.ask_three, "ask_three", &["{a}", "{b}", "{c}"])?,
        ];
        let with_name = rule(&file.rules.intent, "intent", &["{name}", "{text}"])?;

        let mut intents = HashMap::with_capacity(file.intent.len());
        for (key, entry) in &file.intent {
            let name = key.get_ref();
            let Some((id, class)) = known.intents.iter().find(|(id, _)| **id == **name) else {
                let message =
                    format!("unknown intent \"{name}\"; the bundle's encoders have {} intents", known.intents.len());
                return Err(check.error(key.span().start, message));
            };
            let text = check.texts(entry, key.span().start, &format!("intent.{name}"))?;
            let text = (0..text.len())
                .map(|l| fill(&with_name[l], &[("{name}", &names[*class][l]), ("{text}", &text[l])]))
                .collect();
            intents.insert(id.clone(), IntentText { id: id.clone(), class: *class, text });
        }

        let rule_names = ["ask", "escalate", "exit"];
        for key in file.actions.keys() {
            let name = key.get_ref();
            if class_of(key).is_none() && !intents.contains_key(name.as_str()) && !rule_names.contains(&name.as_str()) {
                let message = format!(
                    "actions for \"{name}\", expected a class, an intent with advice, or one of: {}",
                    rule_names.join(", ")
                );
                return Err(check.error(key.span().start, message));
            }
        }

        let mut catalogue = Catalogue {
            languages: check.languages.iter().map(|l| Arc::from(l.as_str())).collect(),
            labels: known.labels.to_vec(),
            classes,
            intents,
            ask,
            questions: HashMap::new(),
            escalate: rule(&file.rules.escalate, "escalate", &[])?,
            exit: rule(&file.rules.exit, "exit", &[])?,
            ids: RuleIds { ask: "ask".into(), escalate: "escalate".into(), exit: "exit".into() },
            actions: file.actions.into_iter().map(|(k, v)| (k.into_inner(), v)).collect(),
        };
        catalogue.cache_questions();
        Ok(catalogue)
    }

    /// The language with BCP 47 tag `tag`.
    ///
    /// # Errors
    /// [`UnknownLanguage`] if the catalogue neither has it nor declares a fallback for it.
    pub fn language(&self, tag: &str) -> Result<Lang, UnknownLanguage> {
        self.languages
            .iter()
            .position(|l| **l == *tag)
            .map(Lang)
            .ok_or_else(|| UnknownLanguage { tag: tag.to_owned(), known: self.languages.join(", ") })
    }

    /// The tags of all languages; the first is the catalogue's own choice.
    #[must_use]
    pub fn languages(&self) -> &[Arc<str>] {
        &self.languages
    }

    /// The tag of `lang`.
    #[must_use]
    pub fn tag(&self, lang: Lang) -> &Arc<str> {
        &self.languages[lang.0]
    }

    /// Advice for a class that was entered; the intent's own if it has one and belongs to that class.
    ///
    /// `class` is an index into the labels the catalogue was parsed with. Does not allocate.
    ///
    /// # Panics
    /// If `class` is `none` or no class at all: neither is ever decided.
    #[must_use]
    pub fn advise(&self, class: usize, intent: Option<&str>, lang: Lang) -> Advice {
        if let Some(own) = intent.and_then(|i| self.intents.get(i)).filter(|own| own.class == class) {
            return self.advice(&own.id, &own.text, lang);
        }
        self.advice(&self.labels[class], &self.class(class).text, lang)
    }

    /// The question between `choices`; they are named in label order. Allocates only in bundles of more than 16 classes.
    ///
    /// # Panics
    /// If there are not two or three choices, or one of them is never decided.
    #[must_use]
    pub fn ask(&self, choices: &[(usize, f32)], lang: Lang) -> Advice {
        let mut classes: heapless::Vec<u16, MAX_CHOICES> = choices.iter().map(|(class, _)| *class as u16).collect();
        classes.sort_unstable();
        match self.questions.get(&classes) {
            Some(text) => self.advice(&self.ids.ask, text, lang),
            None => Advice {
                id: self.ids.ask.clone(),
                lang: self.languages[lang.0].clone(),
                text: self.question(&classes, lang.0),
            },
        }
    }

    /// What to do about the advice with this `id`.
    #[must_use]
    pub fn actions(&self, id: &str) -> &[Action] {
        self.actions.get(id).map_or(&[], Vec::as_slice)
    }

    fn class(&self, class: usize) -> &ClassText {
        self.classes[class]
            .as_ref()
            .expect("only a class with advice is decided: `parse` checked that all others have it")
    }

    fn advice(&self, id: &Arc<str>, text: &[Arc<str>], lang: Lang) -> Advice {
        Advice { id: id.clone(), lang: self.languages[lang.0].clone(), text: text[lang.0].clone() }
    }

    fn question(&self, classes: &[u16], lang: usize) -> Arc<str> {
        let places = ["{a}", "{b}", "{c}"];
        let values: Vec<(&str, &str)> =
            classes.iter().zip(places).map(|(c, place)| (place, &*self.class(usize::from(*c)).short[lang])).collect();
        fill(&self.ask[classes.len() - 2][lang], &values)
    }

    fn cache_questions(&mut self) {
        let known: Vec<u16> =
            (0..self.classes.len()).filter(|c| self.classes[*c].is_some()).map(|c| c as u16).collect();
        if known.len() > MAX_CACHED_CLASSES {
            return;
        }
        let mut sets: Vec<heapless::Vec<u16, MAX_CHOICES>> = Vec::new();
        for (i, a) in known.iter().enumerate() {
            for (j, b) in known.iter().enumerate().skip(i + 1) {
                sets.push([*a, *b].into_iter().collect());
                sets.extend(known[j + 1..].iter().map(|c| [*a, *b, *c].into_iter().collect()));
            }
        }
        let questions = sets
            .into_iter()
            .map(|set| {
                let text = (0..self.languages.len()).map(|lang| self.question(&set, lang)).collect();
                (set, text)
            })
            .collect();
        self.questions = questions;
    }
}

impl Listing for Catalogue {
    /// Every text by its id and language, for a page that has to show any of them: `languages`, `classes` in label order with `short` and
    /// `texts`, `intents` by id with `class` and `texts`, `rules`.
    fn listing(&self) -> serde_json::Value {
        use serde_json::{Map, Value, json};
        let texts = |by_lang: &ByLang| -> Value {
            let pairs = self.languages.iter().zip(by_lang);
            Value::Object(pairs.map(|(lang, text)| (lang.to_string(), json!(text))).collect())
        };
        let classes: Vec<Value> = self
            .labels
            .iter()
            .zip(&self.classes)
            .filter_map(|(label, class)| {
                let class = class.as_ref()?;
                Some(json!({ "class": label, "short": texts(&class.short), "texts": texts(&class.text) }))
            })
            .collect();
        let intent = |i: &IntentText| json!({ "class": self.labels[i.class], "texts": texts(&i.text) });
        let intents: Map<String, Value> = self.intents.values().map(|i| (i.id.to_string(), intent(i))).collect();
        let [ask, ask_three] = &self.ask;
        json!({
            "languages": self.languages,
            "classes": classes,
            "intents": intents,
            "rules": {
                "ask": texts(ask),
                "ask_three": texts(ask_three),
                "escalate": texts(&self.escalate),
                "exit": texts(&self.exit),
            },
        })
    }
}

/// The event's part of a verdict: names instead of indices, and advice if the bundle has a catalogue.
///
/// `intent` is the likeliest in-scope intent of the request that took part, if any; it is told only when its class was
/// entered. Allocates nothing (see [`Catalogue::ask`] for the exception).
#[must_use]
pub fn decision(
    verdict: &Verdict,
    policy: &Policy,
    intent: Option<(&Arc<str>, usize)>,
    catalogue: Option<(&Catalogue, Lang)>,
) -> Decision {
    let labels = policy.labels();
    let intent = intent
        .filter(|(_, class)| verdict.state == DecisionState::Enter && *class == verdict.class)
        .map(|(name, _)| name.clone());
    let advice = catalogue.map(|(catalogue, lang)| match verdict.state {
        DecisionState::Enter => catalogue.advise(verdict.class, intent.as_deref(), lang),
        DecisionState::Exit => catalogue.advice(&catalogue.ids.exit, &catalogue.exit, lang),
        DecisionState::Ask => catalogue.ask(&verdict.choices, lang),
        DecisionState::Escalate => catalogue.advice(&catalogue.ids.escalate, &catalogue.escalate, lang),
    });
    Decision {
        class: labels[verdict.class].clone(),
        p: verdict.p,
        state: verdict.state,
        by: verdict.by,
        intent,
        advice,
        choices: verdict.choices.iter().map(|(class, p)| Choice { class: labels[*class].clone(), p: *p }).collect(),
    }
}

/// Languages and places, for checks that name a line.
struct Checker<'a> {
    path: &'a Path,
    text: &'a str,
    /// Declared languages, then those that exist by fallback only.
    languages: Vec<String>,
    fallback: BTreeMap<String, String>,
}

impl<'a> Checker<'a> {
    fn new(path: &'a Path, text: &'a str, file: &File) -> Result<Self, ConfigError> {
        let declared = file.languages.iter().map(|l| l.get_ref().clone()).collect();
        let mut check = Checker { path, text, languages: declared, fallback: BTreeMap::new() };
        if check.languages.is_empty() {
            return Err(check.error(0, "languages = [], expected at least one BCP 47 tag such as \"en\"".into()));
        }
        for (i, tag) in file.languages.iter().enumerate() {
            if check.languages[..i].contains(tag.get_ref()) {
                return Err(check.error(tag.span().start, format!("language \"{}\" is declared twice", tag.get_ref())));
            }
        }
        for (tag, to) in &file.fallback {
            let declared = file.languages.iter().any(|l| l.get_ref() == to.get_ref());
            if !declared || tag.get_ref() == to.get_ref() {
                let message = format!(
                    "fallback.{} = \"{}\", expected another one of languages = [{}]",
                    tag.get_ref(),
                    to.get_ref(),
                    check.languages.join(", ")
                );
                return Err(check.error(to.span().start, message));
            }
            check.fallback.insert(tag.get_ref().clone(), to.get_ref().clone());
        }
        let undeclared: Vec<String> = check.fallback.keys().filter(|t| !check.languages.contains(t)).cloned().collect();
        check.languages.extend(undeclared);
        Ok(check)
    }

    /// One text per language. `at` is where the entry begins, `what` its key.
    fn texts(&self, texts: &Texts, at: usize, what: &str) -> Result<ByLang, ConfigError> {
        for (tag, text) in texts {
            if !self.languages.contains(tag.get_ref()) {
                let message = format!(
                    "{what}: language \"{}\" is not in languages = [{}]; declare it there, or remove the text",
                    tag.get_ref(),
                    self.languages.join(", ")
                );
                return Err(self.error(tag.span().start, message));
            }
            if text.get_ref().trim().is_empty() {
                return Err(self.error(text.span().start, format!("{what}.{} is empty", tag.get_ref())));
            }
        }
        let text = |tag: &str| texts.iter().find(|(t, _)| t.get_ref() == tag).map(|(_, text)| text.get_ref().as_str());
        self.languages
            .iter()
            .map(|tag| {
                text(tag).or_else(|| self.fallback.get(tag).and_then(|to| text(to))).map(Arc::from).ok_or_else(|| {
                    self.error(
                        at,
                        format!("{what} has no text in \"{tag}\"; add it, or declare [fallback] {tag} = ..."),
                    )
                })
            })
            .collect()
    }

    fn error(&self, at: usize, message: String) -> ConfigError {
        let line = 1 + self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|b| **b == b'\n').count();
        ConfigError::Invalid { path: self.path.to_owned(), line, message }
    }
}

/// Every one of `places` occurs, and no other `{...}` does.
fn check_places(template: &str, places: &[&str]) -> Result<(), String> {
    if let Some(missing) = places.iter().find(|p| !template.contains(**p)) {
        return Err(format!("\"{template}\" lacks {missing}"));
    }
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let Some(place) = places.iter().find(|p| rest[open..].starts_with(**p)) else {
            let known = if places.is_empty() { "none".to_owned() } else { places.join(" ") };
            return Err(format!("\"{template}\" has an unknown placeholder, known are: {known}"));
        };
        rest = &rest[open + place.len()..];
    }
    Ok(())
}

/// `template` with every placeholder replaced, in one pass: a value that looks like a placeholder stays as it is.
fn fill(template: &str, values: &[(&str, &str)]) -> Arc<str> {
    let mut out = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        match values.iter().find(|(place, _)| rest.starts_with(place)) {
            Some((place, value)) => {
                out.push_str(value);
                rest = &rest[place.len()..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::manifest::DecisionSpec;

    const SMALL: &str = r#"
languages = ["en", "zh"]
[rules]
ask = { en = "Did you mean {a} or {b}?", zh = "{a}还是{b}？" }
ask_three = { en = "Did you mean {a}, {b} or {c}?", zh = "{a}、{b}还是{c}？" }
escalate = { en = "Staff is coming.", zh = "工作人员马上就来。" }
exit = { en = "Goodbye.", zh = "再见。" }
intent = { en = "{name}: {text}", zh = "{name}：{text}" }
[class.desk_3]
name = { en = "Desk 3", zh = "3 号" }
short = { en = "3", zh = "3 号" }
text = { en = "Go to 3.", zh = "请到 3 号。" }
[class.desk_8]
name = { en = "Desk 8", zh = "8 号" }
short = { en = "8", zh = "8 号" }
text = { en = "Go to 8.", zh = "请到 8 号。" }
[intent]
play = { en = "music", zh = "音乐" }
[actions]
desk_3 = [{ page = "/3" }, { gpio = { line = "lamp", pulse_ms = 500 } }, { say = "advice" }]
escalate = [{ mqtt = { topic = "staff", payload = "come" } }]
"#;

    fn parse(text: &str) -> Result<Catalogue, ConfigError> {
        let labels: [Arc<str>; 3] = ["desk_3".into(), "desk_8".into(), "none".into()];
        let known = Known { labels: &labels, none: Some(2), intents: &[("play".into(), 0), ("joke".into(), 1)] };
        Catalogue::parse(Path::new("advice.toml"), text, known)
    }

    #[test]
    fn a_verdict_becomes_advice_in_the_language_asked_for() {
        let c = parse(SMALL).unwrap();
        let (en, zh) = (c.language("en").unwrap(), c.language("zh").unwrap());
        let cases = [
            (c.advise(0, None, en), "desk_3", "en", "Go to 3."),
            (c.advise(0, Some("play"), en), "play", "en", "Desk 3: music"),
            (c.advise(0, Some("play"), zh), "play", "zh", "3 号：音乐"),
            // an intent of another class, without a text of its own, unknown: the class speaks
            (c.advise(1, Some("play"), en), "desk_8", "en", "Go to 8."),
            (c.advise(1, Some("joke"), en), "desk_8", "en", "Go to 8."),
            (c.advise(1, Some("?"), zh), "desk_8", "zh", "请到 8 号。"),
            // label order, whoever leads
            (c.ask(&[(1, 0.5), (0, 0.4)], en), "ask", "en", "Did you mean 3 or 8?"),
            (c.ask(&[(0, 0.5), (1, 0.4)], zh), "ask", "zh", "3 号还是8 号？"),
        ];
        for (got, id, lang, text) in cases {
            assert_eq!((&*got.id, &*got.lang, &*got.text), (id, lang, text));
        }
        assert_eq!(c.actions("desk_3").len(), 3);
        assert_eq!(c.actions("escalate"), [Action::Mqtt { topic: "staff".into(), payload: "come".into() }]);
        assert_eq!(c.actions("desk_8"), []);
    }

    #[test]
    fn the_listing_has_every_text_by_id_and_language() {
        let c = parse(SMALL).unwrap();
        let listing = c.listing();
        let en = c.language("en").unwrap();
        assert_eq!(listing["languages"], serde_json::json!(c.languages()));
        let first = &listing["classes"][0];
        assert_eq!(first["class"], "desk_3");
        assert_eq!(first["texts"]["en"], *c.advise(0, None, en).text);
        assert_eq!(listing["classes"].as_array().unwrap().len(), 2, "none is no class that is shown");
        assert_eq!(listing["intents"]["play"]["texts"]["en"], *c.advise(0, Some("play"), en).text);
        assert!(listing["rules"]["ask"]["en"].as_str().unwrap().contains("{a}"), "{listing}");
    }

    #[test]
    fn a_decision_names_what_the_verdict_counts() {
        let c = parse(SMALL).unwrap();
        let labels: [Arc<str>; 3] = ["desk_3".into(), "desk_8".into(), "none".into()];
        let policy = Policy::new(&DecisionSpec::default(), &labels).unwrap();
        let verdict = |state, class, choices: &[(usize, f32)]| Verdict {
            state,
            class,
            p: 0.9,
            by: None,
            choices: choices.iter().copied().collect(),
        };
        let play: Arc<str> = "play".into();
        let with = Some((&c, c.language("en").unwrap()));
        let of = |v: &Verdict, with| {
            let d = decision(v, &policy, Some((&play, 0)), with);
            (d.class.to_string(), d.intent.is_some(), d.advice.map(|a| a.id.to_string()), d.choices.len())
        };
        let cases = [
            (verdict(DecisionState::Enter, 0, &[]), ("desk_3", true, Some("play"), 0)),
            (verdict(DecisionState::Enter, 1, &[]), ("desk_8", false, Some("desk_8"), 0)),
            (verdict(DecisionState::Exit, 0, &[]), ("desk_3", false, Some("exit"), 0)),
            (verdict(DecisionState::Ask, 1, &[(1, 0.5), (0, 0.4)]), ("desk_8", false, Some("ask"), 2)),
            (verdict(DecisionState::Escalate, 0, &[]), ("desk_3", false, Some("escalate"), 0)),
        ];
        for (v, (class, intent, advice, choices)) in cases {
            assert_eq!(of(&v, with), (class.into(), intent, advice.map(Into::into), choices), "{v:?}");
            assert_eq!(of(&v, None).2, None, "without a catalogue there is no advice");
        }
    }

    #[test]
    fn a_catalogue_that_does_not_fit_the_bundle_is_named_with_its_line() {
        let cases = [
            (
                "[class.desk_8]",
                "[class.desk_9]",
                "advice.toml:13: unknown class \"desk_9\", known are: desk_3, desk_8, none",
            ),
            ("play = ", "sing = ", "advice.toml:18: unknown intent \"sing\"; the bundle's encoders have 2 intents"),
            (
                "text = { en = \"Go to 8.\", zh",
                "text = { zh",
                "advice.toml:13: class.desk_8.text has no text in \"en\"; add it, or declare",
            ),
            ("\"en\", \"zh\"]", "\"en\", \"zh\", \"de\"]", "advice.toml:9: class.desk_3.name has no text in \"de\""),
            (
                "\"en\", \"zh\"]",
                "\"en\"]",
                "advice.toml:10: class.desk_3.name: language \"zh\" is not in languages = [en]",
            ),
            ("\"en\", \"zh\"]", "\"en\", \"en\"]", "advice.toml:2: language \"en\" is declared twice"),
            ("\"en\", \"zh\"]", "]", "advice.toml:1: languages = [], expected at least one"),
            (
                "Did you mean {a} or {b}?",
                "Did you mean {a}?",
                "advice.toml:4: rules.ask: \"Did you mean {a}?\" lacks {b}",
            ),
            (
                "Goodbye.",
                "Bye {a}",
                "advice.toml:7: rules.exit: \"Bye {a}\" has an unknown placeholder, known are: none",
            ),
            ("Goodbye.", " ", "advice.toml:7: rules.exit.en is empty"),
            ("escalate = [", "escalated = [", "advice.toml:21: actions for \"escalated\", expected a class"),
            (
                "{ page = \"/3\" }",
                "{ pages = \"/3\" }",
                "advice.toml:20: actions.desk_3: unknown value `pages`, expected one of `page`, `say`, `gpio`, `mqtt`",
            ),
            ("[intent]", "[intents]", "advice.toml:17: unknown key `intents`"),
            (
                "[rules]",
                "[fallback]\nde = \"fr\"\n[rules]",
                "advice.toml:4: fallback.de = \"fr\", expected another one of",
            ),
        ];
        let mut wrong = Vec::new();
        for (from, to, expect) in cases {
            assert!(SMALL.contains(from), "the case must change something: {from}");
            let got = parse(&SMALL.replacen(from, to, 1)).map_or_else(|e| e.to_string(), |_| "no error".into());
            if !got.starts_with(expect) {
                wrong.push(format!("{to}: got {got:?}, expected {expect:?}"));
            }
        }
        let without_eight = &SMALL[..SMALL.find("[class.desk_8]").unwrap()];
        let got = parse(without_eight).unwrap_err().to_string();
        assert!(got.ends_with("class \"desk_8\" has no advice; add [class.desk_8]"), "{got}");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_missing_language_is_an_error_unless_its_fallback_is_declared() {
        let c = parse(SMALL).unwrap();
        assert_eq!(
            c.language("fr").unwrap_err().to_string(),
            "language \"fr\" is not in the advice catalogue, which has en, zh; choose one of them, or declare [fallback] \"fr\" = ... there"
        );
        let c = parse(&SMALL.replacen("[rules]", "[fallback]\nfr = \"en\"\n[rules]", 1)).unwrap();
        assert_eq!(&*c.advise(0, None, c.language("fr").unwrap()).text, "Go to 3.");
    }

    #[test]
    fn values_are_not_templates() {
        assert_eq!(&*fill("{a} or {b} {x}", &[("{a}", "{b}"), ("{b}", "2")]), "{b} or 2 {x}");
    }

    #[test]
    fn the_kiosk_has_advice_for_every_desk_and_intent_in_both_languages() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/kiosk");
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let labels: Vec<Arc<str>> = read("labels.txt").lines().map(Arc::from).collect();
        let intents: Vec<(Arc<str>, usize)> = read("intents.txt")
            .lines()
            .map(|line| {
                let (intent, class) = line.split_once(' ').unwrap();
                (Arc::from(intent), labels.iter().position(|l| **l == *class).unwrap())
            })
            .collect();
        let none = labels.iter().position(|l| &**l == "none");
        let known = Known { labels: &labels, none, intents: &intents };
        let c = Catalogue::parse(Path::new("advice.toml"), &read("advice.toml"), known).unwrap();
        for tag in ["en", "zh"] {
            let lang = c.language(tag).unwrap();
            for (intent, class) in &intents {
                let advice = c.advise(*class, Some(intent), lang);
                assert_eq!(advice.id, *intent, "{intent} has no {tag} advice of its own");
                assert_eq!(advice.text.is_ascii(), tag == "en", "{intent}: {}", advice.text);
            }
        }
        assert_eq!(
            &*c.ask(&[(8, 0.5), (3, 0.4)], c.language("en").unwrap()).text,
            "Did you mean 3 (home) or 8 (small talk)?"
        );
    }
}
