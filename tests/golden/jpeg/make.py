#!/usr/bin/env python3
"""Makes the JPEG files beside this script with OpenCV (libjpeg-turbo). Run: python make.py (needs opencv-python)."""
import pathlib

import cv2
import numpy as np

HERE = pathlib.Path(__file__).parent

gray = np.full((16, 16), 60, np.uint8)
gray[:, 8:] = 200
cv2.imwrite(str(HERE / "halves_gray.jpg"), gray, [cv2.IMWRITE_JPEG_QUALITY, 95])

# B G R; 4:2:0, baseline. Wide halves, so that chroma of one does not reach the middle of the other.
colour = np.full((16, 64, 3), (20, 20, 220), np.uint8)
colour[:, 32:] = (220, 20, 20)
cv2.imwrite(str(HERE / "red_blue.jpg"), colour, [
    cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420])
