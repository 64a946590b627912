//! A scene as a PNG on white, twice as fine as the page's units: for documents and mails.
//!
//! Text comes from glyphs that were rasterized when the font's crate was made (Noto Sans Mono, ASCII), resampled to the size that is
//! wanted; characters beyond are drawn as an empty box. Edges are smoothed by how much of a pixel they cover.

use std::io;

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::{Anchor, Ink, Item, Point, Scene, Text};

/// Pixels of the picture per unit of the scene.
const SCALE: f32 = 2.0;

const WEIGHT: FontWeight = FontWeight::Regular;
const RASTER: RasterHeight = RasterHeight::Size24;
/// Height of a glyph's box by the size of the font: the box has room above and below.
const BOX: f32 = 1.0;

/// Width of a character by the size of the font.
pub const CHAR_WIDTH: f32 = get_raster_width(WEIGHT, RASTER) as f32 / RASTER.val() as f32 * BOX;

/// Colours on white: those of the page's light ground.
fn rgb(ink: Ink) -> [u8; 3] {
    match ink {
        Ink::Text => [0x1b, 0x24, 0x30],
        Ink::Muted => [0x55, 0x60, 0x6e],
        Ink::Grid => [0xdd, 0xe2, 0xe8],
        Ink::Data | Ink::Heat(_) => [0x1f, 0x6f, 0xb2],
        Ink::Second => [0x8f, 0xb8, 0xdc],
        Ink::Accent => [0xb8, 0x50, 0x0a],
        Ink::OnHeat => [0xff, 0xff, 0xff],
    }
}

/// The file's bytes.
///
/// # Errors
/// What the encoder says; there is none for a scene of at least one pixel.
pub fn draw(scene: &Scene) -> io::Result<Vec<u8>> {
    let mut canvas = Canvas::new((scene.width * SCALE) as usize, (scene.height * SCALE) as usize);
    for item in &scene.items {
        match item {
            Item::Rect { at, width, height, ink } => canvas.rect(*at, *width, *height, *ink),
            Item::Dot { at, radius, ink } => canvas.dot(*at, *radius, *ink),
            Item::Line { points, width, ink, is_dashed } => {
                for pair in points.windows(2) {
                    canvas.line(pair[0], pair[1], *width, *ink, *is_dashed);
                }
            }
            Item::Text(text) => canvas.text(text),
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, canvas.width as u32, canvas.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&canvas.pixels)?;
    Ok(bytes)
}

struct Canvas {
    width: usize,
    height: usize,
    /// RGB, row by row.
    pixels: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Canvas {
        Canvas { width, height, pixels: vec![0xff; width * height * 3] }
    }

    /// Calls `coverage` with the middle of every pixel between two corners, and paints as much.
    fn paint(&mut self, from: Point, to: Point, ink: Ink, coverage: impl Fn(f32, f32) -> f32) {
        let strength = if let Ink::Heat(share) = ink { share } else { 1.0 };
        let color = rgb(ink);
        let clip = |v: f32, max: usize| v.clamp(0.0, max as f32) as usize;
        for y in clip(from.y.floor(), self.height)..clip(to.y.ceil(), self.height) {
            for x in clip(from.x.floor(), self.width)..clip(to.x.ceil(), self.width) {
                let share = coverage(x as f32 + 0.5, y as f32 + 0.5);
                if share.is_nan() || share <= 0.0 {
                    continue;
                }
                let share = share.min(1.0) * strength;
                let at = (y * self.width + x) * 3;
                for (pixel, color) in self.pixels[at..at + 3].iter_mut().zip(color) {
                    let (under, over) = (f32::from(*pixel), f32::from(color));
                    *pixel = (under + (over - under) * share).round() as u8;
                }
            }
        }
    }

    fn rect(&mut self, at: Point, width: f32, height: f32, ink: Ink) {
        let from = Point { x: at.x * SCALE, y: at.y * SCALE };
        let to = Point { x: (at.x + width) * SCALE, y: (at.y + height) * SCALE };
        let overlap = |v: f32, from: f32, to: f32| (to.min(v + 0.5) - from.max(v - 0.5)).max(0.0);
        self.paint(from, to, ink, |x, y| overlap(x, from.x, to.x) * overlap(y, from.y, to.y));
    }

    fn dot(&mut self, at: Point, radius: f32, ink: Ink) {
        let (cx, cy, r) = (at.x * SCALE, at.y * SCALE, radius * SCALE);
        let (from, to) = (Point { x: cx - r - 1.0, y: cy - r - 1.0 }, Point { x: cx + r + 1.0, y: cy + r + 1.0 });
        self.paint(from, to, ink, |x, y| r + 0.5 - (x - cx).hypot(y - cy));
    }

    fn line(&mut self, a: Point, b: Point, width: f32, ink: Ink, is_dashed: bool) {
        let (ax, ay, bx, by) = (a.x * SCALE, a.y * SCALE, b.x * SCALE, b.y * SCALE);
        let half = width * SCALE / 2.0;
        let length = (bx - ax).hypot(by - ay).max(f32::MIN_POSITIVE);
        let (ux, uy) = ((bx - ax) / length, (by - ay) / length);
        let from = Point { x: ax.min(bx) - half - 1.0, y: ay.min(by) - half - 1.0 };
        let to = Point { x: ax.max(bx) + half + 1.0, y: ay.max(by) + half + 1.0 };
        self.paint(from, to, ink, |x, y| {
            let along = ((x - ax) * ux + (y - ay) * uy).clamp(0.0, length);
            if is_dashed && along.rem_euclid(9.0 * SCALE) > 5.0 * SCALE {
                return 0.0;
            }
            half + 0.5 - (x - ax - along * ux).hypot(y - ay - along * uy)
        });
    }

    fn text(&mut self, text: &Text) {
        let char_width = CHAR_WIDTH * text.size * SCALE;
        let box_height = BOX * text.size * SCALE;
        let all = text.text.chars().count() as f32 * char_width;
        let before = match text.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => all / 2.0,
            Anchor::End => all,
        };
        let (x, y) = (text.at.x * SCALE, text.at.y * SCALE);
        for (i, c) in text.text.chars().enumerate() {
            let start = i as f32 * char_width - before;
            // the glyph's box in the direction of reading, and across
            let (along, across) = ([start, start + char_width], [-box_height / 2.0, box_height / 2.0]);
            let glyph = Glyph::of(c, char_width, box_height);
            if text.is_upright {
                let (from, to) =
                    (Point { x: x + across[0], y: y - along[1] }, Point { x: x + across[1], y: y - along[0] });
                self.paint(from, to, text.ink, |px, py| glyph.coverage(y - py - along[0], px - x - across[0]));
            } else {
                let (from, to) =
                    (Point { x: x + along[0], y: y + across[0] }, Point { x: x + along[1], y: y + across[1] });
                self.paint(from, to, text.ink, |px, py| glyph.coverage(px - x - along[0], py - y - across[0]));
            }
        }
    }
}

/// A character at the size it is drawn in.
struct Glyph {
    rows: Option<&'static [u8]>,
    /// Of the raster.
    columns: usize,
    /// Pixels of the raster by pixels of the picture.
    step: f32,
    width: f32,
    height: f32,
}

impl Glyph {
    fn of(c: char, width: f32, height: f32) -> Glyph {
        let raster = get_raster(c, WEIGHT, RASTER);
        Glyph {
            rows: raster.map(|r| r.pixels()),
            columns: get_raster_width(WEIGHT, RASTER),
            step: RASTER.val() as f32 / height,
            width,
            height,
        }
    }

    /// How much of the pixel around a place in the box is covered.
    fn coverage(&self, x: f32, y: f32) -> f32 {
        let Some(rows) = self.rows else {
            // a box for what the font lacks
            let (dx, dy) = ((x - self.width / 2.0).abs(), (y - self.height / 2.0).abs());
            let (w, h) = (self.width * 0.38, self.height * 0.32);
            let outer = (w + 0.5 - dx).clamp(0.0, 1.0) * (h + 0.5 - dy).clamp(0.0, 1.0);
            let inner = (w - 1.0 - dx).clamp(0.0, 1.0) * (h - 1.0 - dy).clamp(0.0, 1.0);
            return outer - inner;
        };
        let at = |column: i32, row: i32| {
            let is_inside = (0..self.columns as i32).contains(&column) && row >= 0;
            let pixel = rows.get(row.max(0) as usize * self.columns + column.max(0) as usize);
            pixel.filter(|_| is_inside).map_or(0.0, |v| f32::from(*v) / 255.0)
        };
        let (u, v) = (x * self.step - 0.5, y * self.step - 0.5);
        let (column, row) = (u.floor(), v.floor());
        let (fu, fv) = (u - column, v - row);
        let (column, row) = (column as i32, row as i32);
        let upper = at(column, row) * (1.0 - fu) + at(column + 1, row) * fu;
        let lower = at(column, row + 1) * (1.0 - fu) + at(column + 1, row + 1) * fu;
        upper * (1.0 - fv) + lower * fv
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::plot::svg::PALETTE;

    fn decode(bytes: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    fn dark(pixels: &[u8]) -> usize {
        pixels.chunks(3).filter(|p| p[0] < 128).count()
    }

    #[test]
    fn colors_are_those_of_the_light_page() {
        let light = PALETTE.lines().next().unwrap();
        let inks = [
            ("text", Ink::Text),
            ("muted", Ink::Muted),
            ("grid", Ink::Grid),
            ("data", Ink::Data),
            ("second", Ink::Second),
            ("accent", Ink::Accent),
            ("on-heat", Ink::OnHeat),
        ];
        for (name, ink) in inks {
            let [r, g, b] = rgb(ink);
            let expected = format!("--{name}:#{r:02x}{g:02x}{b:02x}");
            assert!(light.contains(&expected), "{expected}");
        }
    }

    #[test]
    fn shapes_cover_what_they_should() {
        let mut scene = Scene::new(20.0, 10.0, String::new());
        scene.rect(Point { x: 2.0, y: 2.0 }, Point { x: 6.0, y: 4.0 }, Ink::Text);
        let (width, height, pixels) = decode(&draw(&scene).unwrap());
        assert_eq!((width, height, dark(&pixels)), (40, 20, 8 * 4));
        let mut scene = Scene::new(20.0, 20.0, String::new());
        scene.dot(Point { x: 10.0, y: 10.0 }, 5.0, Ink::Text);
        let (_, _, pixels) = decode(&draw(&scene).unwrap());
        assert!((305..325).contains(&dark(&pixels)), "pi times 10 squared: {}", dark(&pixels));
        let mut scene = Scene::new(20.0, 20.0, String::new());
        scene.line(&[Point { x: 0.0, y: 10.0 }, Point { x: 20.0, y: 10.0 }], 1.0, Ink::Text);
        let (_, _, pixels) = decode(&draw(&scene).unwrap());
        assert_eq!(dark(&pixels), 40 * 2);
    }

    #[test]
    fn text_is_drawn_in_either_direction_also_what_the_font_lacks() {
        let drawn = |text: &str, is_upright: bool| {
            let mut scene = Scene::new(60.0, 60.0, String::new());
            let at = Point { x: 30.0, y: 30.0 };
            let text = Text { at, size: 12.0, anchor: Anchor::Middle, ink: Ink::Text, is_upright, text: text.into() };
            scene.items.push(Item::Text(text));
            decode(&draw(&scene).unwrap()).2
        };
        let (along, up) = (drawn("HiL", false), drawn("HiL", true));
        assert!(dark(&along) > 60 && dark(&along).abs_diff(dark(&up)) < 12, "{} {}", dark(&along), dark(&up));
        // a quarter turn to the left: the pixel at (x, y) is at (y, side - x)
        let side = 120;
        let turned = (0..side * side).filter(|i| {
            let (x, y) = (i % side, i / side);
            along[i * 3].abs_diff(up[((side - 1 - x) * side + y) * 3]) > 2
        });
        assert_eq!(turned.count(), 0);
        assert!(dark(&drawn("中", false)) > 20 && dark(&drawn(" ", false)) == 0);
    }

    #[test]
    fn what_lies_outside_is_cut_off() {
        let mut scene = Scene::new(10.0, 10.0, String::new());
        scene.rect(Point { x: -50.0, y: -50.0 }, Point { x: 50.0, y: 50.0 }, Ink::Text);
        let (_, _, pixels) = decode(&draw(&scene).unwrap());
        assert_eq!(dark(&pixels), 400);
        let mut scene = Scene::new(10.0, 10.0, String::new());
        scene.line(&[Point { x: -1e6, y: f32::NAN }, Point { x: 1e6, y: 3.0 }], 2.0, Ink::Text);
        let (_, _, pixels) = decode(&draw(&scene).unwrap());
        assert_eq!(dark(&pixels), 0, "no place is nowhere");
    }
}
