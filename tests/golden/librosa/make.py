#!/usr/bin/env python3
"""Makes the golden log-mel files beside this script with librosa 0.11 (the reference implementation).

Run: python make.py   (needs librosa==0.11.0, numpy). Writes per case:
  <case>.i16   mono signal, little-endian int16, 16 kHz: sample / 32768 is what the preprocessing takes
  <case>.f32   ln(max(mel power, 1e-10)), little-endian float32, [40, T]
The signals are seeded; the files change only if librosa or a recipe does. The reference is computed in double
precision: in single precision librosa's own rounding exceeds the tolerance where a band holds next to nothing.
"""
import pathlib

import librosa
import numpy as np

HERE = pathlib.Path(__file__).parent
RATE = 16000
rng = np.random.default_rng(20240611)


def log_mel(y):
    m = librosa.feature.melspectrogram(
        y=y, sr=RATE, n_fft=512, win_length=400, hop_length=160, window="hann", center=False, power=2.0,
        n_mels=40, fmin=20, fmax=4000, htk=False, norm="slaney", dtype=np.float32)
    return np.log(np.maximum(m, 1e-10))


def speech_like(n):
    """A gliding pulse train through three formant resonators, with a fricative burst."""
    t = np.arange(n) / RATE
    f0 = 110 + 40 * np.sin(2 * np.pi * 1.3 * t)
    phase = np.cumsum(f0) / RATE
    source = np.diff(np.floor(phase), prepend=0.0)
    y = np.zeros(n)
    for freq, width in ((600, 90), (1300, 110), (2600, 160)):
        r = np.exp(-np.pi * width / RATE)
        a1, a2 = 2 * r * np.cos(2 * np.pi * freq / RATE), -r * r
        s1 = s2 = 0.0
        for i in range(n):
            s = source[i] + a1 * s1 + a2 * s2
            s2, s1 = s1, s
            y[i] += s
    y /= np.abs(y).max()
    envelope = np.clip(np.sin(2 * np.pi * 2.5 * t), 0, 1)
    burst = rng.standard_normal(n) * 0.05 * ((t > 0.35) & (t < 0.45))
    return 0.5 * y * envelope + burst


n = RATE // 2
t = np.arange(n) / RATE
cases = {
    "silence": np.zeros(n),
    "tone_440": 0.5 * np.sin(2 * np.pi * 440 * t),
    "tone_full_scale": 0.999 * np.sin(2 * np.pi * 3012.5 * t),
    "noise_loud": 0.3 * rng.standard_normal(n),
    "noise_quiet": 0.003 * rng.standard_normal(n),
    "noise_one_bit": 1.2 / 32768 * rng.standard_normal(n),
    "speech_like": speech_like(n),
    "click": np.where(np.arange(n) == 4000, 0.9, 0.0),
}
for name, y in cases.items():
    q = np.clip(np.round(y * 32768), -32768, 32767).astype("<i2")
    x = q.astype(np.float64) / 32768
    exact = log_mel(x)
    single = log_mel(x.astype(np.float32))
    (HERE / f"{name}.i16").write_bytes(q.tobytes())
    (HERE / f"{name}.f32").write_bytes(exact.astype("<f4").tobytes())
    print(f"{name:16} {exact.shape} min {exact.min():8.3f} max {exact.max():8.3f}"
          f"  librosa f32 against f64: {np.abs(exact - single).max():.2e}")
