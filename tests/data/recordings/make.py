"""Writes small.mcap beside this file: two seconds of every kind of sample, made up, the same bytes each time.

    python tests/data/recordings/make.py          (training/requirements.txt)
"""

import sys
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "training"))
from kiosk.mcapio import DemoWriter  # noqa: E402

RATE = 8000


def card(step):
    """A grey 160x120 picture with a bright bar that moves."""
    picture = np.full((120, 160), 60, np.uint8)
    picture[20:100, 10 + 12 * step : 30 + 12 * step] = 220
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()


def tone(first, n):
    """Samples `first` to `first + n` of a 440 Hz tone at a quarter of full scale."""
    return (8192 * np.sin(2 * np.pi * 440 * (first + np.arange(n)) / RATE)).astype(np.int16)


with DemoWriter(HERE / "small.mcap") as w:
    w.truth(0, "desk_3", ["card", "speech"], "a card and a tone")
    w.truth(1, "none", [], "the camera is covered")
    for step in range(5):
        w.jpeg(0.2 * step, card(step), 160, 120)
    w.fault(1.0, "camera", "covered")
    for block in range(8):
        if block != 4:  # a block that was lost
            w.audio(0.25 * block, tone(RATE // 4 * block, RATE // 4 if block < 7 else 1000), RATE)
    w.text(1.5, "where do I change my café card?")
    w.reading(0.5, "distance", [1.25, float("nan")])
    w.raw_image(1.75, bytes(range(16)), 4, 4, "mono8", topic="/thermal")
