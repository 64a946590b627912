"""Prints what onnxruntime makes of the models of tests/third_party.rs, for the constants there.

    python third_party.py DIR     DIR has the models; inputs are sin(i / 100) in row-major order
Needs numpy and onnxruntime.
"""
import sys

import numpy as np
import onnxruntime as ort

for file, shape in [
    ("mobilenet_v2_quant.onnx", (1, 3, 224, 224)),
    ("yunet_n_320_320.onnx", (1, 3, 320, 320)),
    ("ultraface_rfb_320.onnx", (1, 3, 240, 320)),
]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # u8 x s8 products that do not saturate
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(f"{sys.argv[1]}/{file}", options)
    x = np.sin(np.arange(np.prod(shape)) / 100).astype(np.float32).reshape(shape)
    for value, y in zip(session.get_outputs(), session.run(None, {session.get_inputs()[0].name: x})):
        y = y.ravel().astype(np.float64)
        print(file, value.name, "largest at", y.argmax(), "is", y.max(), "mean", y.mean())
