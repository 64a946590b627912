"""Sounds in which nobody says a digit: noise, tones, music, clicks, the environment, reversed and foreign to the microphone.

Called by out_of_distribution.py. Every kind is a pure function of a `numpy.random.Generator` and of the recordings in `Material`; all are
f32 mono at RATE_HZ in [-1, 1], one to two and a half seconds long.
"""

import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np

RATE_HZ = 16000
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-029")
WORDS = (
    "umbrella carpet violin orchestra penguin volcano breakfast problem library coffee careful remember suddenly mushroom harbour castle "
    "yellow guitar cabbage elephant jacket ceiling valley answer quiet credit transfer password"
).split()


class Material:
    """Recordings that some kinds are made of; what is not there is empty."""

    def __init__(self, data):
        self.environment = sorted(Path(data, "esc10").glob("*/4-*.ogg"))
        self.digits = sorted(Path(data, "fsdd").glob("*_[0-4].wav"))
        speech = Path(data).parent / "third-party" / "silero_test.wav"
        self.speech = read(speech) if speech.exists() else np.zeros(0, np.float32)
        self.espeak = shutil.which("espeak-ng")


def resampled(x, rate_hz):
    """`x` at RATE_HZ, by its spectrum."""
    if rate_hz == RATE_HZ:
        return x.astype(np.float32)
    n = int(len(x) * RATE_HZ / rate_hz)
    bins = np.fft.rfft(x)
    out = np.zeros(n // 2 + 1, complex)
    keep = min(len(bins), len(out))
    out[:keep] = bins[:keep]
    return (np.fft.irfft(out, n) * n / len(x)).astype(np.float32)


def read(path):
    """A sound file, mono, f32 at RATE_HZ. Only a .ogg needs the package soundfile."""
    if path.suffix == ".wav":
        with wave.open(str(path)) as file:
            x = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
            return resampled(x[::file.getnchannels()], file.getframerate())
    import soundfile

    x, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return resampled(x.mean(axis=1), rate_hz)


def seconds(rng):
    """Time of each sample, s, f64."""
    return np.arange(int(rng.uniform(1.0, 2.5) * RATE_HZ)) / RATE_HZ


def coloured(rng, n, exponent, low_hz=0, high_hz=RATE_HZ / 2):
    """Noise whose power falls with frequency to the power of `exponent`, within a band; peak 1."""
    bins = np.fft.rfft(rng.standard_normal(n))
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)
    bins *= np.maximum(hz, 20.0) ** (-exponent / 2) * ((hz >= low_hz) & (hz <= high_hz))
    x = np.fft.irfft(bins, n)
    return x / max(np.abs(x).max(), 1e-9)


def decay(rng, t):
    """An envelope of one to eight strokes."""
    x = np.zeros_like(t)
    for at in rng.uniform(0, t[-1], int(rng.integers(1, 9))):
        x += np.where(t >= at, np.exp(-(t - at) / rng.uniform(0.02, 0.4)), 0)
    return np.minimum(x, 1)


def noise(rng, _):
    """White to brown and blue noise, wide or a band."""
    low = rng.uniform(20, 3000) if rng.random() < 0.5 else 0
    high = low + rng.uniform(100, 4000) if low else RATE_HZ / 2
    return coloured(rng, len(seconds(rng)), rng.uniform(-1, 2.5), low, high)


def bursts(rng, _):
    """Noise that comes in strokes: claps, brushes, steps."""
    t = seconds(rng)
    return coloured(rng, len(t), rng.uniform(-0.5, 2), rng.uniform(20, 1500), rng.uniform(2000, 8000)) * decay(rng, t)


def tones(rng, _):
    """One to three steady tones, pure to rough; or the hum of the mains."""
    t = seconds(rng)
    if rng.random() < 0.25:
        base = rng.choice([50, 60])
        return sum(rng.uniform(0, 1) * np.sin(2 * np.pi * base * k * t) for k in range(1, 12))
    x = sum(np.sin(2 * np.pi * rng.uniform(80, 4000) * t + rng.uniform(0, 6)) for _ in range(int(rng.integers(1, 4))))
    return np.tanh(x * rng.uniform(1, 8))


def sweeps(rng, _):
    """Sirens, whistles, chirps."""
    t = seconds(rng)
    low, high = np.sort(rng.uniform(100, 4000, 2))
    form = rng.integers(3)
    if form == 0:
        hz = low * (high / low) ** (t / t[-1])
    elif form == 1:
        hz = low + (high - low) * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 12) * t))
    else:
        hz = high + (low - high) * ((t * rng.uniform(0.5, 10)) % 1)
    return np.sin(2 * np.pi * np.cumsum(hz) / RATE_HZ) * (decay(rng, t) if rng.random() < 0.4 else 1)


def chords(rng, _):
    """Notes with overtones, together and one after the other."""
    t = seconds(rng)
    x = np.zeros_like(t)
    root = 110 * 2 ** rng.uniform(0, 2)
    for start in np.arange(0, t[-1], rng.uniform(0.2, 0.8)):
        for step in rng.choice([0, 3, 4, 5, 7, 9, 10, 12], int(rng.integers(1, 5)), replace=False):
            hz = root * 2 ** (step / 12)
            note = sum(np.sin(2 * np.pi * hz * k * t) / k ** rng.uniform(1, 2) for k in range(1, int(rng.integers(2, 9))) if hz * k < 7800)
            x += np.where(t >= start, np.exp(-(t - start) / rng.uniform(0.1, 0.8)), 0) * note
    return x


def clicks(rng, _):
    """Ticks, knocks, crackles, at a beat or not."""
    t = seconds(rng)
    x = np.zeros_like(t)
    count = int(rng.integers(1, 40))
    at = np.arange(count) * rng.uniform(0.02, 0.5) if rng.random() < 0.5 else rng.uniform(0, t[-1], count)
    for start in at[at < t[-1]]:
        since = np.maximum(t - start, 0)
        x += np.where(t >= start, np.exp(-since / rng.uniform(0.0005, 0.03)), 0) * np.sin(2 * np.pi * rng.uniform(100, 6000) * since + 1.5)
    return x + coloured(rng, len(t), 1) * rng.uniform(0, 0.02)


def hum(rng, _):
    """A vowel without a word: a buzz through two or three resonances that glide."""
    t = seconds(rng)
    pitch = rng.uniform(80, 300) * 2 ** (0.2 * np.sin(2 * np.pi * rng.uniform(0.2, 5) * t))
    buzz = (np.cumsum(pitch) / RATE_HZ % 1 < 0.1).astype(float)
    spectrum = np.fft.rfft(buzz)
    hz = np.fft.rfftfreq(len(t), 1 / RATE_HZ)
    gain = sum(1 / (1 + ((hz - f) / rng.uniform(60, 200)) ** 2) for f in (rng.uniform(250, 900), rng.uniform(800, 2500), rng.uniform(2400, 3500)))
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.2, 1.5) * t + rng.uniform(0, 6))
    return np.fft.irfft(spectrum * gain, len(t)) * envelope


def environment(rng, material):
    """ESC-10, fold 4: a piece of rain, dogs, engines, clocks; the fold that the bundle was not trained on."""
    return excerpt(rng, read(material.environment[int(rng.integers(len(material.environment)))]))


def reversed_speech(rng, material):
    """Spoken digits and English backwards."""
    if len(material.speech) and (not material.digits or rng.random() < 0.5):
        return spoken(rng, material)[::-1]
    return read(material.digits[int(rng.integers(len(material.digits)))])[::-1]


def words(rng, material):
    """English in which no digit is said: recorded, or spoken by espeak-ng where it is installed."""
    if material.espeak and (not len(material.speech) or rng.random() < 0.5):
        said = " ".join(str(w) for w in rng.choice(WORDS, int(rng.integers(1, 3))))
        voice = [material.espeak, "-v", str(rng.choice(VOICES)), "-s", str(int(rng.integers(120, 220))), "--stdout", said]
        out = subprocess.run(voice, check=True, capture_output=True).stdout
        return resampled(np.frombuffer(out[44:], "<i2").astype(np.float32) / 32768, 22050)
    return spoken(rng, material)


def playback(rng, material):
    """The same from a small loudspeaker: a narrow band, clipped, few bits, an echo."""
    x = words(rng, material)
    bins = np.fft.rfft(x)
    hz = np.fft.rfftfreq(len(x), 1 / RATE_HZ)
    bins *= (hz > rng.uniform(200, 700)) & (hz < rng.uniform(1500, 3800))
    x = np.fft.irfft(bins, len(x))
    x = np.clip(x / max(np.abs(x).max(), 1e-6) * rng.uniform(1, 12), -1, 1)
    bits = int(rng.integers(3, 9))
    x = np.round(x * 2**bits) / 2**bits
    late = int(rng.uniform(0.01, 0.2) * RATE_HZ)
    x[late:] += rng.uniform(0, 0.7) * x[:-late]
    return x


def babble(rng, material):
    """Several pieces of speech at once, some of them backwards."""
    parts = [spoken(rng, material) for _ in range(int(rng.integers(2, 7)))]
    n = min(len(p) for p in parts)
    return sum((p[::-1] if rng.random() < 0.5 else p)[:n] for p in parts)


def excerpt(rng, x):
    """One to two and a half seconds of a recording."""
    n = min(int(rng.uniform(1.0, 2.5) * RATE_HZ), len(x))
    at = int(rng.integers(len(x) - n + 1))
    return x[at:at + n]


def spoken(rng, material):
    """A piece of recorded English that is not silent."""
    for _ in range(50):
        x = excerpt(rng, material.speech)
        if np.sqrt(np.mean(x**2)) > 0.01:
            break
    return x


def kinds(material):
    """The kinds that can be made, and the names of those that cannot, for want of recordings."""
    needs = {environment: material.environment, reversed_speech: len(material.speech) or material.digits,
             words: len(material.speech) or material.espeak, playback: len(material.speech) or material.espeak, babble: len(material.speech)}
    every = (noise, bursts, tones, sweeps, chords, clicks, hum, environment, reversed_speech, words, playback, babble)
    made = {f.__name__: f for f in every if needs.get(f, True)}
    return made, [f.__name__ for f in every if f.__name__ not in made]


def microphone(rng, x):
    """Level and hiss of a microphone: int16 samples."""
    x = np.asarray(x, np.float64)
    x = x / max(np.abs(x).max(), 1e-6) * 10 ** rng.uniform(-1.3, 0)
    x = x + rng.standard_normal(len(x)) * 10 ** rng.uniform(-4, -2.5)
    return (np.clip(x, -1, 1) * 32767).astype("<i2")
