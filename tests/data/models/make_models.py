"""Writes the small ONNX models of the inference tests, and what onnxruntime makes of them (golden.json).

Seeded: run it again and the files do not change. Needs numpy, onnx 1.23, onnxruntime 1.32.
    python tests/data/models/make_models.py
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as H
from onnx import numpy_helper as N
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

HERE = Path(__file__).parent
GOLDEN = {}


class Graph:
    """A graph under construction: every method adds a node and returns its output's name."""

    def __init__(self, seed):
        self.nodes, self.constants, self.rng = [], [], np.random.default_rng(seed)

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants.append(N.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape, gain=1.0):
        fan_in = max(1, int(np.prod(shape[1:])))
        return (self.rng.standard_normal(shape) * gain / np.sqrt(fan_in)).astype(np.float32)

    def node(self, op, inputs, outputs=None, domain="", **attributes):
        outputs = outputs or [f"t{len(self.nodes)}"]
        self.nodes.append(H.make_node(op, inputs, outputs, name=f"{op}_{len(self.nodes)}", domain=domain, **attributes))
        return outputs[0]

    def linear(self, x, n_in, n_out, name=None):
        w, b = self.constant(self.weight(n_out, n_in)), self.constant(self.weight(n_out))
        return self.node("Gemm", [x, w, b], [name] if name else None, transB=1)

    def conv(self, x, n_in, n_out, kernel, stride):
        w, b = self.constant(self.weight(n_out, n_in, *kernel, gain=1.4)), self.constant(self.weight(n_out))
        pads = [k // 2 for k in kernel] * 2
        y = self.node("Conv", [x, w, b], kernel_shape=kernel, strides=stride, pads=pads)
        return self.node("Relu", [y])

    def int8_constant(self, value, axis=None):
        """A constant stored as int8 behind a DequantizeLinear, per tensor or per channel."""
        reduce = tuple(i for i in range(value.ndim) if i != axis)
        scale = (np.abs(value).max(axis=reduce if axis is not None else None) / 127).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(value.ndim)]
        spread = scale.reshape(shape) if axis is not None else scale
        q = np.clip(np.rint(value / spread), -127, 127).astype(np.int8)
        attributes = {"axis": axis} if axis is not None else {}
        zero = self.constant(np.zeros(scale.shape, np.int8))
        return self.node("DequantizeLinear", [self.constant(q), self.constant(scale), zero], **attributes)

    def save(self, name, inputs, outputs, quantize=(), activation=QuantType.QInt8):
        info = lambda io: [H.make_tensor_value_info(n, t, s) for n, t, s in io]
        graph = H.make_graph(self.nodes, name, info(inputs), info(outputs), self.constants)
        opsets = [H.make_opsetid("", 17), H.make_opsetid("example.custom", 1)]
        model = H.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="attendant-tests")
        path = HERE / f"{name}.onnx"
        if quantize:
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / "f32.onnx"
                onnx.save(onnx.shape_inference.infer_shapes(model), source)
                quantize_static(
                    source, path, Reader(inputs, self.rng), quant_format=QuantFormat.QDQ, activation_type=activation,
                    weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=list(quantize))
            model = onnx.load(path)
            del model.metadata_props[:]
            del model.graph.value_info[:]
        onnx.save(model, path)
        return path


def sample(inputs, rng):
    feed = {}
    for name, kind, shape in inputs:
        if kind == T.FLOAT:
            feed[name] = rng.standard_normal(shape).astype(np.float32)
        elif kind == T.INT64:
            feed[name] = rng.integers(0, 8, shape)
        else:
            feed[name] = rng.integers(0, 2, shape).astype(bool)
    return feed


class Reader(CalibrationDataReader):
    def __init__(self, inputs, rng):
        self.feeds = iter([sample(inputs, rng) for _ in range(8)])

    def get_next(self):
        return next(self.feeds, None)


def golden(path, inputs, seed, feeds=None):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    # as written: onnxruntime's own rewrites move roundings
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng, rows = np.random.default_rng(seed), []
    for feed in feeds or [sample(inputs, rng) for _ in range(3)]:
        outputs = session.run(None, feed)
        flat = lambda a: [x if isinstance(x, (int, bool)) else float(f"{x:.9g}") for x in np.asarray(a).ravel().tolist()]
        rows.append({"inputs": [flat(feed[n]) for n, _, _ in inputs], "outputs": [flat(o) for o in outputs]})
    GOLDEN[path.stem] = rows


def card():
    g, io = Graph(1), [("image", T.FLOAT, [1, 1, 16, 16])]
    x = g.conv(g.conv("image", 1, 8, [3, 3], [2, 2]), 8, 16, [3, 3], [2, 2])
    x = g.node("Flatten", [g.node("GlobalAveragePool", [x])])
    e = g.linear(x, 16, 8, "embedding")
    g.linear(e, 8, 3, "logits")
    for name, activation in (("card", QuantType.QInt8), ("card_u8", QuantType.QUInt8)):
        outputs = [("embedding", T.FLOAT, [1, 8]), ("logits", T.FLOAT, [1, 3])]
        golden(g.save(name, io, outputs, ["Conv", "Gemm", "GlobalAveragePool"], activation), io, 11)


def speech():
    g, io = Graph(2), [("mel", T.FLOAT, [1, 10, 24])]
    x = g.node("Transpose", [g.conv("mel", 10, 16, [3], [2])], perm=[2, 0, 1])
    w = g.int8_constant(g.weight(1, 36, 16), axis=1)
    r = g.int8_constant(g.weight(1, 36, 12), axis=1)
    g.node("GRU", [x, w, r, g.constant(g.weight(1, 72))], ["", "hidden"], hidden_size=12, linear_before_reset=1)
    x = g.node("Reshape", ["hidden", g.constant(np.array([1, 12]))])
    g.linear(g.linear(x, 12, 8, "embedding"), 8, 3, "logits")
    outputs = [("embedding", T.FLOAT, [1, 8]), ("logits", T.FLOAT, [1, 3])]
    golden(g.save("speech", io, outputs, ["Conv", "Gemm"]), io, 12)


def request():
    g, io = Graph(3), [("ids", T.INT64, [1, 6])]
    x = g.node("Gather", [g.int8_constant(g.weight(40, 8, gain=3.0)), "ids"], axis=0)
    mask = g.node("Cast", [g.node("Greater", ["ids", g.constant(np.int64(0))])], to=T.FLOAT)
    mask = g.node("Unsqueeze", [mask, g.constant(np.array([2]))])
    total = g.node("ReduceSum", [g.node("Mul", [x, mask]), g.constant(np.array([1]))], keepdims=0)
    count = g.node("ReduceSum", [mask, g.constant(np.array([1]))], keepdims=0)
    x = g.node("Div", [total, g.node("Max", [count, g.constant(np.float32(1))])])
    e = g.linear(x, 8, 8, "embedding")
    g.linear(e, 8, 3, "logits")
    g.linear(e, 8, 5, "intents")
    outputs = [("embedding", T.FLOAT, [1, 8]), ("logits", T.FLOAT, [1, 3]), ("intents", T.FLOAT, [1, 5])]
    golden(g.save("request", io, outputs, ["Gemm"]), io, 13)


def fusion():
    g = Graph(4)
    io = [("tokens", T.FLOAT, [1, 3, 8]), ("mask", T.BOOL, [1, 3]), ("age_s", T.FLOAT, [1, 3])]
    score = g.node("MatMul", ["tokens", g.constant(g.weight(8, 1, gain=2.0))])
    score = g.node("Sub", [g.node("Reshape", [score, g.constant(np.array([1, 3]))]), "age_s"])
    score = g.node("Where", ["mask", score, g.constant(np.float32(-1e9))])
    g.node("Softmax", [score], ["attention"], axis=-1)
    weight = g.node("Unsqueeze", ["attention", g.constant(np.array([1]))])
    x = g.node("Reshape", [g.node("MatMul", [weight, "tokens"]), g.constant(np.array([1, 8]))])
    g.linear(x, 8, 3, "logits")
    outputs = [("logits", T.FLOAT, [1, 3]), ("attention", T.FLOAT, [1, 3])]
    path = g.save("fusion", io, outputs, ["Gemm"])
    rng = np.random.default_rng(14)
    feeds = [sample(io, rng) | {"mask": np.array([m])} for m in ([True] * 3, [True, False, True], [False, True, False])]
    for feed in feeds:
        feed["age_s"] = np.abs(feed["age_s"])
    golden(path, io, 14, feeds)


def dq_softmax_q():
    """tract turns DQ -> Softmax -> Q into a lookup table, as if Softmax worked element by element."""
    g, io = Graph(5), [("x", T.FLOAT, [1, 6])]

    def pair(x, scale, zero, name=None):
        parameters = [g.constant(np.float32(scale)), g.constant(np.int8(zero))]
        return g.node("DequantizeLinear", [g.node("QuantizeLinear", [x, *parameters]), *parameters], [name] if name else None)

    pair(g.node("Softmax", [pair("x", 0.05, 3)], axis=-1), 1 / 255, -128, "y")
    golden(g.save("dq_softmax_q", io, [("y", T.FLOAT, [1, 6])]), io, 15)


def per_axis():
    """An activation quantized along an axis."""
    g, io = Graph(6), [("x", T.FLOAT, [1, 3, 4])]
    parameters = [g.constant(np.array([0.01, 0.02, 0.05], np.float32)), g.constant(np.array([0, 5, -7], np.int8))]
    q = g.node("QuantizeLinear", ["x", *parameters], axis=1)
    g.node("DequantizeLinear", [q, *parameters], ["y"], axis=1)
    golden(g.save("per_axis", io, [("y", T.FLOAT, [1, 3, 4])]), io, 16)


def gru():
    """Recurrence with initial_h, every output, and the reset gate before the product."""
    for name, after in (("gru_before", 0), ("gru_after", 1)):
        g = Graph(7)
        io = [("x", T.FLOAT, [5, 1, 4]), ("h0", T.FLOAT, [1, 1, 6])]
        w, r, b = (g.constant(g.weight(*s)) for s in ([1, 18, 4], [1, 18, 6], [1, 36]))
        g.node("GRU", ["x", w, r, b, "", "h0"], ["y", "y_h"], hidden_size=6, linear_before_reset=after)
        golden(g.save(name, io, [("y", T.FLOAT, [5, 1, 1, 6]), ("y_h", T.FLOAT, [1, 1, 6])]), io, 17)


def others():
    g = Graph(8)
    g.node("Add", ["x", "h_in"], ["y"])
    g.node("Identity", ["y"], ["h_out"])
    pair = lambda a, b: [(a, T.FLOAT, [1, 2]), (b, T.FLOAT, [1, 2])]
    g.save("running_sum", pair("x", "h_in"), pair("y", "h_out"))
    g = Graph(9)
    g.node("Log", ["x"], ["y"])
    g.save("log", [("x", T.FLOAT, [1, 4])], [("y", T.FLOAT, [1, 4])])
    g = Graph(10)
    g.node("Frobnicate", [g.node("Relu", ["x"])], ["y"], domain="example.custom")
    g.save("unknown_op", [("x", T.FLOAT, [1, 4])], [("y", T.FLOAT, [1, 4])])


def heads():
    """A detector of bright quarters, and the loudness of sound with what is left of the windows before."""
    g = Graph(11)
    bright = g.node("AveragePool", ["image"], kernel_shape=[8, 8], strides=[8, 8])
    score = g.node("Reshape", [bright, g.constant(np.array([1, 4, 1]))], ["score"])
    nothing = g.node("Mul", [score, g.constant(np.zeros((1, 1, 4), np.float32))])
    g.node("Add", [nothing, g.constant(np.array([[[0.5, 0.5, 0, 0]]], np.float32))], ["box"])
    outputs = [("score", T.FLOAT, [1, 4, 1]), ("box", T.FLOAT, [1, 4, 4])]
    g.save("spot", [("image", T.FLOAT, [1, 1, 16, 16])], outputs)

    g = Graph(12)
    level = g.node("ReduceMean", [g.node("Abs", ["x"])], axes=[1], keepdims=1)
    rate = g.node("Div", [g.node("Cast", ["sr"], to=T.FLOAT), g.constant(np.float32(16000))])
    old = g.node("Mul", ["h", g.constant(np.float32(0.5))])
    p = g.node("Add", [g.node("Mul", [level, rate]), old])
    g.node("Clip", [p, g.constant(np.float32(0)), g.constant(np.float32(1))], ["p"])
    g.node("Identity", ["p"], ["h_out"])
    inputs = [("x", T.FLOAT, ["batch", "samples"]), ("h", T.FLOAT, [1, 1]), ("sr", T.INT64, [])]
    g.save("loudness", inputs, [("p", T.FLOAT, [1, 1]), ("h_out", T.FLOAT, [1, 1])])


for make in (card, speech, request, fusion, dq_softmax_q, per_axis, gru, others, heads):
    make()
(HERE / "golden.json").write_text(json.dumps(GOLDEN, separators=(",", ":")).replace('],"', '],\n"') + "\n")
