#!/usr/bin/env python3
"""Writes the inputs of step.py: a rendered card as a 640x480 JPEG and a synthetic voice in one second of room noise."""
import pathlib
import sys

import cv2
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "training"))

from kiosk import cards, voices  # noqa: E402

rng = np.random.default_rng(5)
frame = cards.render(rng, 1, "printed", size=(640, 480), color=True)
cv2.imwrite(str(HERE / "card.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 85])
word = voices.centred(0.4 * voices.say("one", voice="en-gb+m3", speed=135))
voices.write_wav(HERE / "speech.wav", word + 0.01 * voices.coloured(rng, len(word), -3.0))
