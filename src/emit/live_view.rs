//! What a person watches: decisions with the weight of every modality, calm enough to leave open.

use std::io::Write;

use crate::signal::{Decision, DecisionState, Event, EventKind, ModalityState, ModalityView};
use crate::time::Micros;

use super::terminal::{Style, pad, paint, truncate, width, wrap};
use super::{Sink, SinkError};

/// Columns before the class: time, sign.
const INDENT: usize = 13;

/// Narrower terminals are treated as this wide: they break the lines themselves.
const NARROWEST: usize = 32;

/// From this width on, advice and bars share a line.
const WIDE: usize = 140;

/// Eighths of a cell, from none to seven.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// How the view is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveViewOptions {
    /// Columns; `None`: lines are never broken (a file, a pipe).
    pub width: Option<usize>,
    /// Use colours (SGR).
    pub color: bool,
}

impl Default for LiveViewOptions {
    /// For a file: unbroken lines, no colour.
    fn default() -> Self {
        LiveViewOptions { width: None, color: false }
    }
}

impl LiveViewOptions {
    /// For stdout. If it is a terminal: its width (80 if unknown), and colours unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[must_use]
    pub fn for_terminal(is_terminal: bool) -> Self {
        if !is_terminal {
            return LiveViewOptions::default();
        }
        let set = |key| std::env::var_os(key).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let width = terminal_size::terminal_size().map_or(80, |(w, _)| usize::from(w.0));
        LiveViewOptions { width: Some(width), color: !set("NO_COLOR") && !dumb }
    }
}

/// Draws every event as a line or a few. Never moves the cursor, so that the view can be scrolled and piped.
#[derive(Debug)]
pub struct LiveView<W> {
    out: W,
    options: LiveViewOptions,
    text: String,
}

impl<W: Write> LiveView<W> {
    /// Draws to `out`.
    pub fn new(out: W, options: LiveViewOptions) -> Self {
        LiveView { out, options, text: String::with_capacity(1024) }
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write + Send> Sink for LiveView<W> {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        self.text.clear();
        draw(&mut self.text, event, self.options);
        let result = self.out.write_all(self.text.as_bytes()).and_then(|()| self.out.flush());
        result.map_err(|source| SinkError::from_io("terminal", source))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.out.flush().map_err(|source| SinkError::from_io("terminal", source))
    }
}

fn draw(out: &mut String, event: &Event, options: LiveViewOptions) {
    let columns = options.width.unwrap_or(usize::MAX).max(NARROWEST);
    match &event.kind {
        EventKind::Start => {
            paint(out, options.color, Style::Bold, "attendant");
            paint(out, options.color, Style::Dim, &format!("  {} on {}", event.bundle, event.board));
            out.push('\n');
            paint(out, options.color, Style::Dim, "● decided   ○ ended   ? asks back   ! calls staff");
            out.push_str("\n\n");
        }
        EventKind::Decision(decision) => draw_decision(out, event, decision, columns, options.color),
        EventKind::Modality { modality, state, reason } => {
            time(out, event.t_us, options.color);
            let (sign, style) = match state {
                ModalityState::Ok => ("+", Style::Dim),
                ModalityState::Stale | ModalityState::Absent => ("·", Style::Dim),
                ModalityState::Failed => ("×", Style::Bad),
            };
            paint(out, options.color, style, sign);
            out.push(' ');
            let line = format!("{modality} {}", state_word(*state));
            let line = if reason.is_empty() { line } else { format!("{line}: {reason}") };
            paint(out, options.color, Style::Dim, &truncate(&line, columns.saturating_sub(INDENT)));
            out.push('\n');
        }
        EventKind::Notice { source, notice, reason } => {
            time(out, event.t_us, options.color);
            let line = format!("· {source} {notice}: {reason}");
            paint(out, options.color, Style::Dim, &truncate(&line, columns.saturating_sub(INDENT)));
            out.push('\n');
        }
        EventKind::Result { encoder, found, .. } => {
            time(out, event.t_us, options.color);
            paint(out, options.color, Style::Accent, "›");
            out.push(' ');
            let line = format!("{encoder}  {}", super::result::text(found));
            paint(out, options.color, Style::Plain, &truncate(&line, columns.saturating_sub(INDENT)));
            out.push('\n');
        }
        EventKind::End => {
            time(out, event.t_us, options.color);
            paint(out, options.color, Style::Dim, "end");
            out.push('\n');
        }
    }
}

fn draw_decision(out: &mut String, event: &Event, decision: &Decision, columns: usize, color: bool) {
    let (sign, style, text_style) = match decision.state {
        DecisionState::Enter => ("●", Style::Good, Style::Plain),
        DecisionState::Exit => ("○", Style::Dim, Style::Dim),
        DecisionState::Ask => ("?", Style::Warn, Style::Plain),
        DecisionState::Escalate => ("!", Style::Bad, Style::Plain),
    };
    time(out, event.t_us, color);
    paint(out, color, style, sign);
    out.push(' ');
    let class = match decision.state {
        // Who is asked about, or called for, stands in the text.
        DecisionState::Ask => "ask",
        DecisionState::Escalate => "staff",
        DecisionState::Enter | DecisionState::Exit => &decision.class,
    };
    paint(out, color, if style == Style::Dim { Style::Dim } else { Style::Bold }, class);
    pad(out, 7usize.saturating_sub(width(class)));
    let p = match decision.state {
        DecisionState::Enter => format!("{:>4.0} %", decision.p * 100.0),
        _ => String::new(),
    };
    paint(out, color, Style::Dim, &p);
    pad(out, 8usize.saturating_sub(p.len()));
    let used = INDENT + width(class).max(7) + 8;

    let advice = match (&decision.advice, decision.state) {
        (Some(advice), _) => advice.text.to_string(),
        (None, DecisionState::Ask) => decision
            .choices
            .iter()
            .map(|c| format!("{} {:.0} %", c.class, c.p * 100.0))
            .collect::<Vec<_>>()
            .join(" or "),
        (None, _) => String::new(),
    };
    // Bars explain a decision; an end needs no explanation.
    let explained = decision.state != DecisionState::Exit;
    let bars_width = event.modalities.iter().map(|v| width(&v.name) + 17).sum::<usize>();
    let room = columns.saturating_sub(used);
    if columns >= WIDE && width(&advice) + 2 + bars_width <= room {
        paint(out, color, text_style, &advice);
        if explained {
            let gap = if columns == usize::MAX { 2 } else { room - width(&advice) - bars_width };
            pad(out, gap);
            draw_bars(out, &event.modalities, usize::MAX, color);
        }
        trim_line(out);
        return;
    }
    // Too narrow for a column of text: it goes below.
    let (lines, below) =
        if room >= 24 { (wrap(&advice, room), used) } else { (wrap(&advice, columns.saturating_sub(4)), 4) };
    for (i, line) in lines.iter().enumerate() {
        if i > 0 || below != used {
            trim_line(out);
            pad(out, below);
        }
        paint(out, color, text_style, line);
    }
    trim_line(out);
    if explained {
        let below = if columns >= 60 { INDENT } else { 4 };
        pad(out, below);
        draw_bars(out, &event.modalities, columns.saturating_sub(below), color);
        trim_line(out);
    }
}

/// `card ████▏    0.62   request · absent`: bars in columns that line up from one decision to the next.
fn draw_bars(out: &mut String, modalities: &[ModalityView], columns: usize, color: bool) {
    let full: usize = modalities.iter().map(|v| width(&v.name) + 17).sum();
    // the gap after the last cell is trimmed
    let numbers = full <= columns.saturating_add(3);
    let gap = if numbers { 3 } else { 2 };
    let columns = columns.saturating_add(gap);
    let cell = |v: &ModalityView| width(&v.name) + if numbers { 17 } else { 11 };
    let mut used = 0;
    for v in modalities {
        if used > 0 && used + cell(v) > columns {
            trim_line(out);
            pad(out, 4);
            used = 0;
        }
        used += cell(v);
        paint(out, color, Style::Dim, &v.name);
        out.push(' ');
        if v.state == ModalityState::Ok {
            let weight = if v.weight.is_finite() { v.weight.clamp(0.0, 1.0) } else { 0.0 };
            let bar = bar(weight);
            paint(out, color, Style::Accent, &bar);
            pad(out, 8 - width(&bar));
            if numbers {
                paint(out, color, Style::Plain, &format!(" {weight:.2}"));
            }
        } else {
            let sign = if v.state == ModalityState::Failed { "×" } else { "·" };
            let style = if v.state == ModalityState::Failed { Style::Bad } else { Style::Dim };
            let word = format!("{sign} {}", state_word(v.state));
            paint(out, color, style, &word);
            pad(out, (if numbers { 13usize } else { 8 }).saturating_sub(width(&word)));
        }
        pad(out, gap);
    }
}

/// Eight cells for 1; the smallest weight that counts shows as the thinnest bar.
fn bar(weight: f32) -> String {
    let eighths = (weight * 64.0).round() as usize;
    let eighths = if weight > 0.0 { eighths.max(1) } else { 0 };
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

fn state_word(state: ModalityState) -> &'static str {
    match state {
        ModalityState::Ok => "ok",
        ModalityState::Stale => "stale",
        ModalityState::Absent => "absent",
        ModalityState::Failed => "failed",
    }
}

fn time(out: &mut String, t: Micros, color: bool) {
    paint(out, color, Style::Dim, &format!("{:>8.2} s", t.0 as f64 / 1e6));
    out.push(' ');
}

/// Ends a line without trailing spaces.
fn trim_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decision, event};
    use super::*;

    fn drawn(events: &[Event], options: LiveViewOptions) -> String {
        let mut view = LiveView::new(Vec::new(), options);
        for e in events {
            view.emit(e).unwrap();
        }
        String::from_utf8(view.into_inner()).unwrap()
    }

    fn visit() -> Vec<Event> {
        let mut ask =
            event(2, 4200, decision(DecisionState::Ask, "desk_3", 0.48, "Did you mean 3 (home) or 8 (small talk)?"));
        ask.modalities[1].state = ModalityState::Stale;
        ask.modalities[2].state = ModalityState::Failed;
        vec![
            event(0, 0, EventKind::Start),
            event(
                1,
                1520,
                decision(
                    DecisionState::Enter,
                    "desk_3",
                    0.94,
                    "Please go to desk 3, home: lists, orders, music and devices.",
                ),
            ),
            event(
                3,
                3900,
                EventKind::Modality {
                    modality: "speech".into(),
                    state: ModalityState::Stale,
                    reason: "no sound for 1500 ms".into(),
                },
            ),
            event(
                4,
                4000,
                decision(DecisionState::Exit, "desk_3", 0.2, "Show a card, say a number, or type what you need."),
            ),
            ask,
            event(
                5,
                9000,
                decision(
                    DecisionState::Enter,
                    "desk_3",
                    0.88,
                    "请到 3 号窗口（家居生活），办理清单、订单、音乐和智能设备。",
                ),
            ),
            event(6, 12_345, decision(DecisionState::Escalate, "desk_3", 0.4, "Staff is on the way.")),
            event(7, 13_000, EventKind::End),
        ]
    }

    #[test]
    fn a_visit_at_80_columns() {
        let got = drawn(&visit(), LiveViewOptions { width: Some(80), color: false });
        let expect = "\
attendant  kiosk@1.0.0 on host
● decided   ○ ended   ? asks back   ! calls staff

    1.52 s ● desk_3   94 %  Please go to desk 3, home: lists, orders, music and
                            devices.
             card █████    0.62   speech ███      0.38   request · absent
    3.90 s · speech stale: no sound for 1500 ms
    4.00 s ○ desk_3         Show a card, say a number, or type what you need.
    4.20 s ? ask            Did you mean 3 (home) or 8 (small talk)?
             card █████    0.62   speech · stale         request × failed
    9.00 s ● desk_3   88 %  请到 3 号窗口（家居生活），办理清单、订单、音乐和智
                            能设备。
             card █████    0.62   speech ███      0.38   request · absent
   12.35 s ! staff          Staff is on the way.
             card █████    0.62   speech ███      0.38   request · absent
   13.00 s end
";
        assert_eq!(got, expect, "got:\n{got}");
    }

    #[test]
    fn every_width_is_kept_and_nothing_is_lost() {
        for columns in [32, 40, 47, 55, 60, 79, 80, 100, 139, 140, 200] {
            let got = drawn(&visit()[1..], LiveViewOptions { width: Some(columns), color: false });
            for line in got.lines() {
                assert!(width(line) <= columns, "{columns} columns, line of {}: {line:?}", width(line));
                assert_eq!(line.trim_end(), line, "{columns} columns");
            }
            let words: String = got.split_whitespace().collect();
            for word in ["desk_3", "智", "request·absent", "request×failed", "speech·stale"] {
                assert!(words.contains(word), "{word} is missing at {columns}:\n{got}");
            }
        }
    }

    #[test]
    fn a_pipe_gets_one_plain_line_per_event() {
        let events = &visit()[1..];
        let got = drawn(events, LiveViewOptions::for_terminal(false));
        assert_eq!(got.lines().count(), events.len());
        assert!(!got.contains('\x1b'));
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        let plain = drawn(&visit(), LiveViewOptions { width: Some(80), color: false });
        let color = drawn(&visit(), LiveViewOptions { width: Some(80), color: true });
        assert!(color.contains("\x1b[1;32m●\x1b[0m"));
        let mut stripped = String::new();
        let mut rest = color.as_str();
        while let Some(at) = rest.find('\x1b') {
            stripped.push_str(&rest[..at]);
            rest = &rest[at + rest[at..].find('m').unwrap() + 1..];
        }
        assert_eq!(stripped + rest, plain);
    }

    #[test]
    fn a_bar_shows_eighths() {
        for (weight, expect) in
            [(0.0, ""), (0.001, "▏"), (0.5, "████"), (0.515, "████▏"), (0.99, "███████▉"), (1.0, "████████")]
        {
            assert_eq!(bar(weight), expect, "{weight}");
        }
    }
}
