"""The models of models.py: seven usual edge architectures with seeded random weights, as f32 ONNX and as static int8.

Speed depends on shapes, not on weights. The first four are those of MLPerf Tiny (keyword spotting, visual wake words,
image classification, anomaly detection), then MobileNetV2 at 224 x 224, an attention fusion of 48 tokens and a small
vision transformer. Quantization is onnxruntime's: QDQ, per-channel weights, u8 activations (the faster choice there).
"""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """An ONNX graph in the making; every method adds nodes and returns the name of their result."""

    def __init__(self, shape, seed=0):
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.nodes = []
        self.weights = []

    def constant(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, kind, *inputs, **attributes):
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def random(self, *shape, gain=1.0):
        fan_in = int(np.prod(shape[1:]))
        return self.constant((self.rng.standard_normal(shape) * gain * (2 / fan_in) ** 0.5).astype(np.float32))

    def conv(self, x, inputs, outputs, kernel, stride=1, groups=1, act="relu"):
        """SAME for odd kernels. `act`: relu, relu6 or None."""
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        stride = (stride, stride) if isinstance(stride, int) else stride
        weight = self.random(outputs, inputs // groups, *kernel)
        bias = self.constant((self.rng.standard_normal(outputs) * 0.1).astype(np.float32))
        pads = [k // 2 for k in kernel] + [(k - 1) // 2 for k in kernel]
        x = self.op("Conv", x, weight, bias, kernel_shape=kernel, strides=stride, group=groups, pads=pads)
        if act == "relu":
            return self.op("Relu", x)
        if act == "relu6":
            return self.op("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))
        return x

    def dense(self, x, inputs, outputs, act=None):
        bias = self.constant((self.rng.standard_normal(outputs) * 0.1).astype(np.float32))
        x = self.op("Gemm", x, self.random(outputs, inputs), bias, transB=1)
        return self.op("Relu", x) if act else x

    def head(self, x, inputs, outputs):
        return self.dense(self.op("Flatten", self.op("GlobalAveragePool", x)), inputs, outputs)

    def linear(self, x, inputs, outputs):
        weight = self.constant((self.rng.standard_normal((inputs, outputs)) / inputs**0.5).astype(np.float32))
        return self.op("Add", self.op("MatMul", x, weight), self.constant(np.zeros(outputs, np.float32)))

    def norm(self, x, width):
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return self.op("LayerNormalization", x, self.constant(ones), self.constant(zeros), axis=-1, epsilon=1e-5)

    def transformer(self, x, width, heads, tokens):
        """A pre-norm block: attention, then an MLP four times as wide with GELU."""
        each = width // heads
        split = self.constant(np.array([1, tokens, heads, each], np.int64))
        joined = self.constant(np.array([1, tokens, width], np.int64))
        normed = self.norm(x, width)
        query, key, value = (self.op("Reshape", self.linear(normed, width, width), split) for _ in range(3))
        query = self.op("Transpose", query, perm=[0, 2, 1, 3])
        key = self.op("Transpose", key, perm=[0, 2, 3, 1])
        value = self.op("Transpose", value, perm=[0, 2, 1, 3])
        scores = self.op("Mul", self.op("MatMul", query, key), self.constant(np.float32(each**-0.5)))
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        mixed = self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        x = self.op("Add", x, self.linear(mixed, width, width))
        hidden = self.linear(self.norm(x, width), width, 4 * width)
        half = self.op("Erf", self.op("Mul", hidden, self.constant(np.float32(0.5**0.5))))
        gelu = self.op("Mul", self.op("Mul", hidden, self.constant(np.float32(0.5))), self.op("Add", half, self.constant(np.float32(1))))
        return self.op("Add", x, self.linear(gelu, 4 * width, width))

    def save(self, path, output):
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shape)]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model), str(path))


def dscnn(g):
    x = g.conv("input", 1, 64, (10, 4), stride=(2, 2))
    for _ in range(4):
        x = g.conv(g.conv(x, 64, 64, 3, groups=64), 64, 64, 1)
    return g.head(x, 64, 12)


def vww(g):
    x, width = g.conv("input", 3, 8, 3, stride=2), 8
    for outputs, stride in [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]:
        x = g.conv(g.conv(x, width, width, 3, stride=stride, groups=width), width, outputs, 1)
        width = outputs
    return g.head(x, width, 2)


def resnet8(g):
    x, width = g.conv("input", 3, 16, 3), 16
    for outputs, stride in [(16, 1), (32, 2), (64, 2)]:
        y = g.conv(g.conv(x, width, outputs, 3, stride=stride), outputs, outputs, 3, act=None)
        shortcut = x if stride == 1 else g.conv(x, width, outputs, 1, stride=stride, act=None)
        x, width = g.op("Relu", g.op("Add", y, shortcut)), outputs
    return g.head(x, width, 10)


def autoencoder(g):
    x, width = "input", 640
    for outputs in [128] * 4 + [8] + [128] * 4:
        x, width = g.dense(x, width, outputs, act="relu"), outputs
    return g.dense(x, width, 640)


def mobilenet_v2(g):
    x, width = g.conv("input", 3, 32, 3, stride=2, act="relu6"), 32
    for expand, outputs, count, first in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ]:
        for stride in [first] + [1] * (count - 1):
            wide = width * expand
            y = g.conv(x, width, wide, 1, act="relu6") if expand > 1 else x
            y = g.conv(y, wide, wide, 3, stride=stride, groups=wide, act="relu6")
            y = g.conv(y, wide, outputs, 1, act=None)
            x = g.op("Add", x, y) if stride == 1 and width == outputs else y
            width = outputs
    return g.head(g.conv(x, width, 1280, 1, act="relu6"), 1280, 1000)


def fusion(g):
    x = "input"
    for _ in range(2):
        x = g.transformer(x, 192, 4, 48)
    return g.linear(g.op("ReduceMean", g.norm(x, 192), axes=[1], keepdims=0), 192, 10)


def vit(g):
    # 64 patches of 8 x 8 pixels in three colours.
    x = g.linear("input", 192, 192)
    for _ in range(6):
        x = g.transformer(x, 192, 3, 64)
    return g.linear(g.op("ReduceMean", g.norm(x, 192), axes=[1], keepdims=0), 192, 1000)


MODELS = {
    "dscnn": (dscnn, [1, 1, 49, 10]),
    "vww": (vww, [1, 3, 96, 96]),
    "resnet8": (resnet8, [1, 3, 32, 32]),
    "autoencoder": (autoencoder, [1, 640]),
    "mobilenet_v2": (mobilenet_v2, [1, 3, 224, 224]),
    "fusion": (fusion, [1, 48, 192]),
    "vit": (vit, [1, 64, 192]),
}


def make(folder, names):
    """Writes NAME.f32.onnx and NAME.int8.onnx of each name into `folder`, unless they are there."""
    from onnxruntime import quantization

    for name in names:
        build, shape = MODELS[name]
        plain, small = folder / f"{name}.f32.onnx", folder / f"{name}.int8.onnx"
        if plain.exists() and small.exists():
            continue
        graph = Graph(shape)
        graph.save(plain, build(graph))

        class Reader(quantization.CalibrationDataReader):
            def __init__(self):
                rng = np.random.default_rng(1)
                self.rows = iter([{"input": rng.standard_normal(shape).astype(np.float32)} for _ in range(8)])

            def get_next(self):
                return next(self.rows, None)

        quantization.quantize_static(
            str(plain), str(small), Reader(), per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        )
