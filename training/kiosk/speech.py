"""The speech encoder: one second of log-mel -> embedding and logits over ten digits and none.

`train()` builds the feature banks (cached), trains the model on all speakers or, with `exclude_speaker`, on all but one; exports ONNX, quantizes, measures. Called by `train.py`; `python -m kiosk.speech` runs it alone.
It does not smooth over time and knows no other modality.

Banks hold clean speech windows and noise windows as the runtime's log-mel tensors; each training step adds noise to speech as
power in the mel domain, so that no two epochs hear the same mixture.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import common, speakers, voices
from .common import NONE

MELS, FRAMES, STEP = 40, 97, 160
FLOOR = float(np.log(1e-10))
VALIDATION_FROM = 45  # recorded digits with this index or above calibrate, and are not trained on
DIGIT_P = 0.8  # a window counts as a false alarm above this probability


# --- tensors -----------------------------------------------------------------------------------------------------------


def tensors(windows, chunk=3000):
    """Log-mel `[n, 40, 97]` (float32) of 1 s windows `[n, 16000]`, by the runtime's own preprocessing."""
    done = []
    for i in range(0, len(windows), chunk):
        path = common.cache("speech", "windows.wav")
        part = windows[i : i + chunk]
        voices.write_wav(path, np.concatenate(part))
        got = common.features("speech", path, hop_ms=1000).reshape(-1, MELS, FRAMES)
        path.unlink()
        if len(got) != len(part):
            raise RuntimeError(f"features: {len(got)} tensors of {len(part)} windows, expected one a window")
        done.append(got.astype(np.float32))
    return np.concatenate(done)


def stream(x):
    """The tensors of every window of continuous audio, 250 ms apart, as the live program hears it."""
    count = 1 + (len(x) - voices.WINDOW) // (voices.RATE_HZ // 4)
    at = np.arange(count) * (voices.RATE_HZ // 4)
    return tensors([x[a : a + voices.WINDOW] for a in at])


# --- banks -------------------------------------------------------------------------------------------------------------


def place(rng, x, length, kind):
    """A window with `x` in it, and the samples (start, end) of the clip in the window. `length` is the clip without its reverberation.

    `kind`: "centred" as `attendant eval` does, "whole" anywhere with at least 92 % visible, "part" with less than 45 % visible.
    """
    w = voices.WINDOW
    if kind == "centred":
        start = (w - length) // 2
    elif kind == "whole":
        slack = int(0.08 * length)
        low, high = sorted((-slack, w - length + slack))
        start = int(rng.integers(low, high + 1))
    else:
        seen = int(rng.uniform(0.08, 0.42) * min(length, w))
        start = int(seen - length if rng.random() < 0.5 else w - seen)
    out = np.zeros(w, np.float32)
    a, b = max(start, 0), min(start + len(x), w)
    if b > a:
        out[a:b] = x[a - start : b - start]
    return out, (max(start, 0), min(start + length, w))


def heard(rng, x, tail=True):
    """A clip by a faster or slower, higher or lower speaker, in a room, through a microphone; (audio, length without the room's tail)."""
    x = voices.speed(x, float(np.exp(rng.uniform(np.log(0.82), np.log(1.22)))))
    length = len(x)
    if rng.random() < 0.35:
        x = voices.room(rng, x, tail)
    if rng.random() < 0.35:
        x = voices.band_limit(rng, x)
    return voices.microphone(rng, x), length


class Bank:
    """Clean speech windows (`x` float16 `[n, 40, 97]`, `label`, `speaker`, first and last frame of the clip) and noise windows (`noise`)."""

    def __init__(self, stored):
        self.x, self.label, self.speaker = stored["x"], stored["label"].astype(np.int64), stored["speaker"]
        self.span, self.noise = stored["span"], stored["noise"]


def speech_windows(rng, scale):
    """Yields (window, label, speaker, (start, end)) of the training bank. `scale` multiplies how many."""
    recorded = [c for c in voices.fsdd() if not c.test and c.index < VALIDATION_FROM]
    synthetic = [c for c in voices.synthetic() if not c.test]
    more, people = speakers.synthetic(), speakers.prompts()
    digits = [c for c in synthetic if c.label != NONE]
    fine_digits = [c for c in more if c.label != NONE]
    words = [c for c in synthetic + more if c.label == NONE and " " not in c.text]
    phrases = [c for c in synthetic + more if c.label == NONE and " " in c.text]
    talk = [c for c in people if c.label == NONE]

    def digit_rows(clips, times):
        for _ in range(times):
            for c in clips:
                x, n = heard(rng, c.audio)
                yield *_placed(rng, x, n, "centred" if rng.random() < 0.4 else "whole"), c.label, c.speaker

    def parts(clips, times):
        for _ in range(times):
            for c in clips:
                x, n = heard(rng, c.audio)
                w, span = place(rng, x, n, "part")
                if rng.random() < 0.4:  # the neighbour of a cut word is often a cut word
                    other = clips[int(rng.integers(len(clips)))]
                    if other.speaker == c.speaker:
                        y, m = heard(rng, other.audio)
                        w2, _ = place(rng, y, m, "part")
                        w = np.clip(w + w2, -1, 1)
                        span = (0, voices.WINDOW)
                yield w, span, NONE, c.speaker

    def others(clips, times):
        for _ in range(times):
            for c in clips:
                x, n = heard(rng, c.audio)
                kind = "centred" if n <= voices.WINDOW and rng.random() < 0.4 else "whole"
                yield *_placed(rng, x, n, kind), NONE, c.speaker

    def scrambled(clips, times):
        # The recorded speakers say digits only: their voices saying anything else must not count as digits.
        by = {}
        for c in clips:
            by.setdefault(c.speaker, []).append(c)
        for _ in range(times):
            for c in clips:
                if rng.random() < 0.4 and c.label not in (6, 9):
                    x = c.audio[::-1].copy()
                else:
                    d = by[c.speaker][int(rng.integers(len(by[c.speaker])))]
                    if d.label == c.label:
                        continue
                    a, b = c.audio, d.audio
                    x = np.concatenate([b[int(len(b) * 0.55) :], a[: int(len(a) * 0.45)]])
                x, n = heard(rng, x)
                yield *_placed(rng, x, n, "centred" if rng.random() < 0.4 else "whole"), NONE, c.speaker

    def talking(clips, count):
        # A live window is cut anywhere: words whole and cut, two at once, the end of a sentence.
        by = {}
        for c in clips:
            by.setdefault(c.speaker, []).append(c)
        seconds = {who: sum(len(c.audio) for c in spoken) for who, spoken in by.items()}
        for who, spoken in by.items():
            left = max(1, round(count * seconds[who] / sum(seconds.values())))
            while left:
                wanted, pieces = min(12.0, 1 + left / 2) * voices.RATE_HZ, []
                while sum(map(len, pieces)) < wanted:
                    c = spoken[int(rng.integers(len(spoken)))].audio[: 6 * voices.RATE_HZ]
                    pieces += [c / max(float(np.abs(c).max()), 1e-6) * rng.uniform(0.3, 1.0), np.zeros(int(rng.uniform(0.03, 0.7) * voices.RATE_HZ), np.float32)]
                x, _ = heard(rng, np.concatenate(pieces))
                for _ in range(min(left, max(1, len(x) * 2 // voices.WINDOW))):
                    left -= 1
                    at = int(rng.integers(0, max(1, len(x) - voices.WINDOW)))
                    w = np.zeros(voices.WINDOW, np.float32)
                    cut = x[at : at + voices.WINDOW]
                    w[: len(cut)] = cut
                    yield w, (0, voices.WINDOW), NONE, who

    k = lambda n: max(1, round(n * scale))
    yield from digit_rows(recorded, k(8))
    yield from digit_rows(digits, k(2))
    yield from digit_rows(fine_digits, k(5))
    yield from digit_rows([c for c in people if c.label != NONE], k(40))
    yield from parts(recorded, k(2))
    yield from parts(digits + fine_digits, k(1))
    yield from others(words, k(1))
    yield from others(phrases, k(2))
    yield from others([c for c in talk if len(c.audio) < 1.2 * voices.WINDOW], k(3))
    yield from talking([c for c in words + phrases], k(9000))
    yield from talking(talk, k(8000))
    yield from scrambled(recorded, k(1))


def validation_clips():
    """Recorded clips that neither train nor test."""
    return [c for c in voices.fsdd() if c.index >= VALIDATION_FROM]


def _placed(rng, x, n, kind):
    if n > voices.WINDOW and kind == "centred":
        kind = "whole"
    return place(rng, x, n, kind)


def noise_windows(rng, folds=(1, 2, 3), scale=1.0):
    """Yields 1 s of noise: recordings, coloured noise, babble, clicks; RMS about 0.1 except where the recording is quiet."""
    recorded = voices.noises(set(folds))
    talk = [c for c in voices.synthetic() if not c.test]
    for _ in range(int(5500 * scale)):
        x = recorded[int(rng.integers(len(recorded)))]
        x = voices.loud_excerpt(rng, x, voices.WINDOW) if rng.random() < 0.7 else voices.excerpt(rng, x, voices.WINDOW)
        if rng.random() < 0.3:
            x = voices.speed(np.concatenate([x, x]), rng.uniform(0.8, 1.3))[: voices.WINDOW]
        if rng.random() < 0.2:
            x = voices.band_limit(rng, x)
        yield 0.1 * x / max(float(x.std()), 1e-5)
    for _ in range(int(1200 * scale)):
        x = voices.coloured(rng, voices.WINDOW, rng.uniform(-9, 3))
        if rng.random() < 0.3:  # hum
            f = rng.choice([50, 60]) * rng.integers(1, 8)
            x = x * 0.3 + 0.1 * np.sin(2 * np.pi * f * np.arange(voices.WINDOW) / voices.RATE_HZ).astype(np.float32)
        yield x
    for _ in range(int(900 * scale)):
        yield voices.babble(rng, talk, voices.WINDOW, int(rng.integers(3, 9)))


def bank(scale=1.0, seed=11):
    """The training bank, built once and cached."""
    key = common.hashlib.sha256((Path(__file__).read_text().split("# --- the model")[0] + Path(voices.__file__).read_text() + Path(speakers.__file__).read_text() + f"{scale} {seed}").encode()).hexdigest()[:12]
    path = common.cache("speech", f"bank-{key}.npz")
    if not path.exists():
        began = time.monotonic()
        rng = np.random.default_rng(seed)
        x, label, speaker, span, part = [], [], [], [], []
        for w, s, k, who in speech_windows(rng, scale):
            part.append(w)
            label.append(k)
            speaker.append(who.split("/")[0])
            span.append((s[0] // STEP, max(s[0] // STEP + 1, (s[1] - 1) // STEP)))
            if len(part) == 3000:
                x.append(tensors(part).astype(np.float16))
                part = []
        x += [tensors(part).astype(np.float16)] if part else []
        noise = tensors([n.astype(np.float32) for n in noise_windows(rng, scale=scale)]).astype(np.float16)
        common.save_npz(path, x=np.concatenate(x), label=np.array(label), speaker=np.array(speaker), span=np.array(span, np.int16), noise=noise)
        print(f"speech: bank of {len(label)} windows and {len(noise)} of noise in {time.monotonic() - began:.0f} s", flush=True)
    return Bank(np.load(path))


# --- the model ---------------------------------------------------------------------------------------------------------


class Speech(nn.Module):
    """[1, 40, 97] -> embedding [1, 64], logits [1, 11]. About 4.2 M multiply-adds; the GRU takes 25 steps.

    Two convolutions over bands and time (a voice with other formants is the same picture a little higher), one that folds the
    bands into channels, one over time, the GRU, the mean of its outputs.
    """

    def __init__(self, width=96, hidden=64, classes=11):
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, width, (MELS // 4, 1)), nn.BatchNorm2d(width), nn.ReLU(),
        )
        self.middle = nn.Sequential(nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU())
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.drop = nn.Dropout(0.1)
        self.embed = nn.Linear(hidden, common.EMBEDDING_LEN)
        self.classify = nn.Linear(common.EMBEDDING_LEN, classes)
        self.register_buffer("start", torch.zeros(1, 1, hidden))
        # Speech falls by some 17 dB from the lowest band to the highest; lifted, a fricative stands as far above the floor as a vowel.
        self.register_buffer("lift", torch.linspace(0, 4, MELS)[None, :, None])

    def level(self, x):
        """Gain-free log-mel: relative to the mean power of the window, at most 10 nepers below it, moved to about [-6, 6].

        The mean of the power, not of the logarithm: digital silence around a clip must not move it.
        """
        x = x + self.lift
        reference = torch.log(torch.mean(torch.exp(x), dim=(1, 2), keepdim=True))
        return torch.clamp(x - (reference - 4.0), min=-6.0)

    def body(self, y):
        y = self.front(y[:, None])
        y = self.middle(y.reshape(len(y), -1, y.shape[-1])).transpose(1, 2)
        y, _ = self.gru(y, self.start.expand(1, len(y), -1).contiguous() if self.training or len(y) > 1 else self.start)
        e = F.relu(self.embed(self.drop(y.mean(1))))
        return e, self.classify(self.drop(e))

    def forward(self, x):
        return self.body(self.level(x))


# --- augmentation in the mel domain --------------------------------------------------------------------------------------


def mel_centres():
    """Centre frequencies of the 40 bands, Hz (Slaney's mel scale, 20-4000 Hz)."""
    def mel(f):
        return np.where(f < 1000, f * 3 / 200, 15 + np.log(np.maximum(f, 1) / 1000) / (np.log(6.4) / 27))

    def hz(m):
        return np.where(m < 15, m * 200 / 3, 1000 * np.exp((m - 15) * np.log(6.4) / 27))

    return hz(np.linspace(mel(20.0), mel(4000.0), MELS + 2))[1:-1]


class Mixer:
    """Makes training batches: warped voices, other channels, added noise. All randomness from one torch generator."""

    def __init__(self, data, groups, seed):
        self.groups = groups
        self.g = torch.Generator().manual_seed(seed)
        self.speech = torch.from_numpy(data.x)
        self.noise = torch.exp(torch.from_numpy(data.noise).float())
        self.label = torch.from_numpy(data.label)
        self.span = torch.from_numpy(data.span.astype(np.int64))
        centres = mel_centres()
        self.factors = np.concatenate([np.linspace(0.86, 1.16, 31), np.ones(15)])
        # One 40x40 interpolation matrix a factor.
        self.warp = torch.from_numpy(np.stack([[np.interp(np.interp(c * a, centres, np.arange(MELS)), np.arange(MELS), row) for row in np.eye(MELS)]
                                               for a in self.factors for c in [centres]]).astype(np.float32)).transpose(1, 2).contiguous()
        self.tempos = torch.from_numpy(np.concatenate([[1.0] * 6, np.linspace(0.78, 1.3, 14)]).astype(np.float32))
        grid = np.arange(FRAMES)
        at = [np.clip((grid - grid.mean()) * t + grid.mean(), 0, FRAMES - 1) for t in self.tempos.numpy()]
        self.stretch = torch.from_numpy(np.stack([np.stack([np.interp(a, grid, unit) for unit in np.eye(FRAMES)]) for a in at]).astype(np.float32))
        self.phase = torch.rand(4096, MELS, FRAMES, generator=self.g) * 2 - 1
        # Slaney's filters have unit area: the power in a band is the value times the band's width.
        edges = np.gradient(centres)
        self.width = torch.from_numpy((edges / edges.sum()).astype(np.float32))[None, :, None]

    def uniform(self, n, low, high):
        return torch.rand(n, generator=self.g) * (high - low) + low

    def choose(self, n, high):
        return torch.randint(0, high, (n,), generator=self.g)

    def draw_noise(self, n):
        """Noise tensors in power, about a third of them two noises at once."""
        a = self.noise[self.choose(n, len(self.noise))]
        pick = torch.nonzero(torch.rand(n, generator=self.g) < 0.3)[:, 0]
        b = self.noise[self.choose(len(pick), len(self.noise))]
        a[pick] += b * torch.exp(self.uniform(len(pick), -3, 1))[:, None, None]
        return a

    def warped(self, x, span):
        """Another vocal tract length (Jaitly and Hinton 2013) and tempo: interpolation along bands and frames, one factor each a row."""
        x = torch.bmm(self.warp[self.choose(len(x), len(self.factors))], x)
        pick = self.choose(len(x), len(self.tempos))
        middle = (FRAMES - 1) / 2
        moved = (span - middle) / self.tempos[pick][:, None] + middle
        fits = (moved[:, 0] >= 0) & (moved[:, 1] <= FRAMES - 1)
        pick = torch.where(fits, pick, torch.zeros_like(pick))
        return torch.bmm(x, self.stretch[pick]), torch.where(fits[:, None], moved.round().long(), span)

    def batch(self, rows):
        n = len(rows)
        x, label, span = self.speech[rows].float(), self.label[rows].clone(), self.span[rows]
        x, span = self.warped(x, span)
        # Another channel: a tilt and a smooth random gain per band. The long-term spectra of five recorded speakers differ by 10 dB and more.
        knots = torch.randn(n, 1, 5, generator=self.g) * 0.6 + torch.randn(n, 1, 1, generator=self.g) * torch.linspace(-1, 1, 5)
        channel = torch.exp(F.interpolate(knots, MELS, mode="linear", align_corners=True)).transpose(1, 2)
        power = torch.exp(x) * channel
        t = torch.arange(FRAMES)[None]
        inside = ((t >= span[:, :1]) & (t <= span[:, 1:])).float()[:, None]
        level = lambda p, m: (p * self.width * m).sum((1, 2)) / m.sum((1, 2)).clamp(min=1)
        noise = self.draw_noise(n)
        mode = torch.rand(n, generator=self.g)
        cut = (mode < 0.45)[:, None, None]  # noise over the clip only, as in the evaluation recipe
        cover = torch.where(cut, inside, torch.ones_like(inside))
        # The pause of a bark cannot be scaled to an SNR: such a row gets its neighbour's noise.
        silent = level(noise, inside) < 0.05 * level(noise, torch.ones_like(inside))
        noise = torch.where(silent[:, None, None], noise.roll(1, 0), noise) * cover
        snr = torch.where(torch.rand(n, generator=self.g) < 0.75, self.uniform(n, -5, 11), self.uniform(n, 8, 40))
        gain = level(power, inside) / level(noise, inside).clamp(min=1e-12) / 10 ** (snr / 10)
        gain = torch.where(mode < 0.2, torch.zeros(n), gain).clamp(max=1e6)
        # Noise alone: the speech goes, the noise stays at a random level; a share of them as digital silence or nearly so.
        alone = torch.rand(n, generator=self.g) < 0.08
        quiet = alone & (torch.rand(n, generator=self.g) < 0.1)
        gain = torch.where(alone, torch.exp(self.uniform(n, -9, 5)), gain)
        gain = torch.where(quiet, torch.zeros(n), gain)
        power = torch.where(alone[:, None, None], torch.full_like(power, 1e-10), power)
        label = torch.where(alone, torch.full_like(label, NONE), label)
        noise = noise * gain[:, None, None]
        # Two waves add with their phases: a random cross term, at most half of the largest possible, so that the sum stays positive.
        cross = torch.sqrt(power * noise).mul_(self.phase[self.choose(n, len(self.phase))])
        return power.add_(noise).add_(cross).clamp_(min=1e-10).log_(), label

    def mask(self, y):
        """SpecAugment (Park et al. 2019) on levelled features: one band and one stretch of time, in half of the rows each."""
        n = len(y)
        bands, frames = torch.arange(MELS)[None], torch.arange(FRAMES)[None]
        for axis, most, count in ((bands, 8, MELS), (frames, 14, FRAMES)):
            width = self.choose(n, most + 1) * (torch.rand(n, generator=self.g) < 0.5)
            at = self.choose(n, count)
            hide = (axis >= at[:, None]) & (axis < (at + width)[:, None])
            y = torch.where(hide[:, :, None] if count == MELS else hide[:, None], torch.full_like(y, -1.0), y)
        return y

    def epoch(self, batch_len, count):
        """Yields `count` rows in batches: from each group its share, without replacement while it lasts."""
        total = sum(len(rows) * times for rows, times in self.groups)
        drawn = []
        for rows, times in self.groups:
            n = round(count * len(rows) * times / total)
            drawn += [rows[torch.randperm(len(rows), generator=self.g)] for _ in range(n // len(rows))]
            drawn.append(rows[torch.randperm(len(rows), generator=self.g)[: n % len(rows)]])
        order = torch.cat(drawn)
        order = order[torch.randperm(len(order), generator=self.g)]
        for i in range(0, len(order) - batch_len + 1, batch_len):
            yield self.batch(order[i : i + batch_len])


# --- training ----------------------------------------------------------------------------------------------------------


def fit(model, mixer, epochs, epoch_rows, lr, batch_len=64, ema=0.995, note=""):
    """AdamW, one cycle; returns the model with averaged weights."""
    steps = epochs * (epoch_rows // batch_len)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15, final_div_factor=50)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    began, step = time.monotonic(), 0
    for epoch in range(epochs):
        model.train()
        losses, right, seen = 0.0, 0, 0
        for x, label in mixer.epoch(batch_len, epoch_rows):
            _, logits = model.body(mixer.mask(model.level(x)))
            loss = F.cross_entropy(logits, label, label_smoothing=0.03)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            step += 1
            keep = min(ema, step / (step + 10))
            for k, v in model.state_dict().items():
                average[k] = torch.lerp(v, average[k], keep) if v.dtype.is_floating_point else v.clone()
            losses += loss.item() * len(label)
            right += int((logits.argmax(1) == label).sum())
            seen += len(label)
        print(f"speech{note}: epoch {epoch + 1}/{epochs} loss {losses / seen:.3f} accuracy {100 * right / seen:.1f} ({time.monotonic() - began:.0f} s)", flush=True)
    model.load_state_dict(average)
    return model.eval()


def rows_of(data, exclude=None, recorded_digits=2.0):
    """What to train on, as (rows of the bank, how often relative to the others).

    Recorded digits weigh most: there are hardly more than five real voices that say any. Recorded parts and scraps weigh least: too many of
    them teach that a real voice far from the five says nothing.
    """
    recorded, digit = np.isin(data.speaker, voices.FSDD_SPEAKERS), data.label != NONE
    kept = recorded & (data.speaker != exclude)
    espeak = data.speaker == "espeak"
    groups = [(kept & digit, recorded_digits), (kept & ~digit, 0.3), (~recorded & espeak & digit, 0.8), (~recorded & ~espeak & digit, 1.0), (~recorded & ~digit, 0.65)]
    return [(torch.from_numpy(np.flatnonzero(rows)), times) for rows, times in groups]


# --- evaluation --------------------------------------------------------------------------------------------------------


def noisy(clips, folds, snr_db, seed):
    """Each clip with an excerpt of noise at `snr_db`, by the evaluation recipe."""
    rng = np.random.default_rng(seed)
    recordings = voices.noises(set(folds))
    return [voices.mix_at_snr(c.audio, voices.loud_excerpt(rng, recordings[int(rng.integers(len(recordings)))], len(c.audio)), snr_db) for c in clips]


def evaluation_sets():
    """Tensors of the evaluation, cached: recorded digits clean and at several SNRs with fold 4, and streams that hold no digit."""
    key = common.hashlib.sha256((Path(voices.__file__).read_text()).encode()).hexdigest()[:12]
    path = common.cache("speech", f"eval-{key}.npz")
    if not path.exists():
        clips = voices.fsdd()
        test = [c for c in clips if c.test]
        sets = {"clean": tensors([voices.centred(c.audio) for c in test])}
        for snr in (-5, 0, 5, 10, 20):
            rows = [voices.centred(x) for seed in ((0, 1, 2) if snr == 0 else (0,)) for x in noisy(test, {4}, snr, seed)]
            sets[f"snr{snr}"] = tensors(rows)
        sets["label"] = np.array([c.label for c in test])
        sets["speaker"] = np.array([c.speaker for c in test])
        sets["all_clean"] = tensors([voices.centred(c.audio) for c in clips])
        sets["all_label"] = np.array([c.label for c in clips])
        sets["all_speaker"] = np.array([c.speaker for c in clips])
        validation = validation_clips()
        rows = [voices.centred(c.audio) for c in validation]
        for snr in (-5, 0, 5, 12):
            rows += [voices.centred(x) for x in noisy(validation, {3}, snr, 7)]
        # Something other than digits has to be calibrated too.
        rng = np.random.default_rng(5)
        held = [c for c in voices.synthetic() if c.test and c.label == NONE]
        rows += [voices.centred(held[i].audio) for i in rng.choice(len(held), 150, replace=False)]
        sets["validation"] = tensors(rows)
        sets["validation_label"] = np.array([c.label for c in validation] * 5 + [NONE] * 150)
        sets["validation_speaker"] = np.array([c.speaker for c in validation] * 5 + ["espeak"] * 150)
        unknown = [c for c in voices.synthetic() if c.test and c.label != NONE]
        sets["unknown_voice"], sets["unknown_voice_label"] = tensors([voices.centred(c.audio) for c in unknown]), np.array([c.label for c in unknown])
        sets["stream_noise"] = stream(np.concatenate(voices.noises({4})))
        order = rng.permutation(len(held))
        pause = lambda: np.zeros(int(rng.uniform(0.1, 0.6) * voices.RATE_HZ), np.float32)
        talk = np.concatenate([p for i in order for p in (held[i].audio * 10 ** rng.uniform(-1, 0), pause())])
        sets["stream_words"] = stream(talk + 1e-3 * rng.standard_normal(len(talk)).astype(np.float32))
        noise = np.concatenate(voices.noises({4}))
        noise = np.tile(noise, len(talk) // len(noise) + 1)[: len(talk)]
        sets["stream_words_noise"] = stream(np.clip(talk + noise * (0.3 * talk.std() / noise.std()), -1, 1).astype(np.float32))
        common.save_npz(path, **sets)
    return dict(np.load(path))


def false_alarms(p):
    """Of the windows of a digit-free stream: the share (%) with a digit above DIGIT_P, and how many times two and three windows in a row agree on one."""
    top = np.where(p[:, :NONE].max(1) > DIGIT_P, p[:, :NONE].argmax(1), -1)
    runs, length = {2: 0, 3: 0}, 0
    for i, k in enumerate(top):
        length = length + 1 if k >= 0 and i and top[i - 1] == k else int(k >= 0)
        for n in runs:
            runs[n] += length == n
    return {"windows": len(p), "above_pct": round(100 * float((top >= 0).mean()), 3), "runs_of_2": runs[2], "runs_of_3": runs[3]}


def measure(run, sets, speaker=None, streams=True):
    """All figures of one model; `run` maps tensors to logits. With `speaker`, only that speaker's clips."""
    pick = np.ones(len(sets["label"]), bool) if speaker is None else sets["speaker"] == speaker
    right = lambda name, label, keep: round(100 * float((run(sets[name][keep]).argmax(1) == label[keep]).mean()), 2)
    found = {"clean": right("clean", sets["label"], pick)}
    for snr in (-5, 0, 5, 10, 20):
        times = len(sets[f"snr{snr}"]) // len(pick)
        found[f"snr{snr}"] = right(f"snr{snr}", np.tile(sets["label"], times), np.tile(pick, times))
    if speaker is not None:
        found["all_500_clean"] = right("all_clean", sets["all_label"], sets["all_speaker"] == speaker)
    if streams:
        found["unknown_voice"] = right("unknown_voice", sets["unknown_voice_label"], np.ones(len(sets["unknown_voice"]), bool))
        for name in ("stream_noise", "stream_words", "stream_words_noise"):
            found[name] = false_alarms(common.softmax(run(sets[name])))
    return found


def torch_run(model):
    """Tensors `[n, 40, 97]` -> logits, by torch."""
    def run(x):
        with torch.no_grad():
            return np.concatenate([model(torch.from_numpy(x[i : i + 256]))[1].numpy() for i in range(0, len(x), 256)])
    return run


# --- the whole ---------------------------------------------------------------------------------------------------------


def export(model, sets, data, f32_path, int8_path, exclude=None):
    """Calibrates the temperature (folded into the last layer), exports, quantizes."""
    keep = sets["validation_speaker"] != exclude
    temperature = common.fit_temperature(torch_run(model)(sets["validation"][keep]), sets["validation_label"][keep])
    with torch.no_grad():
        model.classify.weight /= temperature
        model.classify.bias /= temperature
    f32_path.parent.mkdir(parents=True, exist_ok=True)
    common.export_onnx(model, torch.from_numpy(sets["clean"][:1]), f32_path, ["x"], ["embedding", "logits"])
    mixer = Mixer(data, rows_of(data, exclude), 99)
    calibration = next(mixer.epoch(300, 400))[0].numpy()
    common.quantize_static(f32_path, int8_path, {"x": calibration})
    return temperature


def train(exclude_speaker=None, epochs=None, rows=40_000, scale=1.0, out=None):
    """Trains, exports and measures one model; returns its metrics.

    Without `exclude_speaker`: models/kiosk/speech.int8.onnx and training/.cache/speech_metrics.json. With it: that speaker is in
    no training row, and the files go to training/.cache/loso/{speaker}/.
    """
    began = time.monotonic()
    data, sets = bank(scale), evaluation_sets()
    cycles = ((epochs or (4 if exclude_speaker else 12), 3e-3, 2.0), (epochs or (2 if exclude_speaker else 7), 1.5e-3, 3.0))
    # The second cycle starts where the first ended, at a lower rate and with more of the recorded digits.
    model = None
    for number, (count, rate, recorded) in enumerate(cycles):
        common.seed_all(31 + number)
        model = model or Speech()
        note = (f" without {exclude_speaker}" if exclude_speaker else "") + f" cycle {number + 1}"
        fit(model, Mixer(data, rows_of(data, exclude_speaker, recorded), 31 + number), count, rows, rate, note=note)
    folder = Path(out) if out else common.cache("loso", exclude_speaker, "x").parent if exclude_speaker else common.CACHE
    f32_path = folder / "speech.f32.onnx"
    int8_path = folder / "speech.int8.onnx" if exclude_speaker or out else common.BUNDLE / "speech.int8.onnx"
    torch.save(model.state_dict(), folder / "speech.pt")
    temperature = export(model, sets, data, f32_path, int8_path, exclude_speaker)
    streams = exclude_speaker is None
    metrics = {name: measure(lambda x, p=path: common.onnx_logits(p, x), sets, exclude_speaker, streams) for name, path in (("f32", f32_path), ("int8", int8_path))}
    keep = sets["validation_speaker"] != exclude_speaker
    p = common.softmax(common.onnx_logits(int8_path, sets["validation"][keep]))
    metrics |= {"ece_validation_pct": round(common.ece(p, sets["validation_label"][keep]), 2), "temperature": round(temperature, 3),
                "seconds": round(time.monotonic() - began), "bytes": int8_path.stat().st_size, "sha256": common.sha256(int8_path)}
    common.write_json(folder / "speech_metrics.json", metrics)
    print(json.dumps(metrics["int8"]), f"ece {metrics['ece_validation_pct']} T {temperature:.2f}", flush=True)
    return metrics


def leave_one_speaker_out():
    """Five models, each without one recorded speaker; writes and returns the figures per speaker and their mean."""
    found = {s: train(exclude_speaker=s) for s in voices.FSDD_SPEAKERS}
    rows = {s: m["int8"] for s, m in found.items()}
    mean = {k: round(float(np.mean([r[k] for r in rows.values()])), 2) for k in next(iter(rows.values()))}
    common.write_json(common.CACHE / "speech_loso_metrics.json", {"speakers": found, "mean_int8": mean})
    print("leave one speaker out, mean:", mean, flush=True)
    return {"speakers": found, "mean_int8": mean}


def main():
    parser = argparse.ArgumentParser(description="train the speech encoder")
    parser.add_argument("--exclude", choices=voices.FSDD_SPEAKERS, help="leave this speaker out")
    parser.add_argument("--loso", action="store_true", help="leave each speaker out in turn")
    parser.add_argument("--epochs", type=int)
    args = parser.parse_args()
    if args.loso:
        leave_one_speaker_out()
    else:
        train(args.exclude, args.epochs)


if __name__ == "__main__":
    main()
