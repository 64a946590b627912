"""Pictures that show no digit: noise, flicker, patterns, prints, letters, signs, screens, textures.

Called by out_of_distribution.py. Every kind is a pure function of a `numpy.random.Generator` and returns grey levels f32 [HEIGHT, WIDTH]
in [0, 255] before the camera. What any reader would take for a digit is left out on purpose (O, o, I, l, a lone ring, a lone bar): to
answer 0 or 1 to these is no mistake. Letters that are like digits without being one have a kind of their own.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH, HEIGHT = 640, 480
LETTERS = "ACDEFHJKLMNPQRTUVWXYadefhkmnprtuvwxy"
LOOKALIKES = "SsZzBbGgqQ?&$ijT"
WORDS = (
    "platform notice welcome exit library garden please queue here open closed museum gallery ticket office information coffee "
    "morning evening theatre harbour station market river bridge north south customers only private emergency sandwich"
).split()


def grid():
    """(y, x) f32 [HEIGHT, WIDTH], pixels."""
    return np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


def spectrum(rng, exponent):
    """Noise whose power falls with frequency to the power of `exponent` (0 white, 2 brown, -1 blue), mean 0, deviation 1."""
    field = np.fft.rfft2(rng.standard_normal((HEIGHT, WIDTH)))
    fy, fx = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :]
    radius = np.maximum(np.hypot(fy, fx), 1 / WIDTH)
    noise = np.fft.irfft2(field * radius ** (-exponent / 2), s=(HEIGHT, WIDTH))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def rotated(rng, limit=np.pi):
    """Coordinates (u, v) turned by a random angle about the middle."""
    y, x = grid()
    angle = rng.uniform(-limit, limit)
    y, x = y - HEIGHT / 2, x - WIDTH / 2
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def two_greys(rng, apart=50):
    """A dark and a light grey level, in either order."""
    dark = rng.uniform(0, 180)
    light = rng.uniform(min(dark + apart, 254), 255)
    return (dark, light) if rng.random() < 0.5 else (light, dark)


def noise(rng):
    """White, pink, brown, blue, coarse or salt-and-pepper noise."""
    form = rng.integers(4)
    if form < 2:
        return 128 + spectrum(rng, rng.uniform(-1, 3)) * rng.uniform(10, 90)
    if form == 2:
        cell = int(rng.integers(2, 33))
        small = rng.uniform(0, 255, (HEIGHT // cell + 1, WIDTH // cell + 1))
        return np.kron(small, np.ones((cell, cell)))[:HEIGHT, :WIDTH].astype(np.float32)
    picture = np.full((HEIGHT, WIDTH), rng.uniform(40, 215), np.float32)
    hit = rng.random((HEIGHT, WIDTH))
    share = rng.uniform(0.01, 0.4)
    picture[hit < share / 2], picture[hit > 1 - share / 2] = 0, 255
    return picture


def flicker(rng):
    """The bands that a rolling shutter makes of lamps on alternating current, over a plain or soft ground; or whole torn frames."""
    y, _ = grid()
    ground = rng.uniform(40, 215) + spectrum(rng, 2.5) * rng.uniform(0, 30)
    bands = np.sin(y * 2 * np.pi * rng.uniform(0.5, 14) / HEIGHT + rng.uniform(0, 7))
    if rng.random() < 0.3:
        bands = np.sign(bands)
    picture = ground * (1 + rng.uniform(0.1, 0.9) * bands)
    if rng.random() < 0.3:
        at = int(rng.integers(1, HEIGHT))
        picture[at:] = np.roll(picture[at:], int(rng.integers(WIDTH)), axis=1) * rng.uniform(0.2, 1.8)
    return picture


def flat(rng):
    """One grey level, a gradient, a vignette or a spot of light."""
    form = rng.integers(4)
    u, _ = rotated(rng)
    level = rng.uniform(0, 255)
    if form == 0:
        return np.full((HEIGHT, WIDTH), level, np.float32)
    if form == 1:
        return level + u * rng.uniform(-0.5, 0.5)
    y, x = grid()
    cy, cx = rng.uniform(-0.2, 1.2, 2) * (HEIGHT, WIDTH)
    distance = np.hypot((y - cy) / rng.uniform(0.5, 2), x - cx)
    reach = rng.uniform(60, 600)
    return level + rng.uniform(-200, 200) * np.exp(-((distance / reach) ** 2))


def stripes(rng):
    """Stripes, checkers, dots, waves or rings about a point outside the middle."""
    u, v = rotated(rng)
    low, high = two_greys(rng)
    period = rng.uniform(8, 160)
    form = rng.integers(5)
    if form == 0:
        on = (u / period) % 1 < rng.uniform(0.2, 0.8)
    elif form == 1:
        on = (np.floor(u / period) + np.floor(v / period)) % 2 == 0
    elif form == 2:
        on = np.hypot(u % period - period / 2, v % period - period / 2) < period * rng.uniform(0.15, 0.45)
    elif form == 3:
        on = np.sin(u / period * 6.3 + np.sin(v / period * rng.uniform(1, 6)) * rng.uniform(0.5, 3)) > 0
    else:
        away = rng.uniform(0.4, 0.9) * WIDTH
        on = np.hypot(u - away, v) / period % 1 < rng.uniform(0.3, 0.7)
    return np.where(on, high, low).astype(np.float32)


def sheet(rng, mark):
    """A light or dark sheet with `mark` (coverage f32 in [0, 1], any size) on it, before an out-of-focus ground."""
    picture = np.clip(rng.uniform(40, 200) + spectrum(rng, 3) * rng.uniform(5, 50), 0, 255)
    size = int(rng.uniform(0.5, 0.95) * HEIGHT)
    scale = size * rng.uniform(0.5, 0.9) / max(mark.shape)
    drawn = Image.fromarray((mark * 255).astype(np.uint8)).resize(
        (max(int(mark.shape[1] * scale), 1), max(int(mark.shape[0] * scale), 1)), Image.Resampling.BILINEAR)
    cover = Image.new("L", (size, size), 0)
    cover.paste(drawn, ((size - drawn.width) // 2, (size - drawn.height) // 2))
    ink, paper = two_greys(rng, 70)
    face = paper + (ink - paper) * np.asarray(cover, np.float32) / 255
    angle = float(rng.normal(0, 8))
    face = Image.fromarray(face.astype(np.uint8)).rotate(angle, Image.Resampling.BILINEAR, expand=True)
    alpha = Image.new("L", (size, size), 255).rotate(angle, Image.Resampling.BILINEAR, expand=True)
    whole = Image.fromarray(picture.astype(np.uint8))
    at = (int((WIDTH - face.width) / 2 + rng.normal(0, 25)), int((HEIGHT - face.height) / 2 + rng.normal(0, 20)))
    whole.paste(face, at, alpha)
    return np.asarray(whole, np.float32)


def codes(rng):
    """A square code of random cells with three finders, or a bar code."""
    if rng.random() < 0.3:
        bars = np.repeat(rng.integers(0, 2, 60), rng.integers(1, 4, 60)).astype(np.float32)
        return sheet(rng, np.tile(np.repeat(bars, 3), (int(rng.integers(80, 250)), 1)))
    n = int(rng.choice([21, 25, 29, 33, 41]))
    cells = rng.integers(0, 2, (n, n)).astype(np.float32)
    finder = np.ones((7, 7), np.float32)
    finder[1:6, 1:6] = 0
    finder[2:5, 2:5] = 1
    for top, left in ((0, 0), (0, n - 7), (n - 7, 0)):
        cells[max(top - 1, 0):top + 8, max(left - 1, 0):left + 8] = 0
        cells[top:top + 7, left:left + 7] = finder
    return sheet(rng, np.kron(cells, np.ones((8, 8), np.float32)))


def written(text, size, spacing=4):
    """Coverage f32 of text, cropped to its ink."""
    font = ImageFont.load_default(size)
    probe = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = (int(v) for v in probe.multiline_textbbox((0, 0), text, font=font, spacing=spacing))
    image = Image.new("L", (right - left + 4, bottom - top + 4), 0)
    ImageDraw.Draw(image).multiline_text((2 - left, 2 - top), text, fill=255, font=font, spacing=spacing)
    return np.asarray(image, np.float32) / 255


def pages(rng):
    """A page of words."""
    words = [str(w) for w in rng.choice(WORDS, int(rng.integers(3, 120)))]
    width = int(rng.integers(1, 9))
    lines = [" ".join(words[i:i + width]) for i in range(0, len(words), width)]
    return sheet(rng, written("\n".join(lines), 28, int(rng.integers(2, 16))))


def polygon(points, thick=0):
    """Coverage f32 of a polygon with corners in [0, 1]; its outline if `thick` > 0."""
    image = Image.new("L", (256, 256), 0)
    corners = [(20 + 216 * float(x), 20 + 216 * float(y)) for x, y in points]
    draw = ImageDraw.Draw(image)
    if thick:
        draw.line([*corners, corners[0]], fill=255, width=thick, joint="curve")
    else:
        draw.polygon(corners, fill=255)
    return np.asarray(image, np.float32) / 255


def star(rng):
    """A star, filled or not."""
    n, inner = int(rng.integers(4, 9)), rng.uniform(0.25, 0.7)
    k = np.arange(2 * n)
    radius = np.where(k % 2 == 0, 0.5, 0.5 * inner)
    angle = k * np.pi / n + rng.uniform(0, 1)
    return polygon(np.stack((0.5 + radius * np.sin(angle), 0.5 - radius * np.cos(angle)), 1), int(rng.choice([0, 0, 8, 16])))


SIGNS = {
    "arrow": ((0, .38), (.55, .38), (.55, .15), (1, .5), (.55, .85), (.55, .62), (0, .62)),
    "cross": ((.35, 0), (.65, 0), (.65, .35), (1, .35), (1, .65), (.65, .65), (.65, 1), (.35, 1), (.35, .65), (0, .65), (0, .35), (.35, .35)),
    "house": ((.5, 0), (1, .45), (.85, .45), (.85, 1), (.6, 1), (.6, .6), (.4, .6), (.4, 1), (.15, 1), (.15, .45), (0, .45)),
    "bolt": ((.55, 0), (.15, .55), (.45, .55), (.35, 1), (.85, .4), (.55, .4), (.75, 0)),
    "check": ((0, .5), (.15, .35), (.4, .6), (.85, .1), (1, .25), (.4, .9)),
    "heart": tuple((.5 + .48 * np.sin(t) ** 3, .45 - (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 34)
                   for t in np.linspace(0, 2 * np.pi, 60, endpoint=False)),
    "wave": tuple((x, .35 + .15 * np.sin(9 * x)) for x in np.linspace(0, 1, 30))
            + tuple((x, .6 + .15 * np.sin(9 * x)) for x in np.linspace(1, 0, 30)),
}


def signs(rng):
    """Arrows, crosses, houses, hearts, stars, and signs of a keyboard; upright or turned."""
    draw = rng.random()
    if draw < 0.6:
        mark = polygon(SIGNS[str(rng.choice(sorted(SIGNS)))], int(rng.choice([0, 0, 10, 18])))
    elif draw < 0.8:
        mark = star(rng)
    else:
        mark = written(str(rng.choice(list("#@%+=*<>{}~^"))), 160)
    return sheet(rng, np.rot90(mark, int(rng.integers(4))))


def logos(rng):
    """A few filled shapes within each other, with a word beneath; never a lone ring."""
    shapes = [star(rng), *(polygon(SIGNS[str(name)]) for name in rng.choice(sorted(SIGNS), 2))]
    mark = shapes[0]
    for shape in shapes[1:int(rng.integers(2, 4))]:
        small = Image.fromarray((shape * 255).astype(np.uint8)).resize((128, 128))
        inside = np.zeros((256, 256), np.float32)
        top, left = (int(v) for v in rng.integers(20, 108, 2))
        inside[top:top + 128, left:left + 128] = np.asarray(small, np.float32) / 255
        mark = np.abs(mark - inside)
    word = written(str(rng.choice(WORDS)).upper(), 44)
    whole = np.zeros((340, max(256, word.shape[1])), np.float32)
    whole[:256, (whole.shape[1] - 256) // 2:][:, :256] = mark
    whole[280:280 + word.shape[0], (whole.shape[1] - word.shape[1]) // 2:][:, :word.shape[1]] = word[:60]
    return sheet(rng, whole)


def letters(rng):
    """One letter or two that no reader takes for a digit."""
    count = 1 if rng.random() < 0.7 else 2
    return sheet(rng, written("".join(str(c) for c in rng.choice(list(LETTERS), count)), 180))


def lookalikes(rng):
    """One letter or sign that is like a digit without being one."""
    return sheet(rng, written(str(rng.choice(list(LOOKALIKES))), 180))


def screens(rng):
    """A screen photographed from near: what it shows, times the grid of its pixels, at an angle; the beat of the two grids shows."""
    shown = (flat, pages, logos, textures)[int(rng.integers(4))](rng)
    u, v = rotated(rng, 0.2)
    period = rng.uniform(1.7, 4.5)
    strength = rng.uniform(0.2, 0.7)
    lattice = np.sin(u * 2 * np.pi / period) * np.sin(v * 2 * np.pi / (period * rng.uniform(0.9, 1.1)))
    coarse = 1 + rng.uniform(0, 0.3) * np.sin(v * 2 * np.pi / rng.uniform(40, 300))
    return shown * (1 - strength / 2 + strength * lattice) * coarse


def textures(rng):
    """Wood, brick, weave, foliage, cloud, marble."""
    u, v = rotated(rng, 0.5)
    base, depth = rng.uniform(60, 200), rng.uniform(20, 70)
    form = rng.integers(5)
    if form == 0:
        return base + depth * np.sin(u / rng.uniform(4, 20) + spectrum(rng, 2.5) * rng.uniform(0.5, 3))
    if form == 1:
        tall = rng.uniform(20, 80)
        row = np.floor(v / tall)
        joint = (v % tall < tall * 0.1) | ((u + row % 2 * tall) % (2 * tall) < tall * 0.1)
        return np.where(joint, base + depth, base + spectrum(rng, 2) * 12)
    if form == 2:
        step = rng.uniform(4, 30)
        return base + depth * np.where((np.floor(u / step) + np.floor(v / step)) % 2 == 0, np.sin(u / step * 6.3), np.sin(v / step * 6.3))
    if form == 3:
        leaves = spectrum(rng, rng.uniform(1.2, 2))
        return base + depth * np.sign(leaves) + 15 * leaves
    return base + depth * np.abs(spectrum(rng, rng.uniform(2, 3.5)))


KINDS = {f.__name__: f for f in (noise, flicker, flat, stripes, codes, pages, signs, logos, letters, lookalikes, screens, textures)}


def camera(rng, picture):
    """What a camera adds: gain, blur, noise; grey levels u8 [HEIGHT, WIDTH]."""
    picture = picture * rng.uniform(0.6, 1.15)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 3))))
    grain = rng.standard_normal((HEIGHT, WIDTH)) * rng.gamma(2, 2)
    return np.clip(np.asarray(image, np.float32) + grain, 0, 255).astype(np.uint8)
