//! Plots of `eval --report`: one description of a picture, drawn as SVG for the page and as PNG for documents.
//!
//! A [`Scene`] is a list of rectangles, lines, dots and texts in the units of the page; [`charts`] make them of figures. Colours are roles,
//! so that the page can be read on a light and on a dark ground. Nothing here knows of bundles or recordings.

pub mod charts;
pub mod png;
pub mod svg;

/// What a thing is drawn for; the page gives it a colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ink {
    /// Text, axes.
    Text,
    /// Less important text.
    Muted,
    /// Lines behind the data.
    Grid,
    /// Data.
    Data,
    /// A second kind of data beside the first.
    Second,
    /// What to look at.
    Accent,
    /// Data, as strong as a share in [0, 1] says.
    Heat(f32),
    /// Text upon [`Ink::Heat`] that is more than half as strong as it can be.
    OnHeat,
}

/// Where a text's position is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// At its beginning.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

/// A text of one line. Its baseline is a third of its size below `y`.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Position.
    pub at: Point,
    /// Height of the font.
    pub size: f32,
    /// What of it is there.
    pub anchor: Anchor,
    /// Colour.
    pub ink: Ink,
    /// Reads upwards.
    pub is_upright: bool,
    /// What it says.
    pub text: String,
}

/// A place: x to the right, y downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: f32,
    /// Downwards.
    pub y: f32,
}

/// One thing that is drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A filled rectangle.
    Rect {
        /// Upper left corner.
        at: Point,
        /// Width.
        width: f32,
        /// Height.
        height: f32,
        /// Colour.
        ink: Ink,
    },
    /// A line through points.
    Line {
        /// The points.
        points: Vec<Point>,
        /// Thickness.
        width: f32,
        /// Colour.
        ink: Ink,
        /// In pieces.
        is_dashed: bool,
    },
    /// A filled circle.
    Dot {
        /// Centre.
        at: Point,
        /// Radius.
        radius: f32,
        /// Colour.
        ink: Ink,
    },
    /// A text.
    Text(Text),
}

/// A picture, from back to front.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
    /// What it shows, in a sentence, for those who do not see it.
    pub description: String,
    /// What is drawn.
    pub items: Vec<Item>,
}

impl Scene {
    /// An empty picture.
    pub fn new(width: f32, height: f32, description: String) -> Scene {
        Scene { width, height, description, items: Vec::new() }
    }

    /// Adds a rectangle between two corners.
    pub fn rect(&mut self, from: Point, to: Point, ink: Ink) {
        let at = Point { x: from.x.min(to.x), y: from.y.min(to.y) };
        self.items.push(Item::Rect { at, width: (to.x - from.x).abs(), height: (to.y - from.y).abs(), ink });
    }

    /// Adds a line.
    pub fn line(&mut self, points: &[Point], width: f32, ink: Ink) {
        self.items.push(Item::Line { points: points.to_vec(), width, ink, is_dashed: false });
    }

    /// Adds a dashed line.
    pub fn dashed(&mut self, points: &[Point], width: f32, ink: Ink) {
        self.items.push(Item::Line { points: points.to_vec(), width, ink, is_dashed: true });
    }

    /// Adds a dot.
    pub fn dot(&mut self, at: Point, radius: f32, ink: Ink) {
        self.items.push(Item::Dot { at, radius, ink });
    }

    /// Adds a text.
    pub fn text(&mut self, at: Point, size: f32, anchor: Anchor, ink: Ink, text: impl Into<String>) {
        self.items.push(Item::Text(Text { at, size, anchor, ink, is_upright: false, text: text.into() }));
    }

    /// Adds a text that reads upwards.
    pub fn upright(&mut self, at: Point, size: f32, anchor: Anchor, ink: Ink, text: impl Into<String>) {
        self.items.push(Item::Text(Text { at, size, anchor, ink, is_upright: true, text: text.into() }));
    }
}

/// Room for a text of `chars` characters, whichever font draws it: pages use the reader's, whose letters may be wide.
pub fn text_width(chars: usize, size: f32) -> f32 {
    chars as f32 * size * png::CHAR_WIDTH.max(0.66)
}
