//! `--report DIR`: one page that needs nothing but itself, and its plots as PNG.
//!
//! The page has its style and its plots inside, no script and no address of anything else; it follows the reader's light or dark ground.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use attendant::decide::score::Proportion;

use super::recordings::{self, ablation_name, ablation_rows, cells, rate, sweep_rows, told};
use super::{percent, rows};
use crate::cli::Failure;
use crate::cli::plot::charts::{self, Bar, TradeOff};
use crate::cli::plot::svg::{PALETTE, escape};
use crate::cli::plot::{Scene, png, svg};

const STYLE: &str = "\
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px 48px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px}
h2{font-size:17px;margin:0 0 4px}
p{margin:0 0 10px}
header p,figcaption,.note,footer{color:var(--muted)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:24px 0}
.tile,figure,section{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:16px 18px;margin:0}
.tile b{display:block;font-size:30px;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{color:var(--muted);font-size:13px;display:block}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,500px),1fr));gap:16px;align-items:start}
figure svg{display:block;width:100%;height:auto;max-width:680px;margin:8px auto 0;font-family:inherit}
figcaption{font-size:13px}
section{margin-top:16px;overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%;font-size:14px}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--grid);white-space:nowrap}
th{color:var(--muted);font-weight:600}
th:first-child,td:first-child,.words td,.words th{text-align:left}
.words td:last-child{white-space:normal}
.bad td:last-child{color:var(--bad);font-weight:600}
.good td:last-child{color:var(--good)}
footer{margin-top:24px;font-size:13px}
@media print{body{background:#fff}.plots{display:block}figure,section,.tile{break-inside:avoid;margin-bottom:12px}}
";

/// What a row of words is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Plain,
    Good,
    Bad,
}

/// A page being put together.
struct Page {
    title: String,
    lead: String,
    tiles: String,
    plots: String,
    tables: String,
    foot: String,
    pictures: Vec<(&'static str, Scene)>,
}

impl Page {
    fn new(title: &str, lead: String, foot: &str) -> Page {
        Page {
            title: title.into(),
            lead,
            tiles: String::new(),
            plots: String::new(),
            tables: String::new(),
            foot: foot.into(),
            pictures: Vec::new(),
        }
    }

    fn tile(&mut self, name: &str, value: &str, note: &str) {
        let (name, value, note) = (escape(name), escape(value), escape(note));
        _ = writeln!(self.tiles, "<div class=\"tile\"><span>{name}</span><b>{value}</b><span>{note}</span></div>");
    }

    /// Adds a plot; `file` is the name of its PNG without extension.
    fn plot(&mut self, file: &'static str, heading: &str, caption: &str, scene: Scene) {
        _ = writeln!(
            self.plots,
            "<figure id=\"{file}\"><h2>{}</h2><figcaption>{}</figcaption>\n{}</figure>",
            escape(heading),
            escape(caption),
            svg::draw(&scene)
        );
        self.pictures.push((file, scene));
    }

    fn table(&mut self, heading: &str, note: &str, rows: &[Vec<String>]) {
        self.rows(heading, note, "", rows.iter().map(|r| (Mood::Plain, &r[..])));
    }

    fn rows<'a>(&mut self, heading: &str, note: &str, class: &str, rows: impl Iterator<Item = (Mood, &'a [String])>) {
        let note = if note.is_empty() { String::new() } else { format!("<p class=\"note\">{}</p>", escape(note)) };
        _ = writeln!(self.tables, "<section><h2>{}</h2>{note}<table class=\"{class}\">", escape(heading));
        for (i, (mood, row)) in rows.enumerate() {
            let (tag, mood) = match (i, mood) {
                (0, _) => ("th", ""),
                (_, Mood::Plain) => ("td", ""),
                (_, Mood::Good) => ("td", " class=\"good\""),
                (_, Mood::Bad) => ("td", " class=\"bad\""),
            };
            let cells: String = row.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect();
            _ = writeln!(self.tables, "<tr{mood}>{cells}</tr>");
        }
        self.tables.push_str("</table></section>\n");
    }

    fn html(&self) -> String {
        let title = escape(&self.title);
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{title}</title>\n\
             <style>\n{PALETTE}{STYLE}</style>\n</head>\n<body>\n<main>\n<header><h1>{title}</h1><p>{}</p></header>\n\
             <div class=\"tiles\">\n{}</div>\n<div class=\"plots\">\n{}</div>\n{}<footer>{}</footer>\n</main>\n</body>\n</html>\n",
            escape(&self.lead),
            self.tiles,
            self.plots,
            self.tables,
            escape(&self.foot)
        )
    }

    fn write(&self, dir: &Path) -> Result<(), Failure> {
        let write = |name: String, bytes: &[u8]| {
            let path = dir.join(name);
            fs::write(&path, bytes).map_err(|source| Failure::Output { path: path.display().to_string(), source })
        };
        for (name, scene) in &self.pictures {
            let picture = png::draw(scene)
                .map_err(|source| Failure::Output { path: dir.join(name).display().to_string(), source })?;
            write(format!("{name}.png"), &picture)?;
        }
        write("index.html".into(), self.html().as_bytes())
    }
}

/// Makes the directory, if it is not there.
pub fn prepare(dir: &Path) -> Result<(), Failure> {
    let failed = |source| Failure::Output { path: dir.display().to_string(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    if fs::metadata(dir).map_err(failed)?.permissions().readonly() {
        return Err(failed(std::io::Error::from(std::io::ErrorKind::PermissionDenied)));
    }
    Ok(())
}

fn interval(p: &Proportion) -> String {
    format!("95 % interval {} to {}", percent(p.low), percent(p.high))
}

fn bar(name: String, p: &Proportion, is_whole: bool) -> Bar {
    let note = format!("{} of {}", percent(p.rate), p.of);
    Bar { name, rate: p.rate, low: p.low, high: p.high, note, is_whole }
}

const BINS_TEXT: &str = "Bars: how often an answer with such a probability was right. On the dashed line it would be exactly as often as told.";

/// Writes the report of rows.
pub fn of_rows(dir: &Path, report: &rows::Report) -> Result<(), Failure> {
    let name = report.file.file_name().unwrap_or_default().to_string_lossy();
    let lead = format!(
        "{} labelled rows of {name}. The modalities of a row are paired by whoever made the file; they need not have been recorded together.",
        report.rows
    );
    let foot = "Intervals are Wilson score intervals. Made by attendant eval --report; every figure comes from the runtime that decides on the device.";
    let mut page = Page::new(&format!("How well {} answers", report.bundle), lead, foot);
    let fused = &report.fused;
    page.tile("Right answers", &percent(fused.accuracy.rate), &interval(&fused.accuracy));
    page.tile("Rows", &report.rows.to_string(), &format!("{} classes", report.labels.len()));
    page.tile("Calibration error (ECE)", &percent(fused.ece), "how far probabilities are from how often they hold");
    page.tile("Brier score", &format!("{:.4}", fused.brier), "0 is perfect, 2 the worst");
    let counts: Vec<Vec<Option<u64>>> =
        fused.confusion.iter().map(|row| row.iter().map(|c| Some(*c)).collect()).collect();
    let table = charts::Confusion {
        rows: &report.labels,
        columns: &report.labels,
        counts: &counts,
        row_name: "true class",
        column_name: "answer",
    };
    page.plot(
        "confusion",
        "What is taken for what",
        "A row is a class, and how its rows were answered; darker is more.",
        charts::confusion(&table),
    );
    page.plot(
        "reliability",
        "Do the probabilities hold?",
        BINS_TEXT,
        charts::reliability(&fused.calibration, "answers"),
    );
    let whole = report.ablations.iter().map(|a| a.modalities.len()).max().unwrap_or(0);
    let bars: Vec<Bar> = report
        .ablations
        .iter()
        .rev()
        .map(|a| bar(a.modalities.join(" + "), &a.accuracy, a.modalities.len() == whole))
        .collect();
    let caption = "Right answers of the fusion when only these modalities take part, over the rows that have them. Whiskers: 95 % intervals.";
    page.plot("ablation", "What each modality is worth", caption, charts::bars(&bars, "right answers"));
    let mut rows =
        vec![["class", "recall", "95 %", "rows", "precision", "95 %", "answered"].map(String::from).to_vec()];
    let span = |p: &Proportion| format!("{:.1}-{:.1}", 100.0 * p.low, 100.0 * p.high);
    for c in &fused.classes {
        let (r, p) = (&c.recall, &c.precision);
        let label = report.labels[c.class].clone();
        rows.push(vec![label, percent(r.rate), span(r), r.of.to_string(), percent(p.rate), span(p), p.of.to_string()]);
    }
    page.table("By class", "", &rows);
    if !report.alone.is_empty() {
        let mut rows = vec![["encoder", "right answers", "95 %", "rows"].map(String::from).to_vec()];
        rows.extend(report.alone.iter().map(|(n, p)| vec![n.clone(), percent(p.rate), span(p), p.of.to_string()]));
        page.table("Each encoder's own answer", "Before the fusion, from the encoder's own head.", &rows);
    }
    page.write(dir)
}

/// Writes the report of recordings.
pub fn of_recordings(dir: &Path, report: &recordings::Report) -> Result<(), Failure> {
    let (t, files) = (&report.total, report.recordings.len());
    let minutes: f64 = report.recordings.iter().map(|r| r.stream.minutes).sum();
    let lead = format!(
        "{files} recording{}, {minutes:.1} minutes, {} things shown. A decision counts up to {} ms after what it is about has ended.",
        if files == 1 { "" } else { "s" },
        t.hits.of,
        report.tolerance_ms
    );
    let foot = "Shares have Wilson score intervals, rates Poisson intervals (Byar), 95 % each. Made by attendant eval --report; the recordings \
                were played through the runtime that decides on the device.";
    let mut page = Page::new(&format!("How well {} decides", report.bundle), lead, foot);
    page.tile("Shown and decided", &format!("{} of {}", t.hits.hits, t.hits.of), &interval(&t.hits));
    page.tile(
        "Not decided",
        &(t.missed + t.asked + t.wrong).to_string(),
        &format!("{} missed, {} asked back, {} taken for something else", t.missed, t.asked, t.wrong),
    );
    let minutes = 60.0 * t.false_alarms.hours;
    let quiet = format!("{} an hour (95 % interval), in {minutes:.1} minutes of nothing shown", rate(t));
    page.tile("False alarms", &t.false_alarms.count.to_string(), &quiet);
    match &t.latency {
        Some(l) => page.tile(
            "Shown to decided, median",
            &format!("{:.2} s", l.p50_ms as f64 / 1e3),
            &format!("90 % within {:.2} s, longest {:.2} s", l.p90_ms as f64 / 1e3, l.max_ms as f64 / 1e3),
        ),
        None => page.tile("Shown to decided, median", "-", "nothing was decided"),
    }
    let table = charts::Confusion {
        rows: &report.confusion.labels,
        columns: &report.confusion.labels,
        counts: &report.confusion.counts,
        row_name: "shown",
        column_name: "decided",
    };
    page.plot(
        "confusion",
        "What is taken for what",
        "A row is what was shown, and what was decided. The column nothing holds misses, the row nothing false alarms.",
        charts::confusion(&table),
    );
    let points: Vec<TradeOff> = report
        .sweep
        .iter()
        .filter_map(|p| {
            let alarms_per_hour = p.false_alarms_per_hour?;
            Some(TradeOff { alarms_per_hour, missed: 1.0 - p.hits.rate, enter: p.enter, is_own: p.is_bundle })
        })
        .collect();
    if points.is_empty() {
        page.rows(
            "Detection-error trade-off",
            "Something is shown all the time: there is no time in which a false alarm could be told.",
            "",
            std::iter::empty(),
        );
    } else {
        page.plot(
            "tradeoff",
            "Misses against false alarms",
            "Every dot is the whole data decided again with another threshold (decision.enter); lower left is better.",
            charts::trade_off(&points),
        );
    }
    let bars: Vec<Bar> =
        report.ablations.iter().map(|a| bar(ablation_name(report, a), &a.hits_of_visible, a.change == "all")).collect();
    page.plot(
        "ablation",
        "What each modality is worth",
        "Hits when only these modalities take part, of what at least one of them can see. Whiskers: 95 % intervals.",
        charts::bars(&bars, "shown and decided"),
    );
    if let Some(l) = &t.latency {
        page.plot(
            "latency",
            "How long a decision takes",
            "From the start of what is shown; what is said or typed starts later than that.",
            charts::latencies(&report.latencies_ms, l.p50_ms, l.p90_ms),
        );
    }
    page.plot(
        "reliability",
        "Do the probabilities hold?",
        &format!("{BINS_TEXT} Decisions only: ECE {}.", percent(report.calibration.ece)),
        charts::reliability(&report.calibration.bins, "decisions"),
    );
    let mut rows = vec![recordings::HEADS.map(String::from).to_vec()];
    rows.extend(report.classes.iter().map(|(name, m)| cells(name, m)));
    rows.push(cells("all", t));
    page.table("By class", "", &rows);
    page.table(
        "Thresholds",
        "The whole decided again, with decision.exit as far below enter as in the bundle.",
        &sweep_rows(report),
    );
    page.table("Modalities left out", "", &ablation_rows(report));
    for r in &report.recordings {
        let mut rows = vec![(Mood::Plain, ["t", "shown", "by", "what", "decided"].map(String::from).to_vec())];
        for s in &r.stretches {
            use attendant::decide::matching::Outcome;
            let mood = match s.outcome {
                Outcome::Hit => Mood::Good,
                Outcome::Quiet | Outcome::Asked => Mood::Plain,
                Outcome::Wrong | Outcome::Missed | Outcome::Alarm => Mood::Bad,
            };
            let label = s.label.clone().unwrap_or_else(|| "nothing".into());
            rows.push((mood, vec![format!("{:.1} s", s.t_s), label, s.shown.join(" + "), s.note.clone(), told(s)]));
        }
        let name = r.file.file_name().unwrap_or_default().to_string_lossy();
        page.rows(&name, "", "words", rows.iter().map(|(m, r)| (*m, &r[..])));
    }
    page.write(dir)
}
