//! A scene as SVG to stand inside a page: colours are the page's variables, so that it follows the reader's light or dark ground.

use std::fmt::Write as _;

use super::{Anchor, Ink, Item, Scene, Text};

/// How the page's style sheet has to name the colours, for light and dark; see [`Ink`].
pub const PALETTE: &str = "\
:root{color-scheme:light dark;\
--ground:#ffffff;--card:#f7f8fa;--text:#1b2430;--muted:#55606e;\
--grid:#dde2e8;--data:#1f6fb2;--second:#8fb8dc;--accent:#b8500a;--on-heat:#ffffff;--good:#1d7a4c;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{\
--ground:#11161c;--card:#19202a;--text:#e8edf3;--muted:#a3afbd;\
--grid:#303a46;--data:#6cb2f0;--second:#34597c;--accent:#f0a35e;--on-heat:#0b1016;--good:#6fcf97;--bad:#ff8a80}}
";

/// The element `<svg>`.
pub fn draw(scene: &Scene) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
        number(scene.width),
        number(scene.height),
        escape(&scene.description)
    );
    for item in &scene.items {
        // writing to a String cannot fail
        _ = match item {
            Item::Rect { at, width, height, ink } => writeln!(
                out,
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" {}/>",
                number(at.x),
                number(at.y),
                number(*width),
                number(*height),
                fill(*ink)
            ),
            Item::Dot { at, radius, ink } => writeln!(
                out,
                "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" {}/>",
                number(at.x),
                number(at.y),
                number(*radius),
                fill(*ink)
            ),
            Item::Line { points, width, ink, is_dashed } => {
                let points: Vec<String> = points.iter().map(|p| format!("{},{}", number(p.x), number(p.y))).collect();
                let dashes = if *is_dashed { " stroke-dasharray=\"5 4\"" } else { "" };
                writeln!(
                    out,
                    "<polyline points=\"{}\" fill=\"none\" stroke-width=\"{}\"{dashes} style=\"stroke:{}\"/>",
                    points.join(" "),
                    number(*width),
                    color(*ink)
                )
            }
            Item::Text(text) => writeln!(out, "{}", draw_text(text)),
        };
    }
    out.push_str("</svg>\n");
    out
}

fn draw_text(text: &Text) -> String {
    let anchor = match text.anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    let (x, y) = (number(text.at.x), number(text.at.y));
    let turned = if text.is_upright { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
    format!(
        "<text x=\"{x}\" y=\"{y}\" dy=\"0.34em\" font-size=\"{}\" text-anchor=\"{anchor}\"{turned} {}>{}</text>",
        number(text.size),
        fill(text.ink),
        escape(&text.text)
    )
}

fn color(ink: Ink) -> &'static str {
    match ink {
        Ink::Text => "var(--text)",
        Ink::Muted => "var(--muted)",
        Ink::Grid => "var(--grid)",
        Ink::Data | Ink::Heat(_) => "var(--data)",
        Ink::Second => "var(--second)",
        Ink::Accent => "var(--accent)",
        Ink::OnHeat => "var(--on-heat)",
    }
}

fn fill(ink: Ink) -> String {
    match ink {
        Ink::Heat(share) => format!("style=\"fill:{};fill-opacity:{}\"", color(ink), number(share)),
        _ => format!("style=\"fill:{}\"", color(ink)),
    }
}

/// Two decimals at most, none if they are 0.
fn number(value: f32) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text inside an element or an attribute. Characters that XML cannot hold become the replacement character.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::plot::Point;

    #[test]
    fn what_is_written_is_text_and_no_markup() {
        let mut scene = Scene::new(10.0, 5.5, "a \"b\" & <c>".into());
        scene.upright(Point { x: 1.0, y: 2.25 }, 3.0, Anchor::End, Ink::Muted, "</svg>\u{1}");
        let svg = draw(&scene);
        assert!(svg.contains("viewBox=\"0 0 10 5.5\""), "{svg}");
        assert!(svg.contains("aria-label=\"a &quot;b&quot; &amp; &lt;c&gt;\""), "{svg}");
        assert!(svg.contains(">&lt;/svg&gt;\u{fffd}</text>") && svg.contains("rotate(-90 1 2.25)"), "{svg}");
    }

    #[test]
    fn every_ink_is_a_color_of_the_palette_for_light_and_dark() {
        let inks = [Ink::Text, Ink::Muted, Ink::Grid, Ink::Data, Ink::Second, Ink::Accent, Ink::OnHeat, Ink::Heat(0.5)];
        for ink in inks {
            let name = color(ink).trim_start_matches("var(").trim_end_matches(')');
            assert_eq!(PALETTE.matches(&format!("{name}:#")).count(), 2, "{name}");
        }
    }
}
