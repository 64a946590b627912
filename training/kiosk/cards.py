"""Frames of a kiosk camera: a card with one digit held before a cluttered background, and everything that is not a card.

Owns the recipe of the synthetic camera: backgrounds, cards, hands, light, optics, sensor, JPEG, and the corruption of the hard
condition. Called by card.py (training, figures), by the fusion's training and by the demo recording. Deliberately does not resize to
the tensor: that is the runtime's preprocessing, reached through `attendant features`.

Every function takes a `numpy.random.Generator` and is a pure function of it, of the MNIST files and of the installed fonts.
Lengths are fractions of the frame height unless their name ends in `_px`.
"""

import gzip
import struct
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .common import NONE, data

cv2.setNumThreads(1)  # the callers run one process per core

FONT_DIRS = ("/usr/share/fonts",)
# Families never seen in training: the figures on rendered frames use only these and MNIST's test half.
HELD_OUT_FAMILIES = ("LiberationSerif", "URWGothic", "NotoSansMono", "DejaVuSerif-", "NimbusMonoPS", "FreeSans", "NotoSerifDisplay")
# Pictographs and enclosed numbers under the digits' code points.
NOT_DIGITS = ("D050000L", "NotoSansSymbols", "StandardSymbols", "Emoji", "NotoTraditionalNushu")
NONE_KINDS = ("covered", "empty", "blank", "text", "people", "pattern", "exposed", "scribble")
DIGIT_KINDS = ("handwritten", "printed")
SIZES = ((320, 240), (640, 480))
GLYPH_PX = 112

# Strength of `corrupt` in the hard condition: the card model alone is right on about 63 % of `hard_cards`.
HARD_STRENGTH = 1.75


# ---------------------------------------------------------------- sources

def read_idx(path):
    """The array in a gzipped IDX file (format: http://yann.lecun.com/exdb/mnist)."""
    with gzip.open(path, "rb") as file:
        data = file.read()
    dims = data[3]
    shape = struct.unpack(f">{dims}I", data[4:4 + 4 * dims])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


@lru_cache(maxsize=None)
def mnist(split):
    """(pictures u8 [N,28,28], labels u8 [N]) of `train` (first 55,000), `held` (last 5,000 of the training file: choice of the
    epoch, temperature) or `test` (the development half of the test set)."""
    name = "test5k" if split == "test" else "train"
    x = read_idx(data("mnist", f"{name}-images-idx3-ubyte.gz"))
    y = read_idx(data("mnist", f"{name}-labels-idx1-ubyte.gz"))
    if split == "train":
        return x[:55000], y[:55000]
    if split == "held":
        return x[55000:], y[55000:]
    return x, y


@lru_cache(maxsize=None)
def mnist_of(split, digit):
    """Indices of one digit in `mnist(split)`."""
    return np.flatnonzero(mnist(split)[1] == digit)


@lru_cache(maxsize=None)
def fonts(split):
    """Paths of the fonts that draw ten distinct Latin digits; `test` has the held-out families, every other split the rest."""
    found = []
    for folder in FONT_DIRS:
        for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".ttf", ".otf")):
            if any(word in path.name for word in NOT_DIGITS):
                continue
            try:
                font = ImageFont.truetype(str(path), 40)
                missing = bytes(font.getmask("\uffff"))
                drawn = [bytes(font.getmask(str(d))) for d in range(10)]
                letters = {bytes(font.getmask(c)) for c in "Ak#"}
            except OSError:
                continue
            # Some fonts of other scripts have digits but draw a box for every letter, and a box on a card reads as a zero.
            if len(set(drawn)) == 10 and missing not in drawn and letters.isdisjoint((missing, drawn[0])) and len(letters) == 3:
                held_out = path.name.startswith(HELD_OUT_FAMILIES)
                if held_out == (split == "test"):
                    found.append(str(path))
    if len(found) < 4:
        raise RuntimeError(f"{len(found)} fonts for the split {split}, expected at least 4; "
                           "install fonts-dejavu, fonts-liberation, fonts-freefont-ttf, fonts-noto-core, fonts-urw-base35")
    return found


@lru_cache(maxsize=4000)
def printed_glyph(path, text):
    """`text` in a font as coverage u8, cropped to the ink, GLYPH_PX high (long words are less high)."""
    font = ImageFont.truetype(path, GLYPH_PX)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (max(right - left, 1) + 8, max(bottom - top, 1) + 8), 0)
    ImageDraw.Draw(image).text((4 - left, 4 - top), text, font=font, fill=255)
    return crop_to_ink(np.asarray(image))


def crop_to_ink(mask):
    """The bounding box of everything above a tenth of full coverage."""
    rows = np.flatnonzero(mask.max(axis=1) > 25)
    cols = np.flatnonzero(mask.max(axis=0) > 25)
    if len(rows) == 0:
        return mask
    return mask[rows[0]:rows[-1] + 1, cols[0]:cols[-1] + 1]


@lru_cache(maxsize=1)
def noise_bank():
    """Unit Gaussian noise, f32 [1400,1600]; frames take random windows of it, because drawing it costs more than the rest."""
    return np.random.default_rng(20240229).standard_normal((1400, 1600), dtype=np.float32)


# ---------------------------------------------------------------- small draws

def pick(rng, items):
    """One of a sequence."""
    return items[int(rng.integers(len(items)))]


def chance(rng, p):
    """True with probability `p`."""
    return rng.random() < p


def tone(rng, low=0, high=255):
    """A BGR colour whose luma lies in [low, high]."""
    luma = rng.uniform(low, high)
    tint = rng.normal(0, 28, 3) if chance(rng, 0.6) else np.zeros(3)
    tint -= tint @ (0.114, 0.587, 0.299)
    return np.clip(luma + tint, 0, 255)


class Canvas:
    """What a frame is drawn on: u8 [h,w,c] with c = 1 (grey) or 3 (BGR), so that both come from the same draws."""

    def __init__(self, width, height, color):
        self.w, self.h, self.c = width, height, 3 if color else 1
        self.px = np.empty((height, width, self.c), np.uint8)

    def ink(self, bgr):
        """A colour for the OpenCV calls."""
        if self.c == 3:
            return tuple(float(v) for v in bgr)
        return (float(bgr[0] * 0.114 + bgr[1] * 0.587 + bgr[2] * 0.299),)

    def up(self, small, interpolation=cv2.INTER_LINEAR):
        """A small field stretched over the frame, [h,w,c] or [h,w,1]."""
        big = cv2.resize(small, (self.w, self.h), interpolation=interpolation)
        return big[:, :, None] if big.ndim == 2 else big


# ---------------------------------------------------------------- backgrounds

def bg_gradient(rng, canvas):
    corners = np.stack([canvas.ink(tone(rng)) for _ in range(4)]).reshape(2, 2, canvas.c).astype(np.float32)
    canvas.px[:] = canvas.up(corners)


def bg_noise(rng, canvas):
    field = np.zeros((canvas.h // 2, canvas.w // 2), np.float32)
    span = rng.uniform(10, 45)
    for cells in (3, 8, 24, 60):
        if chance(rng, 0.7):
            small = rng.standard_normal((cells, cells * 4 // 3), dtype=np.float32)
            field += cv2.resize(small, (field.shape[1], field.shape[0]), interpolation=cv2.INTER_CUBIC) * span
            span *= rng.uniform(0.4, 0.9)
    base = np.float32(canvas.ink(tone(rng, 40, 215)))
    canvas.px[:] = np.clip(canvas.up(field) + base, 0, 255)


def bg_stripes(rng, canvas):
    """Book spines, slats or tiles."""
    canvas.px[:] = canvas.ink(tone(rng, 10, 120))
    shelf = int(canvas.h * rng.uniform(0.25, 0.6))
    upright = chance(rng, 0.75)
    low, high = sorted(rng.uniform(0, 255, 2))
    along, across = (canvas.w, canvas.h) if upright else (canvas.h, canvas.w)
    for row in range(0, across, shelf):
        x = 0
        while x < along:
            width = int(canvas.h * rng.uniform(0.02, 0.11)) + 1
            a, b = (x, row + int(shelf * rng.uniform(0.02, 0.3))), (x + width - 1, row + shelf - 3)
            if not upright:
                a, b = a[::-1], b[::-1]
            cv2.rectangle(canvas.px, a, b, canvas.ink(tone(rng, low, high)), -1)
            x += width


def bg_shapes(rng, canvas):
    bg_gradient(rng, canvas)
    add_shapes(rng, canvas, int(rng.integers(4, 18)))


def add_shapes(rng, canvas, count):
    for _ in range(count):
        ink = canvas.ink(tone(rng))
        x, y = int(rng.integers(canvas.w)), int(rng.integers(canvas.h))
        size = canvas.h * rng.uniform(0.03, 0.5)
        thick = -1 if chance(rng, 0.6) else int(rng.integers(1, 6))
        form = rng.integers(4)
        if form == 0:
            cv2.rectangle(canvas.px, (x, y), (x + int(size * rng.uniform(0.3, 1.6)), y + int(size)), ink, thick)
        elif form == 1:
            axes = (int(size * 0.5), int(size * rng.uniform(0.15, 0.6)))
            cv2.ellipse(canvas.px, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, ink, thick)
        elif form == 2:
            points = (rng.uniform(-0.6, 0.6, (int(rng.integers(3, 6)), 2)) * size + (x, y)).astype(np.int32)
            cv2.fillPoly(canvas.px, [points], ink)
        else:
            end = (x + int(rng.normal(0, size)), y + int(rng.normal(0, size)))
            cv2.line(canvas.px, (x, y), end, ink, int(rng.integers(1, 8)), cv2.LINE_AA)


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# A single one of these is not taken for a digit by a human reader; O, I, l, S, Z, B, q, ?, !, &, $ and the like are left out.
LONE_SIGNS = "ACEFHKLMNPRTUVWXYadefhkmnprtuvwx#@+=*<>"


def word(rng, low=2, high=9):
    """A word of random letters."""
    return "".join(pick(rng, LETTERS) for _ in range(int(rng.integers(low, high))))


def add_text(rng, canvas, lines):
    """Posters and signs; words only, because a digit in the background would be a second card."""
    for _ in range(lines):
        at = (int(rng.uniform(-0.1, 0.8) * canvas.w), int(rng.uniform(0.05, 1.0) * canvas.h))
        scale = rng.uniform(0.3, 1.3) * canvas.h / 240
        cv2.putText(canvas.px, word(rng, 3, 14), at, int(rng.integers(0, 5)), scale, canvas.ink(tone(rng)),
                    int(rng.integers(1, 3)), cv2.LINE_AA)


def bg_text(rng, canvas):
    (bg_gradient if chance(rng, 0.6) else bg_noise)(rng, canvas)
    add_text(rng, canvas, int(rng.integers(3, 10)))


def bg_room(rng, canvas):
    """Wall, floor, window or door, ceiling lamp."""
    bg_gradient(rng, canvas)
    floor = int(canvas.h * rng.uniform(0.6, 0.95))
    cv2.rectangle(canvas.px, (0, floor), (canvas.w, canvas.h), canvas.ink(tone(rng, 20, 180)), -1)
    for _ in range(int(rng.integers(1, 4))):
        x, y = int(rng.uniform(-0.1, 0.9) * canvas.w), int(rng.uniform(0, 0.5) * canvas.h)
        w, h = int(canvas.h * rng.uniform(0.15, 0.6)), int(canvas.h * rng.uniform(0.2, 0.8))
        cv2.rectangle(canvas.px, (x, y), (x + w, y + h), canvas.ink(tone(rng)), -1)
        cv2.rectangle(canvas.px, (x, y), (x + w, y + h), canvas.ink(tone(rng)), int(rng.integers(1, 6)))
        if chance(rng, 0.5):
            cv2.line(canvas.px, (x + w // 2, y), (x + w // 2, y + h), canvas.ink(tone(rng)), int(rng.integers(1, 5)))
    if chance(rng, 0.4):
        add_text(rng, canvas, 1)


def skin(rng):
    """A BGR skin tone, dark to light."""
    return np.clip(np.array((120.0, 150.0, 205.0)) * rng.uniform(0.3, 1.2) + rng.normal(0, 8, 3), 0, 255)


def add_person(rng, canvas, center_x=None):
    """Head, hair, shoulders, a face of blobs."""
    h = canvas.h
    x = int(canvas.w * rng.uniform(0.1, 0.9)) if center_x is None else int(center_x)
    y = int(h * rng.uniform(0.2, 0.6))
    r = h * rng.uniform(0.1, 0.28)
    cloth, face, hair = canvas.ink(tone(rng)), skin(rng), canvas.ink(tone(rng, 0, 110))
    cv2.ellipse(canvas.px, (x, int(y + r * 3.2)), (int(r * 2.2), int(r * 2.2)), 0, 0, 360, cloth, -1)
    cv2.rectangle(canvas.px, (int(x - r * 0.4), y), (int(x + r * 0.4), int(y + r * 1.6)), canvas.ink(face * 0.85), -1)
    cv2.ellipse(canvas.px, (x, int(y - r * 0.25)), (int(r), int(r * 1.15)), 0, 0, 360, hair, -1)
    cv2.ellipse(canvas.px, (x, int(y + r * 0.1)), (int(r * 0.8), int(r * 1.05)), 0, 0, 360, canvas.ink(face), -1)
    dark = canvas.ink(face * 0.4)
    for side in (-1, 1):
        eye = (int(x + side * r * 0.33), int(y - r * 0.1))
        cv2.ellipse(canvas.px, eye, (max(int(r * 0.15), 1), max(int(r * 0.08), 1)), 0, 0, 360, dark, -1)
        if chance(rng, 0.25):
            cv2.circle(canvas.px, eye, int(r * 0.28), dark, max(int(r * 0.06), 1), cv2.LINE_AA)
    cv2.line(canvas.px, (x, int(y)), (int(x + r * 0.1), int(y + r * 0.3)), canvas.ink(face * 0.7), max(int(r * 0.06), 1))
    cv2.ellipse(canvas.px, (x, int(y + r * 0.55)), (int(r * 0.3), int(r * 0.1)), 0, 0, 180, dark, max(int(r * 0.07), 1))


def background(rng, canvas):
    """Any background, with a person in a third of them."""
    pick(rng, (bg_gradient, bg_noise, bg_stripes, bg_shapes, bg_text, bg_room))(rng, canvas)
    if chance(rng, 0.25):
        add_shapes(rng, canvas, int(rng.integers(1, 6)))
    if chance(rng, 0.35):
        add_person(rng, canvas)
    if chance(rng, 0.5):
        # The background is out of focus when the camera is on the card.
        sigma = rng.uniform(0.5, 4) * canvas.h / 240
        canvas.px[:] = cv2.GaussianBlur(canvas.px, (0, 0), sigma).reshape(canvas.px.shape)


# ---------------------------------------------------------------- cards

def digit_glyph(rng, digit, kind, split):
    """The coverage of a digit, u8."""
    if kind == "handwritten":
        picture = mnist(split)[0][pick(rng, mnist_of(split, digit))]
        mask = cv2.resize(picture, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC).astype(np.float32)
        # A pen has a sharp edge; moving the threshold makes the stroke thin or fat.
        edge, soft = rng.uniform(85, 150), rng.uniform(25, 90)
        return crop_to_ink(np.clip((mask - edge) / soft * 255 + 127, 0, 255).astype(np.uint8))
    glyph = printed_glyph(pick(rng, fonts(split)), str(digit))
    return restyle(rng, glyph)


def restyle(rng, glyph):
    """A printed glyph as it is, fattened, outlined, slanted or stretched."""
    glyph = cv2.copyMakeBorder(glyph, 14, 14, 14, 14, cv2.BORDER_CONSTANT)
    draw = rng.random()
    if draw < 0.15:
        glyph = cv2.dilate(glyph, np.ones((int(rng.integers(3, 8)),) * 2, np.uint8))
    elif draw < 0.22:
        fat = cv2.dilate(glyph, np.ones((int(rng.integers(9, 14)),) * 2, np.uint8))
        glyph = cv2.subtract(fat, cv2.dilate(glyph, np.ones((3, 3), np.uint8)))
    if chance(rng, 0.3):
        h, w = glyph.shape
        slant = rng.uniform(-0.1, 0.3)
        stretch = rng.uniform(0.75, 1.3)
        wide = int(w * stretch + abs(slant) * h)
        matrix = np.float32([[stretch, -slant, max(slant, 0) * h], [0, 1, 0]])
        glyph = cv2.warpAffine(glyph, matrix, (wide, h))
    return glyph


def text_glyph(rng, split):
    """A word, a lone sign or two lines of words."""
    font = pick(rng, fonts(split))
    draw = rng.random()
    if draw < 0.4:
        return restyle(rng, printed_glyph(font, pick(rng, LONE_SIGNS)))
    if draw < 0.75:
        return render_word(font, word(rng, 2, 8))
    lines = [render_word(font, word(rng, 3, 9)) for _ in range(int(rng.integers(2, 4)))]
    width = max(line.shape[1] for line in lines)
    return np.vstack([cv2.copyMakeBorder(line, 10, 10, 0, width - line.shape[1], cv2.BORDER_CONSTANT) for line in lines])


def render_word(path, text):
    """A word from the cached letters, so that random words do not fill the cache."""
    letters = [printed_glyph(path, c) for c in text]
    height = max(g.shape[0] for g in letters)
    return np.hstack([cv2.copyMakeBorder(g, height - g.shape[0], 0, 5, 5, cv2.BORDER_CONSTANT) for g in letters])


def scribble_glyph(rng):
    """Pen strokes that mean nothing."""
    mask = np.zeros((GLYPH_PX, int(GLYPH_PX * rng.uniform(0.6, 1.6))), np.uint8)
    # Two or three strokes are a digit now and then; many are not.
    for _ in range(int(rng.integers(4, 9))):
        turns = np.cumsum(rng.normal(0, 0.3, (int(rng.integers(4, 12)), 2)), axis=0) + rng.uniform(0.2, 0.8, 2)
        points = (np.clip(turns, 0.03, 0.97) * mask.shape[::-1]).astype(np.int32)
        cv2.polylines(mask, [points], False, 255, int(rng.integers(3, 10)), cv2.LINE_AA)
    return mask


def card_face(rng, canvas, glyph, detail):
    """A card in its own plane: u8 [h,w,c] and its coverage u8 [h,w]. `glyph` None leaves it blank; `detail` is pixels in height."""
    style = pick(rng, ("paper", "paper", "coloured", "lined", "badge", "phone"))
    dark_ink = chance(rng, 0.78)
    h = detail
    w = int(h * rng.uniform(0.68, 1.45))
    top, foot, side = 0.04, 0.04, 0.05
    if style in ("paper", "lined"):
        paper, ink = tone(rng, 165, 255), tone(rng, 0, 95)
    else:
        luma = rng.uniform(0, 255)
        paper = tone(rng, luma, luma)
        # Enough contrast to be read at all; low contrast is a matter of the light and of `corrupt`.
        ink = tone(rng, 0, luma - 80) if luma > 128 else tone(rng, luma + 80, 255)
    if style in ("paper", "lined") and not dark_ink:
        paper, ink = ink, paper
    face = np.empty((h, w, canvas.c), np.uint8)
    face[:] = canvas.ink(paper)
    cover = np.full((h, w), 255, np.uint8)
    if style == "lined":
        faint = canvas.ink(paper * 0.75 + ink * 0.25)
        step = int(h * rng.uniform(0.06, 0.14)) + 1
        for y in range(step, h, step):
            cv2.line(face, (0, y), (w, y), faint, 1)
        if chance(rng, 0.5):
            for x in range(step, w, step):
                cv2.line(face, (x, 0), (x, h), faint, 1)
    elif style == "badge":
        top = rng.uniform(0.16, 0.26)
        cv2.rectangle(face, (0, 0), (w, int(h * top) - 4), canvas.ink(tone(rng)), -1)
        cv2.putText(face, word(rng, 4, 9), (int(w * 0.08), int(h * top * 0.7)), 0, h / 260, canvas.ink(tone(rng)), 1, cv2.LINE_AA)
        if chance(rng, 0.5):
            foot = 0.16
            cv2.putText(face, word(rng, 4, 11), (int(w * 0.08), int(h * 0.96)), 0, h / 320, canvas.ink(ink), 1, cv2.LINE_AA)
    elif style == "phone":
        top, foot, side = 0.12, 0.12, 0.09
        bezel = canvas.ink(tone(rng, 0, 60))
        cv2.rectangle(face, (0, 0), (w - 1, h - 1), bezel, max(int(h * 0.07), 1))
        round_corners(cover, int(h * 0.08))
    if chance(rng, 0.2):
        cv2.rectangle(face, (2, 2), (w - 3, h - 3), canvas.ink(ink), max(int(h * rng.uniform(0.005, 0.03)), 1))
    if glyph is not None:
        room_h, room_w = h * (1 - top - foot) * rng.uniform(0.72, 0.98), w * (1 - 2 * side) * 0.98
        scale = min(room_h / glyph.shape[0], room_w / glyph.shape[1])
        gh, gw = max(int(glyph.shape[0] * scale), 1), max(int(glyph.shape[1] * scale), 1)
        mark = cv2.resize(glyph, (gw, gh), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        free_y, free_x = h * (1 - top - foot) - gh, w * (1 - 2 * side) - gw
        y = int(h * top + free_y * rng.uniform(0.25, 0.75))
        x = int(w * side + free_x * rng.uniform(0.3, 0.7))
        strength = rng.uniform(0.75, 1.0)
        blend = (mark.astype(np.float32) * (strength / 255))[:, :, None]
        patch = face[y:y + gh, x:x + gw]
        patch[:] = patch + (np.float32(canvas.ink(ink)) - patch) * blend
    return face, cover


def round_corners(cover, r):
    """Cuts the corners of a coverage mask."""
    h, w = cover.shape
    cover[:] = 0
    cv2.rectangle(cover, (r, 0), (w - r, h), 255, -1)
    cv2.rectangle(cover, (0, r), (w, h - r), 255, -1)
    for x, y in ((r, r), (w - r, r), (r, h - r), (w - r, h - r)):
        cv2.circle(cover, (x, y), r, 255, -1)


def place_card(rng, canvas, face, cover):
    """Draws the card with perspective, and the hand that holds it."""
    ch, cw = cover.shape
    H = canvas.h
    size = rng.triangular(0.3, 0.85, 1.1) * H
    size = min(size, 1.1 * H * ch / max(cw, ch) * (1.25 if cw > ch else 1.0))
    k = size / ch
    angle = np.deg2rad(np.clip(rng.normal(0, 8), -25, 25))
    rot = np.float32([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = np.float32([[-cw, -ch], [cw, -ch], [cw, ch], [-cw, ch]]) * (k / 2)
    # Tilting a card away from the camera shortens one side; the jitter of the corners covers it.
    jitter = rng.uniform(-1, 1, (4, 2)).astype(np.float32) * size * rng.uniform(0, 0.09)
    slack = max(0.5 * H - 0.36 * size, 0.04 * H)
    # Visitors aim at the middle of the screen, and miss.
    miss = np.clip(rng.normal(0, 0.4, 2), -0.8, 0.8) * slack
    center = np.float32((canvas.w / 2 + miss[0], H / 2 + miss[1]))
    quad = half @ rot.T + jitter + center
    source = np.float32([[0, 0], [cw, 0], [cw, ch], [0, ch]])
    x0, y0 = np.maximum(np.floor(quad.min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + 1, (canvas.w, H))
    matrix = cv2.getPerspectiveTransform(source, (quad - (x0, y0)).astype(np.float32))
    if chance(rng, 0.5):
        add_arm(rng, canvas, quad, size)
    extent = (int(x1 - x0), int(y1 - y0))
    drawn = cv2.warpPerspective(face, matrix, extent, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpPerspective(cover, matrix, extent, flags=cv2.INTER_LINEAR).astype(np.float32)[:, :, None] * (1 / 255)
    patch = canvas.px[y0:y1, x0:x1]
    patch[:] = patch + (drawn.reshape(patch.shape).astype(np.float32) - patch) * alpha
    if chance(rng, 0.5):
        add_fingers(rng, canvas, quad, size)


def add_arm(rng, canvas, quad, size):
    """A forearm and a palm behind the card."""
    ink = canvas.ink(skin(rng))
    low = quad[2] * 0.5 + quad[3] * 0.5
    start = (int(low[0] + rng.normal(0, 0.2) * size), int(canvas.h + 10))
    cv2.line(canvas.px, start, (int(low[0]), int(low[1])), ink, max(int(size * rng.uniform(0.15, 0.35)), 2))
    cv2.circle(canvas.px, (int(low[0]), int(low[1])), int(size * rng.uniform(0.15, 0.3)), ink, -1)


def add_fingers(rng, canvas, quad, size):
    """Fingertips over the rim of the card."""
    side = int(rng.integers(1, 4))
    a, b = quad[side], quad[(side + 1) % 4]
    middle = quad.mean(axis=0)
    base = skin(rng)
    thick = max(int(size * rng.uniform(0.06, 0.11)), 2)
    at = rng.uniform(0.15, 0.7)
    for n in range(int(rng.integers(1, 5))):
        edge = a + (b - a) * np.clip(at + n * 0.13, 0, 1)
        inward = (middle - edge) / (np.linalg.norm(middle - edge) + 1e-3)
        tip = edge + inward * size * rng.uniform(0.02, 0.11)
        root = edge - inward * size * rng.uniform(0.15, 0.4)
        ink = canvas.ink(np.clip(base * rng.uniform(0.85, 1.1), 0, 255))
        cv2.line(canvas.px, tuple(int(v) for v in root), tuple(int(v) for v in tip), ink, thick, cv2.LINE_AA)


# ---------------------------------------------------------------- light, optics, sensor

def camera(rng, canvas):
    """Light, focus, motion, noise and compression of an ordinary kiosk camera; returns the frame u8 [h,w] or [h,w,3]."""
    h, w, zoom = canvas.h, canvas.w, canvas.h / 240
    gain = rng.uniform(0.9, 1.1)
    if chance(rng, 0.2):
        gain *= rng.uniform(0.25, 0.7)
    field = (1 + rng.normal(0, 0.13, (3, 4))).astype(np.float32) * np.float32(gain)
    if chance(rng, 0.25):
        small = np.ones((30, 40), np.float32)
        points = (rng.uniform(-0.3, 1.3, (4, 2)) * (40, 30)).astype(np.int32)
        cv2.fillPoly(small, [points], float(rng.uniform(0.35, 0.8)))
        small = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.5, 3))
        field = cv2.resize(field, (40, 30)) * small
    light = canvas.up(field)
    frame = canvas.px * light
    if chance(rng, 0.15):
        spot = np.zeros((24, 32), np.float32)
        cv2.ellipse(spot, (int(rng.integers(32)), int(rng.integers(24))), (int(rng.integers(1, 6)), int(rng.integers(1, 4))),
                    float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(60, 160)), -1)
        frame += canvas.up(cv2.GaussianBlur(spot, (0, 0), rng.uniform(1, 2.5)))
    if chance(rng, 0.3):
        squeeze = rng.uniform(0.4, 0.9)
        frame = frame * np.float32(squeeze) + np.float32(rng.uniform(0, 255) * (1 - squeeze))
    frame = frame.reshape(h, w, canvas.c)
    draw = rng.random()
    if draw < 0.4:
        frame = cv2.GaussianBlur(frame, (0, 0), rng.uniform(0.5, 2.0) * zoom)
    elif draw < 0.6:
        frame = motion_blur(rng, frame, rng.uniform(3, 10) * zoom)
    return sensor(rng, frame.reshape(h, w, canvas.c), rng.gamma(2.0, 2.5) if chance(rng, 0.8) else 0.0)


def motion_blur(rng, frame, length_px):
    """A straight smear in a random direction."""
    size = int(length_px) | 1
    kernel = np.zeros((size, size), np.float32)
    angle = rng.uniform(0, np.pi)
    d = np.array((np.cos(angle), np.sin(angle))) * (size / 2)
    mid = size / 2 - 0.5
    a, b = (mid - d).round().astype(int), (mid + d).round().astype(int)
    cv2.line(kernel, tuple(map(int, a)), tuple(map(int, b)), 1.0, 1)
    return cv2.filter2D(frame, -1, kernel / kernel.sum())


def sensor(rng, frame, sigma):
    """Adds noise of `sigma` grey levels, clips to u8, and compresses half of the frames; f32 [h,w,c] -> u8 [h,w] or [h,w,3]."""
    h, w, c = frame.shape
    if sigma > 0:
        bank = noise_bank()
        grain = 2 if chance(rng, 0.3) else 1
        for channel in range(c):
            y, x = int(rng.integers(bank.shape[0] - h + 1)), int(rng.integers(bank.shape[1] - w + 1))
            noise = bank[y:y + h // grain, x:x + w // grain]
            if grain == 2:
                noise = cv2.resize(noise, (w, h), interpolation=cv2.INTER_NEAREST)
            frame[:, :, channel] += noise * np.float32(sigma)
    out = np.clip(frame, 0, 255).astype(np.uint8)
    out = out[:, :, 0] if c == 1 else out
    if chance(rng, 0.5):
        quality = int(rng.integers(25, 95))
        data = cv2.imencode(".jpg", out, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
        out = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if c == 1 else cv2.IMREAD_COLOR)
    return out


# ---------------------------------------------------------------- frames

def render(rng, digit, kind="any", *, split="train", size=(320, 240), color=False):
    """One frame of the kiosk camera.

    `digit` 0..9 shows a card (`kind` handwritten, printed or any); None shows no digit (`kind` one of NONE_KINDS or any).
    `split` chooses the handwriting and the fonts (train, held, test). Returns u8 [h,w] grey, or BGR [h,w,3] with `color`.
    """
    canvas = Canvas(size[0], size[1], color)
    kinds = NONE_KINDS if digit is None else DIGIT_KINDS
    if kind == "any":
        kind = pick(rng, kinds)
    if kind not in kinds:
        raise ValueError(f"card kind is {kind!r} for digit {digit}, expected one of {kinds} or 'any'")
    if digit is not None:
        background(rng, canvas)
        glyph = digit_glyph(rng, digit, kind, split)
        face, cover = card_face(rng, canvas, glyph, int(size[1] * 0.6))
        place_card(rng, canvas, face, cover)
        return camera(rng, canvas)
    if kind == "covered":
        return covered_lens(rng, canvas)
    if kind == "pattern":
        test_pattern(rng, canvas)
        return sensor(rng, canvas.px.astype(np.float32), rng.uniform(0, 5))
    background(rng, canvas)
    if kind == "people":
        for _ in range(int(rng.integers(1, 4))):
            add_person(rng, canvas)
    elif kind in ("blank", "text", "scribble"):
        glyph = {"blank": lambda: None, "text": lambda: text_glyph(rng, split), "scribble": lambda: scribble_glyph(rng)}[kind]()
        face, cover = card_face(rng, canvas, glyph, int(size[1] * 0.6))
        place_card(rng, canvas, face, cover)
    elif kind == "exposed":
        canvas.px[:] = np.clip(canvas.px * rng.uniform(3, 12) if chance(rng, 0.5) else canvas.px * rng.uniform(0.02, 0.15), 0, 255)
    return camera(rng, canvas)


def covered_lens(rng, canvas):
    """Black, the dark red of a fingertip against a lamp, or a cloth."""
    draw = rng.random()
    if draw < 0.4:
        base = np.zeros(3) + rng.uniform(0, 25)
    elif draw < 0.75:
        base = np.array((15.0, 20.0, 90.0)) * rng.uniform(0.4, 2)
    else:
        base = tone(rng, 10, 120)
    canvas.px[:] = canvas.ink(base)
    frame = canvas.px * canvas.up((1 + rng.normal(0, 0.2, (3, 4))).astype(np.float32))
    return sensor(rng, frame.reshape(canvas.px.shape), rng.uniform(0, 20))


def test_pattern(rng, canvas):
    """Colour bars, checkers, rings, a flat field."""
    draw = rng.integers(4)
    canvas.px[:] = canvas.ink(tone(rng))
    if draw == 0:
        bars = int(rng.integers(4, 12))
        for n in range(bars):
            canvas.px[:, n * canvas.w // bars:(n + 1) * canvas.w // bars] = canvas.ink(tone(rng))
    elif draw == 1:
        cells = int(rng.integers(3, 16))
        ys, xs = np.mgrid[:canvas.h, :canvas.w] * cells // canvas.h
        canvas.px[(ys + xs) % 2 == 0] = canvas.ink(tone(rng))
    elif draw == 2:
        # Rings off the centre: one ring in the middle is a zero to any reader.
        step = int(canvas.h * rng.uniform(0.04, 0.1)) + 2
        x, y = int(canvas.w * rng.uniform(0.2, 0.8)), int(canvas.h * rng.uniform(0.2, 0.8))
        for r in range(step, canvas.w, step):
            cv2.circle(canvas.px, (x, y), r, canvas.ink(tone(rng)), max(step // 3, 1))


# ---------------------------------------------------------------- the hard condition

def corrupt(rng, frame, strength):
    """Occlusion, low contrast, blur and noise over a grey or BGR u8 frame; `strength` 0 leaves it, 1 is hard to read."""
    if strength <= 0:
        return frame
    h, w = frame.shape[:2]
    zoom = h / 240
    out = frame.copy()
    for _ in range(int(rng.integers(0, 2 + round(strength)))):
        ink = (float(rng.uniform(0, 255)),) * 3
        x, y = w / 2 + rng.uniform(-0.35, 0.35) * h, h / 2 + rng.uniform(-0.35, 0.35) * h
        if chance(rng, 0.5):
            d = rng.normal(0, 1, 2)
            d *= h / (np.linalg.norm(d) + 1e-6)
            cv2.line(out, (int(x - d[0]), int(y - d[1])), (int(x + d[0]), int(y + d[1])), ink, int(h * rng.uniform(0.03, 0.1)))
        else:
            a = rng.uniform(0.06, 0.14, 2) * h
            cv2.rectangle(out, (int(x - a[0]), int(y - a[1])), (int(x + a[0]), int(y + a[1])), ink, -1)
    out = cv2.GaussianBlur(out.astype(np.float32), (0, 0), zoom * (0.3 + strength * rng.uniform(1.5, 3.5)))
    if chance(rng, 0.3):
        out = motion_blur(rng, out, zoom * (3 + strength * rng.uniform(3, 9)))
    # The contrast goes down to a level and not by a factor, so that a frame which is dull already is not wiped out.
    mean, spread = cv2.meanStdDev(out)
    contrast = min(1.0, rng.uniform(14, 26) / strength / max(float(spread.max()), 1.0))
    out = (out - float(mean.mean())) * np.float32(contrast) + np.float32(rng.uniform(70, 180))
    # Coarse grain too: fine grain alone would vanish when the frame is reduced to the tensor.
    bank = noise_bank()
    for grain, sigma in ((1, strength * rng.uniform(4, 14)), (4, strength * rng.uniform(2, 7))):
        gh, gw = -(-h // grain), -(-w // grain)
        y, x = int(rng.integers(bank.shape[0] - gh + 1)), int(rng.integers(bank.shape[1] - gw + 1))
        noise = bank[y:y + gh, x:x + gw]
        if grain > 1:
            noise = cv2.resize(noise, (w, h), interpolation=cv2.INTER_LINEAR)
        noise = noise * np.float32(sigma)
        out += noise if out.ndim == 2 else noise[:, :, None]
    return np.clip(out, 0, 255).astype(np.uint8)


def hard_cards(seed, n, *, labels=None, split="test", size=(320, 240), color=False, strength=None):
    """(frames u8 [n,h,w(,3)], labels i64 [n]) of the hard condition; `labels` 0..10 pairs them with other modalities, and is drawn
    from the ten digits when None (10 = none)."""
    strength = HARD_STRENGTH if strength is None else strength
    if labels is None:
        labels = np.random.default_rng((seed, 1)).integers(0, 10, n)
    frames = []
    for index, label in enumerate(labels):
        rng = np.random.default_rng((seed, 2, index))
        frame = render(rng, None if label == NONE else int(label), split=split, size=size, color=color)
        frames.append(corrupt(rng, frame, strength))
    return np.stack(frames), np.asarray(labels, np.int64)


def clean_cards(seed, n, *, labels=None, split="test", size=(320, 240), color=False):
    """(frames, labels) like `hard_cards` without the corruption; eleven classes when `labels` is None."""
    if labels is None:
        labels = np.random.default_rng((seed, 1)).integers(0, 11, n)
    frames = []
    for index, label in enumerate(labels):
        rng = np.random.default_rng((seed, 2, index))
        frames.append(render(rng, None if label == NONE else int(label), split=split, size=size, color=color))
    return np.stack(frames), np.asarray(labels, np.int64)


def montage(frames, columns=8):
    """A contact sheet for a human eye."""
    rows = [np.hstack(frames[i:i + columns]) for i in range(0, len(frames) - columns + 1, columns)]
    return np.vstack(rows)
