#!/usr/bin/env python3
"""Writes the JPEGs of the luminance decoder's tests: one 67 x 53 picture in every sampling, with and without restarts.

    pip install numpy opencv-python-headless
    python tests/golden/jpeg/make_sampled.py
"""
import pathlib

import cv2
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SAMPLINGS = {"444": 0x111111, "422": 0x211111, "420": 0x221111, "440": 0x121111, "411": 0x411111}

rng = np.random.default_rng(3)
picture = cv2.resize(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8), (67, 53), interpolation=cv2.INTER_CUBIC)
picture = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
cv2.putText(picture, "7", (14, 46), cv2.FONT_HERSHEY_SIMPLEX, 2, (255, 255, 255), 6)
for name, sampling in SAMPLINGS.items():
    options = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    cv2.imwrite(str(HERE / f"sampled_{name}.jpg"), picture, options)
options = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_RST_INTERVAL, 3]
cv2.imwrite(str(HERE / "sampled_restart.jpg"), picture, options)
options = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
cv2.imwrite(str(HERE / "sampled_optimized.jpg"), picture, options)
cv2.imwrite(str(HERE / "sampled_progressive.jpg"), picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
cv2.imwrite(str(HERE / "sampled_gray.jpg"), cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), [cv2.IMWRITE_JPEG_QUALITY, 85])
