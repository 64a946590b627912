//! Text on a terminal: how wide it is, where it breaks, and colours.
//!
//! Serves the live view and the summary. Only what they need: no cursor, no screen.

/// Columns a character takes: 0 for combining marks and controls, 2 for East Asian wide ones, else 1.
///
/// Ranges from Unicode 16 EastAsianWidth.txt (W and F), joined where only unassigned code points lie between. Ambiguous
/// ones are narrow.
pub fn char_width(c: char) -> usize {
    match u32::from(c) {
        0..0x20 | 0x7f..0xa0 | 0x300..=0x36f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfeff => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0x33ff
        | 0x3400..=0x4dbf
        | 0x4e00..=0x9fff
        | 0xa000..=0xa4cf
        | 0xa960..=0xa97f
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe10..=0xfe19
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Columns of `text`.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// `text` cut to `columns`, with an ellipsis if something was cut.
pub fn truncate(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += char_width(c);
        if used > columns {
            break;
        }
        out.push(c);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// Breaks `text` into lines of at most `columns`: at spaces, and between wide characters (but never before a closing
/// mark). A word that is longer than a line is cut.
pub fn wrap(text: &str, columns: usize) -> Vec<&str> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    let (mut start, mut used, mut last_break) = (0, 0, None);
    let mut previous = ' ';
    for (at, c) in text.char_indices() {
        if at > start && breaks_between(previous, c) {
            last_break = Some(at);
        }
        used += char_width(c);
        if used > columns && at > start && c != ' ' {
            let cut = last_break.unwrap_or(at);
            lines.push(text[start..cut].trim_end());
            start = cut;
            used = width(&text[start..at]) + char_width(c);
            last_break = None;
        }
        previous = c;
    }
    let rest = text[start..].trim_end();
    if !rest.is_empty() || lines.is_empty() {
        lines.push(rest);
    }
    lines
}

fn breaks_between(a: char, b: char) -> bool {
    let closing = "，。？！、：；）】》”’".contains(b);
    let opening = "（【《“‘".contains(a);
    (a == ' ' && b != ' ') || ((char_width(a) == 2 || char_width(b) == 2) && !closing && !opening && b != ' ')
}

/// SGR styles in use; plain when colours are off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// Secondary.
    Dim,
    /// The main thing of a line.
    Bold,
    /// Something was decided.
    Good,
    /// A question, or something to look at.
    Warn,
    /// Something is wrong.
    Bad,
    /// The bars.
    Accent,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Dim => "2",
            Style::Bold => "1",
            Style::Good => "1;32",
            Style::Warn => "1;33",
            Style::Bad => "1;31",
            Style::Accent => "36",
        }
    }
}

/// Appends `text` in `style`. Control characters become `?`: advice and reasons may come from files and devices, and must
/// not steer the terminal.
pub fn paint(out: &mut String, color: bool, style: Style, text: &str) {
    let styled = color && style != Style::Plain && !text.is_empty();
    if styled {
        out.push_str("\x1b[");
        out.push_str(style.code());
        out.push('m');
    }
    out.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
    if styled {
        out.push_str("\x1b[0m");
    }
}

/// Appends `n` spaces.
pub fn pad(out: &mut String, n: usize) {
    out.extend(std::iter::repeat_n(' ', n));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_counts_columns() {
        for (text, columns) in [
            ("", 0),
            ("desk 3", 6),
            ("3 号窗口（家居）", 16),
            ("e\u{301}", 1),
            ("한국", 4),
            ("█▏", 2),
            ("\u{1f600}", 2),
        ] {
            assert_eq!(width(text), columns, "{text}");
        }
    }

    #[test]
    fn lines_break_where_a_reader_expects_it() {
        let cases: &[(&str, usize, &[&str])] = &[
            ("", 10, &[""]),
            ("one two", 10, &["one two"]),
            ("one two three", 7, &["one two", "three"]),
            ("one two three", 8, &["one two", "three"]),
            ("unbreakable", 5, &["unbre", "akabl", "e"]),
            ("请到三号窗口", 8, &["请到三号", "窗口"]),
            ("请到三号，窗口", 8, &["请到三", "号，窗口"]),
            ("请（三号）", 4, &["请", "（三", "号）"]),
        ];
        for (text, columns, expect) in cases {
            let got = wrap(text, *columns);
            assert_eq!(got, *expect, "{text:?} at {columns}");
        }
    }

    #[test]
    fn cutting_leaves_room_for_the_ellipsis() {
        for (text, columns, expect) in [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("家居家居", 4, "家…"), ("abc", 0, "")]
        {
            assert_eq!(truncate(text, columns), expect);
        }
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        let mut out = String::new();
        paint(&mut out, true, Style::Bold, "a\x1b[2Jb\nc");
        assert_eq!(out, "\x1b[1ma?[2Jb?c\x1b[0m");
    }
}
