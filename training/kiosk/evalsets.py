"""Labelled rows for `attendant eval`: one JSONL file a row of the report, with the pictures and clips it names.

Called by report.py and by anyone who wants to check a figure. Everything is drawn from test material only (MNIST's test5k, FSDD
index 0-4, ESC-10 fold 4, CLINC150 val, held-out fonts, voices and words) with the seeds below. The modalities of a row are paired by class:
they were never recorded together.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from . import cards, common, mcapio, voices
from .common import LABELS, NONE

SEED = 20_2611
CARDS = 2000
HARD_PER_CLIP = 4
VISITS = 1000
NOISE_S = 30 * 60
NOISE_DRAWS = 4
# Digits of the stream come this far apart, so that no decision of one can be taken for the next one's.
STREAM_SLOT_S = (3.4, 4.6)
PEOPLE_S = 10 * 60
FPS = 5
JPEG_QUALITY = 85
# A recorded voice of Debian's package asterisk-prompt-it-menardi-wav, and a minute of English from Silero's tests (MIT), beside the data.
PEOPLE = Path("/usr/share/asterisk/sounds/it_IT_f_Menardi")
REAL_SPEECH = common.DATA.parent / "third-party" / "silero_test.wav"


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


def spoken(name, clips, snr_db=None, draws=(0,)):
    """Spoken digits, clean or with ESC-10 fold 4 at `snr_db`; every clip once for each of `draws` of the noise."""
    out = folder(name)
    noises = voices.noises([4]) if snr_db is not None else None
    rows = []
    for draw in draws:
        for index, clip in enumerate(clips):
            rng = np.random.default_rng((SEED, 3, index, draw) if draw else (SEED, 3, index))
            path = f"{index}-{draw}.wav"
            voices.write_wav(out / path, clip.audio if snr_db is None else noisy(rng, clip, noises, snr_db))
            rows.append({"audio": path, "label": LABELS[clip.label]})
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


def people():
    """Minutes of a recorded person who says no digit and was never trained on, a 16 kHz WAV; None where Debian's prompts are not installed."""
    files = sorted(PEOPLE.rglob("*.wav")) if PEOPLE.exists() else []
    files = [f for f in files if f.relative_to(PEOPLE).parts[0] not in ("digits", "silence") and "tone" not in f.name]
    if not files:
        return None
    rng = np.random.default_rng((SEED, 9))
    parts, length = [], 0
    while length < PEOPLE_S * voices.RATE_HZ:
        x = voices.read(files[int(rng.integers(len(files)))]) * rng.uniform(0.2, 1.0)
        parts += [x.astype(np.float32), np.zeros(int(rng.uniform(0.1, 1.2) * voices.RATE_HZ), np.float32)]
        length += len(parts[-1]) + len(parts[-2])
    path = folder("people") / "people.wav"
    voices.write_wav(path, np.concatenate(parts)[: PEOPLE_S * voices.RATE_HZ])
    return path


def digit_stream(name, snr_db=None):
    """FSDD index 0-4 one after the other, the hiss of a quiet room between them or, with `snr_db`, ESC-10 fold 4 at that SNR throughout.

    A 16 kHz WAV; `truth.json` beside it lists [start s, end s, label].
    """
    rng = np.random.default_rng((SEED, 10))
    clips = test_clips()
    noises = voices.noises([4])
    parts, truth, at = [], [], 0
    for k in rng.permutation(len(clips)):
        clip = 0.5 * clips[k].audio / max(float(np.abs(clips[k].audio).max()), 1e-6) * float(10 ** rng.uniform(-0.5, 0.2))
        slot = int(rng.uniform(*STREAM_SLOT_S) * voices.RATE_HZ)
        start = int(rng.uniform(0.4, 0.9) * voices.RATE_HZ)
        clip = clip[: slot - start]
        x = 0.001 * rng.standard_normal(slot).astype(np.float32)
        if snr_db is not None:
            noise = voices.loud_excerpt(rng, noises[int(rng.integers(len(noises)))], slot)
            under = noise[start : start + len(clip)]
            power = max(float(np.mean(under**2)), 0.1 * float(np.mean(noise**2)))
            x += noise * float(np.sqrt(np.mean(clip**2) / power)) * 10 ** (-snr_db / 20)
        x[start : start + len(clip)] += clip
        truth.append([(at + start) / voices.RATE_HZ, (at + start + len(clip)) / voices.RATE_HZ, LABELS[clips[k].label]])
        parts.append(np.clip(x, -1, 1).astype(np.float32))
        at += slot
    path = folder(name) / "digits.wav"
    voices.write_wav(path, np.concatenate(parts))
    (path.parent / "truth.json").write_text(json.dumps(truth) + "\n")
    return path


def with_camera(name, wav):
    """The sound of `wav` beside a camera that sees empty scenes, a new one every 20 s, as a recording."""
    sound = (np.clip(voices.read(wav), -1, 1) * 32767).astype(np.int16)
    seconds = len(sound) / voices.RATE_HZ
    block = voices.RATE_HZ // 10
    path = folder(name) / "recording.mcap"
    with mcapio.DemoWriter(path) as out:
        out.truth(0, "none", [])
        for frame in range(int(seconds * FPS)):
            scene, step = divmod(frame, 20 * FPS)
            if step == 0:
                rng = np.random.default_rng((SEED, 11, scene))
                still = cards.render(rng, None, "empty", size=(320, 240), color=True)
                noisy_stills = [np.clip(still + rng.normal(0, 1.5, still.shape), 0, 255).astype(np.uint8) for _ in range(4)]
                pictures = [cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes() for f in noisy_stills]
            out.jpeg(frame / FPS, pictures[frame % 4], 320, 240)
        for k in range(0, len(sound) - block + 1, block):
            out.audio(k / voices.RATE_HZ, sound[k : k + block], voices.RATE_HZ)
    return path


def all_sets():
    """Every set of the report by name; files are made anew. A set whose material is not installed is None."""
    clips = test_clips()
    alarms, digits = false_alarms(), digit_stream("digit_stream")
    return {
        "mnist": mnist(),
        "cards": rendered(),
        "speech_clean": spoken("speech_clean", clips),
        "speech_0db": spoken("speech_0db", clips, 0.0),
        "speech_0db_more": spoken("speech_0db_more", clips, 0.0, range(1, NOISE_DRAWS + 1)),
        "clinc": clinc(),
        "hard": hard("hard", clips),
        "hard_text": hard("hard_text", clips, with_text=True),
        "visits": visits(),
        "false_alarms": alarms,
        "false_alarms_camera": with_camera("false_alarms_camera", alarms),
        "people": people(),
        "real_speech": REAL_SPEECH if REAL_SPEECH.exists() else None,
        "digit_stream": digits,
        "digit_stream_10db": digit_stream("digit_stream_10db", 10.0),
        "digit_stream_camera": with_camera("digit_stream_camera", digits),
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, path in all_sets().items():
        print(f"{name}: {path}")
