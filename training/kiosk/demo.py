"""The demo recording of the bundle: a little over a minute at a kiosk, with everything that goes wrong there.

Called by train.py after the models. Cards are rendered with printed digits, voices are espeak-ng's, the room is synthetic noise: nothing in
the file comes from a data set, so that it may be shipped. Every scene says what is shown (`/truth`), which the player compares with
what was decided. Scenes last as long as a visitor takes, and end with a pause in which nobody asks anything.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from . import cards, common, mcapio, voices

FPS = 5
SIZE = (640, 480)
JPEG_QUALITY = 64
BLOCK = voices.RATE_HZ // 10
SEED = 8


@dataclass
class Scene:
    """`label` is what a perfect advisor decides; None where it must decide nothing. Times are seconds from the scene's start."""

    seconds: float
    label: str | None
    note: str
    card: int | None = None
    card_span: tuple = (0.4, 3.6)
    strength: float = 0.0
    covered: bool = False
    words: list = field(default_factory=list)  # (at_s, text)
    snr_db: float | None = None
    texts: list = field(default_factory=list)  # (at_s, text)
    mic_gone: bool = False

    @property
    def shown(self):
        """The modalities that say something."""
        return [n for n, v in (("card", self.card is not None), ("speech", self.words), ("request", self.texts)) if v]


SCENES = [
    Scene(4, None, "nobody"),
    Scene(5, "desk_3", "a card with 3", card=3),
    Scene(3, None, "nobody"),
    Scene(5, "desk_7", "a voice says seven", words=[(1.0, "seven")]),
    Scene(3, None, "a voice that says no number", words=[(0.8, "good morning")]),
    Scene(7, "desk_1", "a typed request", texts=[(0.6, "my credit card was declined at the restaurant")]),
    Scene(6, "desk_5", "a blurred card and a voice in noise", card=5, strength=0.5, words=[(1.2, "five")], snr_db=0.0),
    Scene(3, None, "nobody"),
    Scene(5, "desk_2", "the lens is covered, a voice says two", covered=True, words=[(1.2, "two")]),
    Scene(3, None, "the lens is still covered", covered=True),
    Scene(5, "desk_8", "the microphone is gone, a card with 8", card=8, mic_gone=True),
    Scene(3, None, "nobody, the microphone is back"),
    Scene(5, "desk_0", "card, voice and request agree", card=0, words=[(1.0, "zero")], texts=[(1.8, "what is my bank account balance")]),
    Scene(4, None, "nobody, loud noise", snr_db=-100.0),
    Scene(
        13,
        None,
        "requests that no desk can answer, until staff is called",
        texts=[(0.5, "sing the second verse of the anthem backwards"), (4.5, "who won the chess game in 1923"), (8.5, "how many moons would fit in a bathtub")],
    ),
    Scene(3, None, "nobody"),
]


def room_noise(rng, n, level):
    """The hum and hiss of a hall, f32 with RMS `level`."""
    x = voices.coloured(rng, n, -4.0)
    return (x / (np.sqrt(np.mean(x**2)) + 1e-9) * level).astype(np.float32)


def frames(rng, scene):
    """JPEG pictures of the scene at FPS, with their times."""
    still_seed = int(rng.integers(1 << 31))
    pool = {}

    def picture(what):
        # the same card and background for a while, with a little of the hand's movement and of the sensor's noise
        if what not in pool:
            own = np.random.default_rng((still_seed, what + 2))
            if what == -2:
                pool[what] = cards.render(own, None, "covered", size=SIZE, color=True)
            elif what == -1:
                pool[what] = cards.render(own, None, "empty", size=SIZE, color=True)
            else:
                pool[what] = cards.render(own, what, "printed", split="test", size=SIZE, color=True)
        return pool[what]

    for k in range(int(scene.seconds * FPS)):
        t = k / FPS
        held = scene.card is not None and scene.card_span[0] <= t < scene.seconds - 5 + scene.card_span[1]
        frame = picture(-2 if scene.covered else scene.card if held else -1)
        shift = np.float32([[1, 0, rng.normal(0, 3)], [0, 1, rng.normal(0, 2)]])
        frame = cv2.warpAffine(frame, shift, SIZE, borderMode=cv2.BORDER_REPLICATE)
        if held and scene.strength:
            frame = cards.corrupt(np.random.default_rng((still_seed, 9)), frame, scene.strength)
        noise = rng.normal(0, 1.2, frame.shape[:2])[..., None]
        frame = np.clip(frame + noise, 0, 255).astype(np.uint8)
        yield t, cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def sound(rng, scene):
    """The scene's microphone, f32 at 16 kHz."""
    n = int(scene.seconds * voices.RATE_HZ)
    x = room_noise(rng, n, 0.12 if scene.snr_db == -100.0 else 0.002)
    for at, text in scene.words:
        word = 0.4 * voices.say(text, voice="en-us+f3" if len(scene.texts) else "en-gb+m3", speed=135, pitch=50)
        start = int(at * voices.RATE_HZ)
        word = word[: n - start]
        if scene.snr_db is not None:
            margin = voices.RATE_HZ // 4
            at0, at1 = max(0, start - margin), min(n, start + len(word) + margin)
            level = np.sqrt(np.mean(word**2)) * 10 ** (-scene.snr_db / 20)
            x[at0:at1] += room_noise(rng, at1 - at0, level)
        x[start : start + len(word)] += word
    return x


def write(path):
    """Writes the recording and returns its length in seconds."""
    rng = np.random.default_rng(SEED)
    start = 0.0
    with mcapio.DemoWriter(path) as out:
        for scene in SCENES:
            messages = [(0.0, 0, lambda t, s=scene: out.truth(t, s.label or "none", s.shown, s.note))]
            for t, jpeg in frames(rng, scene):
                messages.append((t, 1, lambda t, j=jpeg: out.jpeg(t, j, *SIZE)))
            pcm = (np.clip(sound(rng, scene), -1, 1) * 32767).astype(np.int16)
            if scene.mic_gone:
                messages.append((0.05, 0, lambda t: out.fault(t, "mic", "device disconnected")))
            else:
                for k in range(0, len(pcm) - BLOCK + 1, BLOCK):
                    messages.append((k / voices.RATE_HZ, 2, lambda t, x=pcm[k : k + BLOCK]: out.audio(t, x, voices.RATE_HZ)))
            for at, text in scene.texts:
                messages.append((at, 3, lambda t, x=text: out.text(t, x)))
            for t, _, put in sorted(messages, key=lambda m: m[:2]):
                put(start + t)
            start += scene.seconds
    return start


def main():
    """Writes the bundle's recording."""
    path = common.BUNDLE / "demo.mcap"
    print(f"{path}: {write(path):.0f} s, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
