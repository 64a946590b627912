#!/usr/bin/env python3
"""Writes inputs that are nothing the kiosk's bundle knows, as rows for `attendant eval`.

    python training/kiosk/out_of_distribution.py OUT      # OUT/card.jsonl, speech.jsonl, request.jsonl: 1,000 rows each
    attendant eval --decide OUT/card.jsonl                # confident wrong answers and decisions, by kind of input

Needs numpy and Pillow; soundfile for the sounds of ESC-10, which come from the data folder (../shared/data or $ATTENDANT_DATA) if it is there.
Kinds whose recordings are missing are named, and the others fill their places. The same seed gives the same inputs.
"""

import argparse
import json
import os
import sys
import wave
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ood import pictures, sounds, texts  # noqa: E402

SEED = 20_2612
COUNT = 1000
DATA = Path(os.environ.get("ATTENDANT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def generators(modality, kinds, count, seed):
    """(index, kind, generator) of every input: the kinds take turns, and an input depends on its own numbers only."""
    names = list(kinds)
    for index in range(count):
        yield index, names[index % len(names)], np.random.default_rng((seed, modality, index))


def write(path, rows):
    """The rows, a line each."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{path}: {len(rows)} rows")


def card(out, count, seed):
    """Pictures, as JPEG."""
    folder = out / "card"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, kind, rng in generators(1, pictures.KINDS, count, seed):
        frame = pictures.camera(rng, pictures.KINDS[kind](rng))
        name = f"{index:04}-{kind}.jpg"
        Image.fromarray(frame).save(folder / name, quality=85)
        rows.append({"image": f"card/{name}", "label": "none", "kind": kind})
    write(out / "card.jsonl", rows)


def speech(out, count, seed):
    """Sounds, as WAV."""
    folder = out / "speech"
    folder.mkdir(parents=True, exist_ok=True)
    material = sounds.Material(DATA)
    kinds, missing = sounds.kinds(material)
    if missing:
        print(f"no recordings in {DATA} for: {', '.join(missing)}; the other kinds fill their places")
    rows = []
    for index, kind, rng in generators(2, kinds, count, seed):
        samples = sounds.microphone(rng, kinds[kind](rng, material))
        name = f"{index:04}-{kind}.wav"
        with wave.open(str(folder / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sounds.RATE_HZ)
            file.writeframes(samples.tobytes())
        rows.append({"audio": f"speech/{name}", "label": "none", "kind": kind})
    write(out / "speech.jsonl", rows)


def request(out, count, seed):
    """Texts."""
    rows = [{"text": texts.KINDS[kind](rng), "label": "oos", "kind": kind} for _, kind, rng in generators(3, texts.KINDS, count, seed)]
    write(out / "request.jsonl", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--count", type=int, default=COUNT, help="inputs of each modality")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for make in (card, speech, request):
        make(args.out, args.count, args.seed)


if __name__ == "__main__":
    main()
