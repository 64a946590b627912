//! The charts of a report, from plain figures.

use attendant::decide::score::CalibrationBin;

use super::{Anchor, Ink, Point, Scene, text_width};

/// Width of every chart; pages and documents scale it.
const WIDTH: f32 = 640.0;

const SMALL: f32 = 11.0;
const NORMAL: f32 = 12.0;

fn at(x: f32, y: f32) -> Point {
    Point { x, y }
}

/// Where figures become places: a rectangle with an axis below and one to the left.
struct Axes {
    left: f32,
    right: f32,
    top: f32,
    bottom: f32,
    x_max: f32,
    y_max: f32,
}

impl Axes {
    fn x(&self, value: f32) -> f32 {
        self.left + (self.right - self.left) * value / self.x_max
    }

    fn y(&self, value: f32) -> f32 {
        self.bottom - (self.bottom - self.top) * value / self.y_max
    }

    fn at(&self, x: f32, y: f32) -> Point {
        at(self.x(x), self.y(y))
    }

    /// Grid, ticks and names. Ticks are (value, text).
    fn draw(&self, scene: &mut Scene, x: (&str, &[(f32, String)]), y: (&str, &[(f32, String)])) {
        for (value, text) in y.1 {
            let y = self.y(*value);
            scene.line(&[at(self.left, y), at(self.right, y)], 1.0, Ink::Grid);
            scene.text(at(self.left - 8.0, y), SMALL, Anchor::End, Ink::Muted, text);
        }
        for (value, text) in x.1 {
            let x = self.x(*value);
            scene.line(&[at(x, self.bottom), at(x, self.bottom + 4.0)], 1.0, Ink::Muted);
            scene.text(at(x, self.bottom + 14.0), SMALL, Anchor::Middle, Ink::Muted, text);
        }
        scene.line(&[at(self.left, self.bottom), at(self.right, self.bottom)], 1.0, Ink::Muted);
        scene.text(at((self.left + self.right) / 2.0, self.bottom + 34.0), NORMAL, Anchor::Middle, Ink::Text, x.0);
        scene.upright(at(14.0, (self.top + self.bottom) / 2.0), NORMAL, Anchor::Middle, Ink::Text, y.0);
    }
}

/// Ticks at round values from 0 to at least `max`, about `count` of them; the last is the end of the axis.
fn ticks(max: f64, count: usize) -> Vec<f64> {
    let raw = max.max(1e-9) / count as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw * 0.999).unwrap_or(raw);
    (0..=(max / step - 1e-9).ceil().max(1.0) as usize).map(|i| i as f64 * step).collect()
}

fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn percents() -> Vec<(f32, String)> {
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0].map(|v| (v, format!("{:.0} %", 100.0 * v))).to_vec()
}

fn shortened(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars.saturating_sub(2)).chain("..".chars()).collect()
}

/// A table of counts: rows are what is true, columns what was answered.
pub struct Confusion<'a> {
    /// Names of the rows.
    pub rows: &'a [String],
    /// Names of the columns.
    pub columns: &'a [String],
    /// `[row][column]`; none where there cannot be a count.
    pub counts: &'a [Vec<Option<u64>>],
    /// What the rows are.
    pub row_name: &'a str,
    /// What the columns are.
    pub column_name: &'a str,
}

/// Each cell is as dark as its share of the row.
pub fn confusion(table: &Confusion<'_>) -> Scene {
    let longest = table.rows.iter().chain(table.columns).map(|n| n.chars().count()).max().unwrap_or(0).min(16);
    let margin = text_width(longest, SMALL) + 36.0;
    let cell = ((WIDTH - margin - 12.0) / table.columns.len() as f32).min(52.0);
    let cell_height = cell.min(34.0);
    let bottom = 12.0 + cell_height * table.rows.len() as f32;
    // names below the columns stand where they do not fit
    let is_wide = table.columns.iter().any(|n| text_width(n.chars().count().min(16), SMALL) > cell - 4.0);
    let names = if is_wide { text_width(longest, SMALL) + 12.0 } else { 22.0 };
    let height = bottom + names + 22.0;
    let width = (margin + cell * table.columns.len() as f32 + 12.0).max(240.0);
    let description = format!("Confusion matrix: {} by {}", table.row_name, table.column_name);
    let mut scene = Scene::new(width, height, description);
    for (r, counts) in table.counts.iter().enumerate() {
        let y = 12.0 + cell_height * r as f32;
        let of: u64 = counts.iter().flatten().sum();
        scene.text(
            at(margin - 8.0, y + cell_height / 2.0),
            SMALL,
            Anchor::End,
            Ink::Text,
            shortened(&table.rows[r], 16),
        );
        for (c, count) in counts.iter().enumerate() {
            let x = margin + cell * c as f32;
            let Some(count) = count else { continue };
            let (from, to) = (at(x + 1.0, y + 1.0), at(x + cell - 1.0, y + cell_height - 1.0));
            let share = *count as f32 / of.max(1) as f32;
            // what never happens stays pale and empty, so that the eye finds what does
            scene.rect(from, to, Ink::Heat(if *count > 0 { 0.12 + 0.88 * share } else { 0.05 }));
            if *count == 0 {
                continue;
            }
            let digits = count.to_string().len();
            let size = (cell - 6.0) / (digits.max(2) as f32 * text_width(1, 1.0));
            let ink = if share > 0.45 { Ink::OnHeat } else { Ink::Text };
            // what cannot be read is left to the table
            if size >= 7.0 {
                let middle = at(x + cell / 2.0, y + cell_height / 2.0);
                scene.text(middle, size.min(NORMAL), Anchor::Middle, ink, count.to_string());
            }
        }
    }
    for (c, name) in table.columns.iter().enumerate() {
        let x = margin + cell * (c as f32 + 0.5);
        let name = shortened(name, 16);
        if is_wide {
            scene.upright(at(x, bottom + 8.0), SMALL, Anchor::End, Ink::Text, name);
        } else {
            scene.text(at(x, bottom + 12.0), SMALL, Anchor::Middle, Ink::Text, name);
        }
    }
    let middle = margin + cell * table.columns.len() as f32 / 2.0;
    scene.text(at(middle, height - 10.0), NORMAL, Anchor::Middle, Ink::Text, table.column_name);
    scene.upright(at(14.0, (12.0 + bottom) / 2.0), NORMAL, Anchor::Middle, Ink::Text, table.row_name);
    scene
}

/// How often what was said with some probability is right; below, how often it was said.
pub fn reliability(bins: &[CalibrationBin], said: &str) -> Scene {
    let total: u64 = bins.iter().map(|b| b.count).sum();
    let mut scene = Scene::new(WIDTH, 430.0, format!("Reliability diagram of {total} {said}"));
    let axes = Axes { left: 72.0, right: WIDTH - 20.0, top: 14.0, bottom: 292.0, x_max: 1.0, y_max: 1.0 };
    axes.draw(&mut scene, ("", &[]), ("share that was right", &percents()));
    let width = 1.0 / bins.len() as f32;
    for (i, bin) in bins.iter().enumerate().filter(|(_, b)| b.count > 0) {
        let (x, right) = (i as f32 * width, bin.accuracy as f32);
        let (from, to) = (axes.at(x, 0.0), axes.at(x + width, right));
        scene.rect(at(from.x + 1.5, from.y), at(to.x - 1.5, to.y), Ink::Second);
    }
    scene.dashed(&[axes.at(0.0, 0.0), axes.at(1.0, 1.0)], 1.5, Ink::Muted);
    for bin in bins.iter().filter(|b| b.count > 0) {
        let place = axes.at(bin.confidence as f32, bin.accuracy as f32);
        scene.dot(place, 4.0, Ink::Data);
    }
    let most = bins.iter().map(|b| b.count).max().unwrap_or(0).max(1);
    let counts = Axes { left: 72.0, right: WIDTH - 20.0, top: 320.0, bottom: 376.0, x_max: 1.0, y_max: most as f32 };
    counts.draw(
        &mut scene,
        ("probability that was told", &percents()),
        ("", &[(0.0, "0".into()), (most as f32, most.to_string())]),
    );
    scene.upright(at(14.0, 348.0), NORMAL, Anchor::Middle, Ink::Text, "how many");
    for (i, bin) in bins.iter().enumerate().filter(|(_, b)| b.count > 0) {
        let x = i as f32 * width;
        let (from, to) = (counts.at(x, 0.0), counts.at(x + width, bin.count as f32));
        scene.rect(at(from.x + 1.5, from.y), at(to.x - 1.5, to.y.min(from.y - 1.0)), Ink::Data);
    }
    scene
}

/// One threshold.
#[derive(Clone, Copy, Debug)]
pub struct TradeOff {
    /// False alarms per hour of nothing shown.
    pub alarms_per_hour: f64,
    /// Share of what is shown that was not decided.
    pub missed: f64,
    /// The threshold.
    pub enter: f32,
    /// It is the bundle's own.
    pub is_own: bool,
}

/// Misses against false alarms, as the threshold goes up.
pub fn trade_off(points: &[TradeOff]) -> Scene {
    let mut scene = Scene::new(WIDTH, 380.0, "Detection-error trade-off: misses against false alarms".into());
    let most = |of: fn(&TradeOff) -> f64| points.iter().map(of).fold(0.0, f64::max);
    let x_ticks = ticks(most(|p| p.alarms_per_hour).max(1.0), 6);
    let y_ticks = ticks((100.0 * most(|p| p.missed)).clamp(5.0, 100.0), 5);
    let (x_max, y_max) = (*x_ticks.last().unwrap_or(&1.0) as f32, *y_ticks.last().unwrap_or(&1.0) as f32);
    let axes = Axes { left: 72.0, right: WIDTH - 28.0, top: 18.0, bottom: 324.0, x_max, y_max };
    let texts = |ticks: &[f64], unit: &str| -> Vec<_> {
        ticks.iter().map(|t| (*t as f32, format!("{}{unit}", plain(*t)))).collect()
    };
    axes.draw(
        &mut scene,
        ("false alarms per hour of nothing shown", &texts(&x_ticks, "")),
        ("shown, but not decided", &texts(&y_ticks, " %")),
    );
    let place = |p: &TradeOff| axes.at(p.alarms_per_hour as f32, 100.0 * p.missed as f32);
    let line: Vec<Point> = points.iter().map(place).collect();
    scene.line(&line, 2.0, Ink::Data);
    for p in points {
        scene.dot(place(p), 3.0, Ink::Data);
    }
    // thresholds that give the same point share one text
    let mut groups: Vec<(Point, f32, f32, bool)> = Vec::new();
    for p in points {
        match groups.iter_mut().find(|(q, ..)| (q.x - place(p).x).hypot(q.y - place(p).y) < 14.0) {
            Some((_, _, last, own)) => (*last, *own) = (p.enter, *own || p.is_own),
            None => groups.push((place(p), p.enter, p.enter, p.is_own)),
        }
    }
    if let Some(own) = points.iter().find(|p| p.is_own) {
        scene.dot(place(own), 6.0, Ink::Accent);
    }
    for (place, first, last, is_own) in groups {
        let own = points.iter().find(|p| p.is_own).filter(|_| is_own);
        let text = match own {
            None if first == last => format!("enter {first:.2}"),
            None => format!("enter {first:.2} to {last:.2}"),
            Some(own) if first == last => format!("enter {:.2} (bundle)", own.enter),
            Some(own) => format!("enter {first:.2} to {last:.2} (bundle {:.2})", own.enter),
        };
        let is_right = place.x + 10.0 + text_width(text.chars().count(), SMALL) > WIDTH - 4.0;
        let (x, anchor) = if is_right { (place.x - 10.0, Anchor::End) } else { (place.x + 10.0, Anchor::Start) };
        let y = (place.y - 11.0).max(10.0);
        scene.text(at(x, y), SMALL, anchor, if is_own { Ink::Accent } else { Ink::Muted }, text);
    }
    scene
}

/// One bar: a share with its interval.
pub struct Bar {
    /// Name.
    pub name: String,
    /// In [0, 1].
    pub rate: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Beside the bar.
    pub note: String,
    /// It is what the others are compared with.
    pub is_whole: bool,
}

/// Shares, one below the other, with their 95 % intervals.
pub fn bars(bars: &[Bar], what: &str) -> Scene {
    let longest = bars.iter().map(|b| b.name.chars().count()).max().unwrap_or(0).min(34);
    let left = (text_width(longest, NORMAL) + 16.0).max(72.0);
    let notes = bars.iter().map(|b| b.note.chars().count()).max().unwrap_or(0);
    let right = WIDTH - text_width(notes, SMALL) - 16.0;
    let height = 34.0 * bars.len() as f32;
    let mut scene = Scene::new(WIDTH, height + 56.0, format!("{what}, by the modalities that take part"));
    let axes = Axes { left, right, top: 8.0, bottom: 8.0 + height, x_max: 1.0, y_max: 1.0 };
    for (value, text) in percents() {
        let x = axes.x(value);
        scene.line(&[at(x, axes.top), at(x, axes.bottom)], 1.0, Ink::Grid);
        scene.text(at(x, axes.bottom + 14.0), SMALL, Anchor::Middle, Ink::Muted, text);
    }
    for (i, bar) in bars.iter().enumerate() {
        let y = axes.top + 34.0 * (i as f32 + 0.5);
        scene.text(at(left - 8.0, y), NORMAL, Anchor::End, Ink::Text, shortened(&bar.name, 34));
        let ink = if bar.is_whole { Ink::Data } else { Ink::Second };
        scene.rect(at(left, y - 10.0), at(axes.x(bar.rate as f32), y + 10.0), ink);
        let (low, high) = (axes.x(bar.low as f32), axes.x(bar.high as f32));
        scene.line(&[at(low, y), at(high, y)], 1.5, Ink::Text);
        for x in [low, high] {
            scene.line(&[at(x, y - 4.0), at(x, y + 4.0)], 1.5, Ink::Text);
        }
        scene.text(at(right + 10.0, y), SMALL, Anchor::Start, Ink::Text, &bar.note);
    }
    scene.line(&[at(left, axes.top), at(left, axes.bottom)], 1.0, Ink::Muted);
    scene.text(at((left + right) / 2.0, height + 42.0), NORMAL, Anchor::Middle, Ink::Text, what);
    scene
}

/// How long decisions took, with two quantiles.
pub fn latencies(times_ms: &[u64], p50_ms: u64, p90_ms: u64) -> Scene {
    let mut scene = Scene::new(WIDTH, 320.0, format!("Latency of {} decisions", times_ms.len()));
    let most_s = times_ms.iter().max().copied().unwrap_or(0) as f64 / 1e3;
    let x_ticks = ticks(most_s.max(0.5), 8);
    let x_max = *x_ticks.last().unwrap_or(&1.0);
    let bins = 24;
    let mut counts = vec![0u64; bins];
    for t in times_ms {
        counts[((*t as f64 / 1e3 / x_max * bins as f64) as usize).min(bins - 1)] += 1;
    }
    let y_ticks: Vec<f64> = ticks(counts.iter().max().copied().unwrap_or(1).max(1) as f64, 4);
    let y_ticks: Vec<f64> = y_ticks.into_iter().filter(|t| t.fract() == 0.0).collect();
    let y_max = (*y_ticks.last().unwrap_or(&1.0)).max(counts.iter().max().copied().unwrap_or(1) as f64);
    let axes =
        Axes { left: 72.0, right: WIDTH - 20.0, top: 44.0, bottom: 264.0, x_max: x_max as f32, y_max: y_max as f32 };
    let texts = |ticks: &[f64]| -> Vec<(f32, String)> { ticks.iter().map(|t| (*t as f32, plain(*t))).collect() };
    axes.draw(
        &mut scene,
        ("seconds from the start of what is shown to its decision", &texts(&x_ticks)),
        ("decisions", &texts(&y_ticks)),
    );
    let width = x_max as f32 / bins as f32;
    for (i, count) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
        let x = i as f32 * width;
        let (from, to) = (axes.at(x, 0.0), axes.at(x + width, *count as f32));
        scene.rect(at(from.x + 1.0, from.y), at(to.x - 1.0, to.y), Ink::Data);
    }
    let are_close = axes.x(p90_ms as f32 / 1e3) - axes.x(p50_ms as f32 / 1e3) < text_width(13, SMALL);
    for (i, (name, ms)) in [("p50", p50_ms), ("p90", p90_ms)].into_iter().enumerate() {
        let x = axes.x(ms as f32 / 1e3);
        scene.dashed(&[at(x, axes.top - 28.0), at(x, axes.bottom)], 1.5, Ink::Accent);
        let text = format!("{name} {:.2} s", ms as f32 / 1e3);
        let is_out = x + 6.0 + text_width(text.chars().count(), SMALL) > WIDTH;
        let (x, anchor) = if is_out { (x - 6.0, Anchor::End) } else { (x + 6.0, Anchor::Start) };
        // one below the other where they would meet
        let y = axes.top - if are_close && i == 1 { 9.0 } else { 23.0 };
        scene.text(at(x, y), SMALL, anchor, Ink::Accent, text);
    }
    scene
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::plot::{Item, png, svg};

    #[test]
    fn ticks_are_round_and_reach_the_largest_value() {
        let cases = [
            (1.0, 5, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (7.3, 4, vec![0.0, 2.0, 4.0, 6.0, 8.0]),
            (0.0, 4, vec![0.0, 2.5e-10]),
            (120.0, 6, vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0]),
        ];
        for (max, count, expected) in cases {
            let found = ticks(max, count);
            assert!(found.len() == expected.len(), "{max}: {found:?}");
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{max}: {found:?}");
        }
    }

    fn every_chart() -> Vec<(&'static str, Scene)> {
        let names: Vec<String> = (0..12).map(|i| format!("a class with a long name {i}")).collect();
        let counts: Vec<Vec<Option<u64>>> =
            (0..12).map(|r| (0..12).map(|c| (r + c < 20).then_some(u64::from(r == c) * 12345)).collect()).collect();
        let table =
            Confusion { rows: &names, columns: &names, counts: &counts, row_name: "shown", column_name: "decided" };
        let bin = |count, confidence, accuracy| CalibrationBin { count, confidence, accuracy };
        let point = |alarms_per_hour, missed, enter, is_own| TradeOff { alarms_per_hour, missed, enter, is_own };
        let bar = |name: &str, rate, low, high, is_whole| Bar {
            name: name.into(),
            rate,
            low,
            high,
            note: "93.2 % of 1200".into(),
            is_whole,
        };
        vec![
            ("confusion", confusion(&table)),
            ("reliability", reliability(&[bin(0, 0.0, 0.0), bin(5, 0.5, 0.4), bin(900, 0.99, 1.0)], "rows")),
            ("no rows", reliability(&[bin(0, 0.0, 0.0)], "rows")),
            ("trade-off", trade_off(&[point(12.0, 0.0, 0.51, false), point(0.0, 0.4, 0.99, true)])),
            ("no trade-off", trade_off(&[])),
            ("bars", bars(&[bar("all", 0.9, 0.8, 1.0, true), bar("only speech", 0.0, 0.0, 0.1, false)], "hits")),
            ("latencies", latencies(&[120, 900, 1400, 1400], 900, 1400)),
            ("one latency", latencies(&[0], 0, 0)),
        ]
    }

    #[test]
    fn every_chart_stays_inside_its_picture_and_draws_in_both_ways() {
        for (name, scene) in every_chart() {
            let inside = |p: &Point| (0.0..=scene.width).contains(&p.x) && (0.0..=scene.height).contains(&p.y);
            for item in &scene.items {
                let is_inside = match item {
                    Item::Rect { at: p, width, height, .. } => inside(p) && inside(&at(p.x + width, p.y + height)),
                    Item::Line { points, .. } => points.iter().all(inside),
                    Item::Dot { at, .. } => inside(at),
                    Item::Text(text) => {
                        let long = text_width(text.text.chars().count(), text.size);
                        let (before, after) = match text.anchor {
                            Anchor::Start => (0.0, long),
                            Anchor::Middle => (long / 2.0, long / 2.0),
                            Anchor::End => (long, 0.0),
                        };
                        let [first, last] = if text.is_upright {
                            [at(text.at.x, text.at.y + before), at(text.at.x, text.at.y - after)]
                        } else {
                            [at(text.at.x - before, text.at.y), at(text.at.x + after, text.at.y)]
                        };
                        inside(&first) && inside(&last)
                    }
                };
                assert!(is_inside, "{name}: {item:?}");
            }
            assert!(svg::draw(&scene).ends_with("</svg>\n"));
            assert!(png::draw(&scene).unwrap().starts_with(b"\x89PNG"));
        }
    }
}
