#!/usr/bin/env python3
"""One decision step, Attendant against the same step glued in Python, interleaved in one run.

The step: decode a 640x480 JPEG, crop and resize it, log-mel of one second of sound, tokenize a request, run the three
int8 encoders, fuse. The Python side is what an integrator writes with OpenCV, numpy, tokenizers and onnxruntime (one
thread each, luminance-only JPEG decoding, precomputed window and mel matrix), on the same ONNX files.

    cargo build --release
    pip install numpy opencv-python-headless onnxruntime tokenizers
    python benches/peers/step.py [--rounds 10] [--steps 50] [--color]

Prints the medians, the ratio of medians and the classes both sides decided (they must agree).
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import time
import wave

import cv2
import numpy as np
import onnxruntime
import tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[2]


def mel_matrix(rate, n_fft, n_mels, fmin, fmax):
    """Slaney's mel filters with area normalisation, as librosa.filters.mel makes them; [n_mels, n_fft / 2 + 1]."""

    def to_mel(hz):
        hz = np.asarray(hz, dtype=float)
        log = 15 + np.log(np.maximum(hz, 1e-9) / 1000) / (np.log(6.4) / 27)
        return np.where(hz < 1000, hz * 3 / 200, log)

    def to_hz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.log(6.4) / 27) * (mel - 15)))

    edges = to_hz(np.linspace(to_mel(fmin), to_mel(fmax), n_mels + 2))
    bins = np.fft.rfftfreq(n_fft, 1 / rate)
    ramps = edges[:, None] - bins[None, :]
    lower = -ramps[:-2] / np.diff(edges)[:-1, None]
    upper = ramps[2:] / np.diff(edges)[1:, None]
    weights = np.maximum(0, np.minimum(lower, upper))
    return (weights * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


class Glue:
    """The step in Python."""

    def __init__(self, bundle, color):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        names = ("card", "speech", "request", "fusion")
        self.sessions = {n: onnxruntime.InferenceSession(str(bundle / f"{n}.int8.onnx"), options) for n in names}
        self.inputs = {n: s.get_inputs()[0].name for n, s in self.sessions.items()}
        self.tokenizer = tokenizers.Tokenizer.from_file(str(bundle / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.max_tokens = self.sessions["request"].get_inputs()[0].shape[1]
        self.mel = mel_matrix(16000, 512, 40, 20, 4000)
        window = np.hanning(401)[:-1].astype(np.float32)
        self.window = np.pad(window, 56)
        self.flag = cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE

    def step(self, jpeg, pcm, text):
        frame = cv2.imdecode(jpeg, self.flag)
        h, w = frame.shape[:2]
        side = min(h, w)
        top, left = (h - side) // 2, (w - side) // 2
        frame = cv2.resize(frame[top : top + side, left : left + side], (64, 64), interpolation=cv2.INTER_AREA)
        if frame.ndim == 3:
            frame = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        image = ((frame.astype(np.float32) / 255 - 0.5) / 0.5)[None, None]

        samples = pcm.astype(np.float32) / 32768
        frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::160] * self.window
        power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
        log_mel = np.log(np.maximum(self.mel @ power.T.astype(np.float32), 1e-10))[None]

        ids = self.tokenizer.encode(text).ids[: self.max_tokens]
        ids = np.array([ids + [0] * (self.max_tokens - len(ids))], dtype=np.int64)

        tokens = [
            self.sessions[name].run(["embedding"], {self.inputs[name]: value})[0][0]
            for name, value in (("card", image), ("speech", log_mel.astype(np.float32)), ("request", ids))
        ]
        feed = {
            "tokens": np.stack(tokens)[None],
            "mask": np.ones((1, 3), dtype=bool),
            "age_s": np.zeros((1, 3), dtype=np.float32),
        }
        return int(self.sessions["fusion"].run(["logits"], feed)[0].argmax())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=pathlib.Path, default=ROOT / "models/kiosk")
    parser.add_argument("--attendant", type=pathlib.Path, default=ROOT / "target/release/attendant")
    parser.add_argument("--image", type=pathlib.Path, default=ROOT / "benches/peers/card.jpg")
    parser.add_argument("--audio", type=pathlib.Path, default=ROOT / "benches/peers/speech.wav", help="16 kHz mono")
    parser.add_argument("--text", default="my card was declined at the restaurant")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--color", action="store_true", help="let OpenCV decode colour, as most glue does")
    args = parser.parse_args()
    cv2.setNumThreads(1)

    jpeg = np.fromfile(args.image, dtype=np.uint8)
    with wave.open(str(args.audio)) as file:
        pcm = np.frombuffer(file.readframes(16000), dtype=np.int16)
    glue = Glue(args.bundle, args.color)
    command = [args.attendant, "bench", "--bundle", args.bundle, "--image", args.image, "--audio", args.audio]
    server = subprocess.Popen(
        [*map(str, command), "--text", args.text, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ours(count):
        server.stdin.write(f"{count}\n")
        server.stdin.flush()
        reply = json.loads(server.stdout.readline())
        return reply["step_ns"], reply["class"]

    def theirs(count):
        times = []
        for _ in range(count):
            start = time.perf_counter_ns()
            decided = glue.step(jpeg, pcm, args.text)
            times.append(time.perf_counter_ns() - start)
        return times, decided

    ours(20), theirs(20)
    a, b, ratios = [], [], []
    for _ in range(args.rounds):
        x, class_a = ours(args.steps)
        y, class_b = theirs(args.steps)
        a += x
        b += y
        ratios.append(statistics.median(x) / statistics.median(y))
    server.stdin.close()
    labels = (args.bundle / "labels.txt").read_text().split()
    report = {
        "attendant_us": round(statistics.median(a) / 1000, 1),
        "python_us": round(statistics.median(b) / 1000, 1),
        "ratio": round(statistics.median(a) / statistics.median(b), 3),
        "ratio_of_rounds": [round(min(ratios), 3), round(max(ratios), 3)],
        "attendant_class": class_a,
        "python_class": labels[class_b],
        "steps": len(a),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
