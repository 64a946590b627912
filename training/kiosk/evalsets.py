"""Labelled rows for `attendant eval`: one JSONL file a row of the report, with the pictures and clips it names.

Called by report.py and by anyone who wants to check a figure. Everything is drawn from test material only (MNIST's test5k, FSDD
index 0-4, ESC-10 fold 4, CLINC150 val, held-out fonts, voices and words) with the seeds below. The modalities of a row are paired by class:
they were never recorded together.
"""

import argparse
import json

import cv2
import numpy as np

from . import cards, common, voices
from .common import LABELS, NONE

SEED = 20_2611
CARDS = 2000
HARD_PER_CLIP = 4
VISITS = 1000
NOISE_S = 30 * 60
JPEG_QUALITY = 85


def folder(name):
    """The folder of one set, made if need be."""
    path = common.cache("eval", name, "x").parent
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_rows(name, rows):
    """Writes `name`/rows.jsonl and returns its path."""
    path = folder(name) / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def write_jpeg(path, frame):
    """One frame as the kiosk's camera would deliver it."""
    if not cv2.imwrite(str(path), frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise OSError(f"{path}: cannot write the picture")


def mnist():
    """MNIST's test5k as 28x28 PNG files."""
    out = folder("mnist")
    rows = []
    images, labels = cards.mnist("test")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        cv2.imwrite(str(out / f"{index}.png"), image)
        rows.append({"image": f"{index}.png", "label": LABELS[int(label)]})
    return write_rows("mnist", rows)


def rendered():
    """Rendered camera frames, eleven classes."""
    out = folder("cards")
    frames, labels = cards.clean_cards(SEED, CARDS, size=(640, 480))
    rows = []
    for index, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        write_jpeg(out / f"{index}.jpg", frame)
        rows.append({"image": f"{index}.jpg", "label": LABELS[int(label)]})
    return write_rows("cards", rows)


def test_clips(speakers=None):
    """FSDD index 0-4 of the given speakers, all by default."""
    return [c for c in voices.fsdd() if c.test and (speakers is None or c.speaker in speakers)]


def noisy(rng, clip, noises, snr_db):
    """The clip with ESC-10 fold 4 over its whole length."""
    noise = noises[int(rng.integers(len(noises)))]
    return voices.mix_at_snr(clip.audio, voices.loud_excerpt(rng, noise, len(clip.audio)), snr_db)


def spoken(name, clips, snr_db=None):
    """Spoken digits, clean or with ESC-10 fold 4 at `snr_db`."""
    out = folder(name)
    noises = voices.noises([4]) if snr_db is not None else None
    rows = []
    for index, clip in enumerate(clips):
        rng = np.random.default_rng((SEED, 3, index))
        voices.write_wav(out / f"{index}.wav", clip.audio if snr_db is None else noisy(rng, clip, noises, snr_db))
        rows.append({"audio": f"{index}.wav", "label": LABELS[clip.label]})
    return write_rows(name, rows)


def clinc():
    """CLINC150 val and its out-of-scope part, labelled by intent."""
    sets = json.loads(common.data("clinc150", "data_full_dev.json").read_text())
    return write_rows("clinc", [{"text": t, "label": label} for t, label in sets["val"] + sets["oos_val"]])


def requests_by_desk():
    """CLINC150 val by desk index, and the out-of-scope texts under NONE."""
    domains = json.loads(common.data("clinc150", "domains.json").read_text())
    desk = {intent: k for k, intents in enumerate(domains.values()) for intent in intents}
    sets = json.loads(common.data("clinc150", "data_full_dev.json").read_text())
    found = {k: [] for k in range(11)}
    for text, intent in sets["val"]:
        found[desk[intent]].append(text)
    found[NONE] = [t for t, _ in sets["oos_val"]]
    return found


def hard(name, clips, with_text=False):
    """The hard condition: corrupted cards beside speech with ESC-10 fold 4 at 0 dB; every clip meets several cards."""
    out = folder(name)
    noises = voices.noises([4])
    paired = [c for c in clips for _ in range(HARD_PER_CLIP)]
    frames, _ = cards.hard_cards(SEED, len(paired), labels=[c.label for c in paired], size=(640, 480))
    texts = requests_by_desk() if with_text else None
    rows = []
    for index, clip in enumerate(paired):
        rng = np.random.default_rng((SEED, 4, index))
        write_jpeg(out / f"{index}.jpg", frames[index])
        voices.write_wav(out / f"{index}.wav", noisy(rng, clip, noises, 0.0))
        row = {"image": f"{index}.jpg", "audio": f"{index}.wav", "label": LABELS[clip.label]}
        if with_text:
            choices = texts[clip.label]
            row["text"] = choices[int(rng.integers(len(choices)))]
        rows.append(row)
    return write_rows(name, rows)


def visits():
    """Everyday visits, all three modalities, and nobody there: the rows that calibration is measured on.

    A third of the modalities of a visit say nothing (an empty scene, noise, no text), as a visitor uses one or two.
    """
    out = folder("visits")
    clips = test_clips()
    words = [c for c in voices.synthetic() if c.test and c.label == NONE]
    noises = voices.noises([4])
    texts = requests_by_desk()
    labels = np.random.default_rng((SEED, 5)).integers(0, 11, VISITS)
    rows = []
    for index, label in enumerate(labels):
        rng = np.random.default_rng((SEED, 6, index))
        uses = rng.random(3) < 2 / 3
        if not uses.any():
            uses[int(rng.integers(3))] = True
        shown = None if label == NONE or not uses[0] else int(label)
        frame = cards.render(rng, shown, split="test", size=(640, 480))
        write_jpeg(out / f"{index}.jpg", cards.corrupt(rng, frame, float(rng.uniform(0, 1.0)) * cards.HARD_STRENGTH))
        if label != NONE and uses[1]:
            same = [c for c in clips if c.label == label]
            sound = noisy(rng, same[int(rng.integers(len(same)))], noises, float(rng.uniform(-5, 20)))
        elif rng.random() < 0.4:
            sound = words[int(rng.integers(len(words)))].audio
        else:
            sound = voices.excerpt(rng, noises[int(rng.integers(len(noises)))], voices.WINDOW)
        voices.write_wav(out / f"{index}.wav", sound)
        row = {"image": f"{index}.jpg", "audio": f"{index}.wav", "label": LABELS[int(label)]}
        if uses[2]:
            choices = texts[int(label)]
            row["text"] = choices[int(rng.integers(len(choices)))]
        rows.append(row)
    return write_rows("visits", rows)


def false_alarms():
    """30 minutes without a digit: ESC-10 fold 4 with held-out words and phrases of held-out voices between and over it; a 16 kHz WAV."""
    rng = np.random.default_rng((SEED, 7))
    noises = voices.noises([4])
    words = [c.audio for c in voices.synthetic() if c.test and c.label == NONE]
    parts, length = [], 0
    while length < NOISE_S * voices.RATE_HZ:
        noise = noises[int(rng.integers(len(noises)))] * rng.uniform(0.1, 1.0)
        draw = rng.random()
        if draw < 0.45:
            part = noise
        else:
            gap = [np.zeros(int(rng.uniform(0.1, 1.2) * voices.RATE_HZ), np.float32) for _ in range(5)]
            part = np.concatenate([x for g in gap for x in (words[int(rng.integers(len(words)))] * rng.uniform(0.2, 1.0), g)])
            if draw > 0.75:
                part = part + 0.3 * voices.excerpt(rng, noise, len(part))
        parts.append(part.astype(np.float32))
        length += len(part)
    path = folder("false_alarms") / "noise.wav"
    voices.write_wav(path, np.concatenate(parts)[: NOISE_S * voices.RATE_HZ])
    return path


def all_sets():
    """Every set of the report by name; files are made anew."""
    clips = test_clips()
    return {
        "mnist": mnist(),
        "cards": rendered(),
        "speech_clean": spoken("speech_clean", clips),
        "speech_0db": spoken("speech_0db", clips, 0.0),
        "clinc": clinc(),
        "hard": hard("hard", clips),
        "hard_text": hard("hard_text", clips, with_text=True),
        "visits": visits(),
        "false_alarms": false_alarms(),
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, path in all_sets().items():
        print(f"{name}: {path}")
