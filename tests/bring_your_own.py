"""Prints what onnxruntime makes of the bundles of tests/bring_your_own.rs, for the constants there.

    python bring_your_own.py DIR     DIR has the models and silero_test.wav
Decoding is written here a second time, plainly. Needs numpy, pillow and onnxruntime.
"""
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

DIR = Path(sys.argv[1])
PICTURE = np.asarray(Image.open(Path(__file__).parent / "data/pictures/astronaut.png").convert("RGB"))


def session(file):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # u8 x s8 products that do not saturate
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(str(DIR / file), options)


def nchw(pixels):
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]).astype(np.float32)


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    area = lambda r: (r[2] - r[0]) * (r[3] - r[1])
    return inter / (area(a) + area(b) - inter)


def keep(rows, limit):
    """Rows are (score, left, top, right, bottom, points)."""
    kept = []
    for row in sorted(rows, key=lambda r: -r[0]):
        if all(iou(row[1:5], k[1:5]) <= limit for k in kept):
            kept.append(row)
    return kept


def show(name, rows):
    for score, left, top, right, bottom, points in rows:
        box = [left / 320, top / 320, (right - left) / 320, (bottom - top) / 320]
        print(name, f"{score:.4f}", [round(float(v), 4) for v in box], [[round(float(x) / 320, 4), round(float(y) / 320, 4)] for x, y in points])


def yunet():
    s = session("yunet_n_320_320.onnx")
    names = [o.name for o in s.get_outputs()]
    out = dict(zip(names, s.run(None, {"input": nchw(PICTURE[:, :, ::-1])})))
    rows = []
    for stride in (8, 16, 32):
        side = 320 // stride
        for i in range(side * side):
            y, x = divmod(i, side)
            score = np.sqrt(np.clip(out[f"cls_{stride}"][0, i, 0], 0, 1) * np.clip(out[f"obj_{stride}"][0, i, 0], 0, 1))
            if score < 0.7:
                continue
            dx, dy, dw, dh = out[f"bbox_{stride}"][0, i]
            cx, cy, w, h = (x + dx) * stride, (y + dy) * stride, np.exp(dw) * stride, np.exp(dh) * stride
            kps = out[f"kps_{stride}"][0, i].reshape(5, 2)
            points = [((x + a) * stride, (y + b) * stride) for a, b in kps]
            rows.append((score, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, points))
    print("yunet candidates", len(rows))
    show("yunet", keep(rows, 0.3))


def ultraface():
    s = session("ultraface_rfb_320.onnx")
    scores, boxes = s.run(["scores", "boxes"], {"input": nchw((PICTURE[:240].astype(np.float32) - 127) / 128)})
    rows = [
        (p, b[0] * 320, b[1] * 240, b[2] * 320, b[3] * 240, [])
        for p, b in zip(scores[0, :, 1], boxes[0])
        if p >= 0.7
    ]
    print("ultraface candidates", len(rows))
    show("ultraface", keep(rows, 0.3))


def mobilenet():
    s = session("mobilenet_v2_quant.onnx")
    x = PICTURE[:224, :224].astype(np.float32) / 255
    x = (x - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    logits = s.run(None, {"input": nchw(x)})[0][0].astype(np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    for i in np.argsort(-p, kind="stable")[:5]:
        print("mobilenet", i, f"{p[i]:.4f}")


def silero():
    s = session("silero_vad_16k_op15.onnx")
    with wave.open(str(DIR / "silero_test.wav")) as f:
        x = np.frombuffer(f.readframes(f.getnframes()), np.int16).astype(np.float32) / 32768
    state, on, since, ps = np.zeros((2, 1, 128), np.float32), False, None, []
    changes = []
    for k in range((len(x) - 576) // 512 + 1):
        window = x[k * 512 : k * 512 + 576][None]
        p, state = s.run(["output", "stateN"], {"input": window, "state": state, "sr": np.array(16000, np.int64)})
        p, t = float(p[0, 0]), (k * 512 + 576) * 1000 / 16000
        ps.append(p)
        if (p < 0.35) if on else (p >= 0.5):
            since = t if since is None else since
            if t - since >= (96 if on else 64):
                on, first, since = not on, since, None
                changes.append(("enter" if on else "exit", int(first)))
        else:
            since = None
    near = min(min(abs(p - 0.5), abs(p - 0.35)) for p in ps)
    print("silero windows", len(ps), "changes", len(changes), "nearest to a threshold", near)
    print("silero", changes)


yunet()
ultraface()
mobilenet()
silero()
