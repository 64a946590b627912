"""The networks of the int8 comparison, with random weights: f32, and quantized in every form that onnxruntime writes.

    python networks.py DIR [NAME..]       writes DIR/NAME.onnx and DIR/NAME.FORM.onnx

Architectures: MLPerf Tiny's keyword spotting (dscnn), visual wake words (vww), image classification (resnet8) and anomaly
detection (ad); MobileNetV2 (mbv2); an attention fusion (fusion) and a small vision transformer (vit).
FORM: qdq.s8, qdq.u8, qop.s8, qop.u8 (static, per-channel weights), qdq.tensor (static u8, per-tensor weights), dyn (dynamic).
Needs onnx, onnxruntime and numpy.
"""
import contextlib
import logging
import math
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

SEED = 7
SHAPES = {
    "dscnn": (1, 1, 49, 10),
    "vww": (1, 3, 96, 96),
    "resnet8": (1, 3, 32, 32),
    "ad": (1, 640),
    "mbv2": (1, 3, 224, 224),
    "fusion": (1, 48, 192),
    "vit": (1, 3, 128, 128),
}
FORMS = ["qdq.s8", "qdq.u8", "qdq.tensor", "qop.s8", "qop.u8", "dyn"]


class Graph:
    """Builds an ONNX graph; every method takes and returns names of values."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants = [], []

    def constant(self, values):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weights(self, *shape, fan_in, gain=2.0):
        return self.constant((self.random.standard_normal(shape) * math.sqrt(gain / fan_in)).astype(np.float32))

    def bias(self, n):
        return self.constant((self.random.standard_normal(n) * 0.05).astype(np.float32))

    def node(self, op, *inputs, **attributes):
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, x, inner, outer, kernel=(3, 3), stride=(1, 1), groups=1, pads=None, activation="Relu"):
        if pads is None:
            pads = [kernel[0] // 2, kernel[1] // 2] * 2
        w = self.weights(outer, inner // groups, *kernel, fan_in=inner // groups * kernel[0] * kernel[1])
        y = self.node("Conv", x, w, self.bias(outer), kernel_shape=kernel, strides=stride, pads=pads, group=groups)
        if activation == "Relu":
            return self.node("Relu", y)
        if activation == "Relu6":
            return self.node("Clip", y, self.constant(np.float32(0)), self.constant(np.float32(6)))
        return y

    def separable(self, x, inner, outer, stride=1):
        x = self.conv(x, inner, inner, stride=(stride, stride), groups=inner)
        return self.conv(x, inner, outer, kernel=(1, 1))

    def classifier(self, x, inner, classes):
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.dense(x, inner, classes)

    def dense(self, x, inner, outer, activation=None):
        y = self.node("Gemm", x, self.weights(inner, outer, fan_in=inner, gain=1.0), self.bias(outer))
        return self.node(activation, y) if activation else y

    def linear(self, x, inner, outer):
        y = self.node("MatMul", x, self.weights(inner, outer, fan_in=inner, gain=1.0))
        return self.node("Add", y, self.bias(outer))

    def norm(self, x, width):
        gain = self.constant((1 + 0.1 * self.random.standard_normal(width)).astype(np.float32))
        return self.node("LayerNormalization", x, gain, self.bias(width), axis=-1, epsilon=1e-5)

    def gelu(self, x):
        y = self.node("Mul", x, self.constant(np.float32(math.sqrt(0.5))))
        y = self.node("Add", self.node("Erf", y), self.constant(np.float32(1)))
        return self.node("Mul", self.node("Mul", x, y), self.constant(np.float32(0.5)))

    def heads(self, x, tokens, heads, width, permutation):
        shape = self.constant(np.array([1, tokens, heads, width // heads], np.int64))
        return self.node("Transpose", self.node("Reshape", x, shape), perm=permutation)

    def attention(self, x, tokens, width, heads):
        q = self.heads(self.linear(x, width, width), tokens, heads, width, [0, 2, 1, 3])
        k = self.heads(self.linear(x, width, width), tokens, heads, width, [0, 2, 3, 1])
        v = self.heads(self.linear(x, width, width), tokens, heads, width, [0, 2, 1, 3])
        scale = self.constant(np.float32(1 / math.sqrt(width // heads)))
        scores = self.node("Softmax", self.node("Mul", self.node("MatMul", q, k), scale), axis=-1)
        y = self.node("Transpose", self.node("MatMul", scores, v), perm=[0, 2, 1, 3])
        y = self.node("Reshape", y, self.constant(np.array([1, tokens, width], np.int64)))
        return self.linear(y, width, width)

    def block(self, x, tokens, width, heads):
        x = self.node("Add", x, self.attention(self.norm(x, width), tokens, width, heads))
        y = self.linear(self.norm(x, width), width, 4 * width)
        return self.node("Add", x, self.linear(self.gelu(y), 4 * width, width))

    def save(self, path, shape, output):
        self.nodes[-1].output[0] = "output"
        assert self.nodes[-1].name + "_out" == output
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)


def dscnn(g):
    x = g.conv("input", 1, 64, kernel=(10, 4), stride=(2, 2), pads=[4, 1, 5, 1])
    for _ in range(4):
        x = g.separable(x, 64, 64)
    return g.classifier(x, 64, 12)


def vww(g):
    x, inner = g.conv("input", 3, 8, stride=(2, 2)), 8
    for outer, stride in [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2)] + [(128, 1)] * 5 + [(256, 2), (256, 1)]:
        x, inner = g.separable(x, inner, outer, stride), outer
    return g.classifier(x, 256, 2)


def resnet8(g):
    x, inner = g.conv("input", 3, 16), 16
    for outer, stride in [(16, 1), (32, 2), (64, 2)]:
        y = g.conv(x, inner, outer, stride=(stride, stride))
        y = g.conv(y, outer, outer, activation=None)
        if stride > 1:
            x = g.conv(x, inner, outer, kernel=(1, 1), stride=(stride, stride), activation=None)
        x, inner = g.node("Relu", g.node("Add", x, y)), outer
    return g.classifier(x, 64, 10)


def ad(g):
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    x = "input"
    for inner, outer in zip(widths, widths[1:]):
        x = g.dense(x, inner, outer, "Relu")
    return g.dense(x, 128, 640)


def mbv2(g):
    x, inner = g.conv("input", 3, 32, stride=(2, 2), activation="Relu6"), 32
    for expand, outer, repeats, first in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ]:
        for i in range(repeats):
            stride, y, hidden = (first if i == 0 else 1), x, inner * expand
            if expand > 1:
                y = g.conv(y, inner, hidden, kernel=(1, 1), activation="Relu6")
            y = g.conv(y, hidden, hidden, stride=(stride, stride), groups=hidden, activation="Relu6")
            y = g.conv(y, hidden, outer, kernel=(1, 1), activation=None)
            x = g.node("Add", x, y) if stride == 1 and inner == outer else y
            inner = outer
    return g.classifier(g.conv(x, 320, 1280, kernel=(1, 1), activation="Relu6"), 1280, 1000)


def pooled(g, x, width, classes):
    return g.dense(g.node("ReduceMean", g.norm(x, width), axes=[1], keepdims=0), width, classes)


def fusion(g):
    x = "input"
    for _ in range(2):
        x = g.block(x, 48, 192, 4)
    return pooled(g, x, 192, 16)


def vit(g):
    x = g.conv("input", 3, 192, kernel=(16, 16), stride=(16, 16), pads=[0] * 4, activation=None)
    x = g.node("Transpose", g.node("Reshape", x, g.constant(np.array([1, 192, 64], np.int64))), perm=[0, 2, 1])
    x = g.node("Add", x, g.constant((g.random.standard_normal((1, 64, 192)) * 0.02).astype(np.float32)))
    for _ in range(6):
        x = g.block(x, 64, 192, 3)
    return pooled(g, x, 192, 100)


NETWORKS = {f.__name__: f for f in (dscnn, vww, resnet8, ad, mbv2, fusion, vit)}


class Noise(CalibrationDataReader):
    """Eight inputs of normal noise: the same that the comparison runs on."""

    def __init__(self, shape):
        self.inputs = iter([{"input": sample(shape, i)} for i in range(8)])

    def get_next(self):
        return next(self.inputs, None)


def sample(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantize(path, form):
    """Writes the quantized form beside the f32 file and returns its path."""
    out = path.with_suffix(f".{form}.onnx")
    if form == "dyn":
        quantize_dynamic(path, out, weight_type=QuantType.QInt8)
        return out
    kind, activations = form.split(".")
    quantize_static(
        path,
        out,
        Noise(SHAPES[path.stem]),
        quant_format=QuantFormat.QDQ if kind == "qdq" else QuantFormat.QOperator,
        activation_type=QuantType.QInt8 if activations == "s8" else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=activations != "tensor",
    )
    return out


def make(directory, name, forms=FORMS):
    """Writes one network in f32 and in `forms`; returns what it wrote."""
    path = Path(directory) / f"{name}.onnx"
    graph = Graph(SEED)
    graph.save(path, SHAPES[name], NETWORKS[name](graph))
    return [path] + [quantize(path, form) for form in forms]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or NETWORKS:
        for path in make(directory, name):
            with contextlib.suppress(OSError):
                print(f"{path}  {path.stat().st_size} bytes")
