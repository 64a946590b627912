"""What every training module shares: paths, seeds, the tensors of the Rust preprocessing, ONNX export, int8 quantization,
calibration of probabilities.

Called by the encoder modules, `fusion` and `train.py`. It knows no model and no data set.
"""

import hashlib
import json
import os
import random
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

REPO = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("ATTENDANT_DATA", REPO.parent / "shared" / "data")).resolve()
CACHE = REPO / "training" / ".cache"
BUNDLE = REPO / "models" / "kiosk"
LABELS = [f"desk_{k}" for k in range(10)] + ["none"]
NONE = 10
EMBEDDING_LEN = 64
OPSET = 17


def data(*parts):
    """A path below the data folder; names the folder and the remedy when it is missing."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there; expected the training data (see training/README.md), or set ATTENDANT_DATA to its folder")
    return path


def cache(*parts):
    """A path below the cache folder, whose parent exists."""
    path = CACHE.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def seed_all(seed, threads=None):
    """Seeds Python, numpy's legacy state and torch, limits torch's threads, and returns a numpy Generator.

    One thread unless ATTENDANT_TRAIN_THREADS says otherwise: these models are small, and threads that wait for each other on a
    busy machine make a step ten times slower. Run two trainings side by side instead.
    """
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    threads = threads or int(os.environ.get("ATTENDANT_TRAIN_THREADS", "1"))
    torch.set_num_threads(threads)
    return np.random.default_rng(seed)


def bf16_is_native():
    """Whether this CPU multiplies bfloat16 itself. Where it does not, torch emulates it ten times slower than f32."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def save_npz(path, **arrays):
    """`numpy.savez` that leaves no half-written file behind when it is interrupted."""
    part = Path(path).with_suffix(f".part{os.getpid()}.npz")
    np.savez(part, **arrays)
    part.replace(path)


def write_json(path, value):
    """Writes `value` as indented JSON with sorted keys; creates the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


# --- tensors of the Rust preprocessing ---------------------------------------------------------------------------------


def attendant(*args):
    """The command that runs the binary: $ATTENDANT_BIN, or `cargo run --release`."""
    binary = os.environ.get("ATTENDANT_BIN")
    head = [binary] if binary else ["cargo", "run", "--release", "--quiet", "--"]
    return head + [str(a) for a in args]


def features(encoder, *inputs, hop_ms=None, bundle=BUNDLE):
    """The tensors that `encoder` of `bundle` would get at run time, one row per window, frame, line or JSONL row.

    Inputs: `.wav` -> every window (`hop_ms` overrides the manifest's hop), `.y4m` -> every frame, `.txt` -> every line,
    `.jsonl` rows {"image", "audio", "text"} -> one tensor a row. Several inputs are concatenated. The preprocessing is the
    runtime's own, so that training and running cannot drift apart.
    """
    rows = []
    for source in inputs:
        handle, out = tempfile.mkstemp(suffix=".npy", dir=cache("features", "x").parent)
        os.close(handle)
        try:
            command = attendant("features", "--bundle", bundle, "--encoder", encoder, Path(source).resolve(), "--out", out)
            if hop_ms is not None:
                command += ["--hop-ms", str(hop_ms)]
            done = subprocess.run(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
            rows.append(np.load(out))
        finally:
            os.unlink(out)
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


# --- ONNX --------------------------------------------------------------------------------------------------------------


def export_onnx(module, example, path, inputs, outputs):
    """Exports `module` in eval mode with the fixed shapes of `example` (a tensor or a tuple), opset 17, and checks the file.

    Batch normalization after a convolution is folded into it by the exporter. Returns the path.
    """
    import torch

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    example = example if isinstance(example, tuple) else (example,)
    module = module.eval()
    with torch.no_grad():
        torch.onnx.export(module, example, str(path), input_names=inputs, output_names=outputs, opset_version=OPSET,
                          dynamo=False, do_constant_folding=True)
        expected = module(*example)
    model = onnx.load(path)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    inputs_to_initializers(model)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    expected = expected if isinstance(expected, (tuple, list)) else (expected,)
    got = onnx_run(path, {n: t.numpy()[None] for n, t in zip(inputs, example)})
    for name, want in zip(outputs, expected):
        diff = float(np.abs(got[name][0] - want.numpy()).max())
        if not diff < 1e-3:
            raise RuntimeError(f"{path}: output {name} differs from torch by {diff:.4g}, expected below 0.001")
    return path


def inputs_to_initializers(model):
    """Turns `Constant` nodes into initializers, so that quantization finds every weight in one place."""
    keep = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        elif node.op_type == "Identity" and any(i.name == node.input[0] for i in model.graph.initializer):
            # The exporter aliases equal constants; a copy keeps the graph plain.
            tensor = TensorProto()
            tensor.CopyFrom(next(i for i in model.graph.initializer if i.name == node.input[0]))
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        else:
            keep.append(node)
    del model.graph.node[:]
    model.graph.node.extend(keep)
    return model


def session(model):
    """An onnxruntime session on one thread; `model` is a path or a ModelProto."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # As ONNX defines it, and as the runtime computes it: onnxruntime's own int8 kernels saturate in 16 bits where the CPU has no VNNI.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnx_run(model, arrays, outputs=None):
    """Runs a batch-1 model over rows: `arrays` maps an input to `[n, 1, ...]` (or `[n, ...]` without the batch dimension).

    Returns a map from each output to an array `[n, 1, ...]`.
    """
    run = session(model)
    rank = {i.name: len(i.shape) for i in run.get_inputs()}
    fed = {k: (a if a.ndim == rank[k] + 1 else a[:, None]) for k, a in arrays.items() if k in rank}
    names = outputs or [o.name for o in run.get_outputs()]
    rows = [run.run(names, {k: a[i] for k, a in fed.items()}) for i in range(len(next(iter(fed.values()))))]
    return {name: np.stack([r[j] for r in rows]) for j, name in enumerate(names)}


def onnx_logits(path, arrays, output="logits"):
    """The named output over all rows as `[n, classes]`. `arrays` as in [`onnx_run`], or one array for a single input."""
    if not isinstance(arrays, dict):
        arrays = {session(path).get_inputs()[0].name: arrays}
    return onnx_run(path, arrays, [output])[output].reshape(len(next(iter(arrays.values()))), -1)


# --- int8 --------------------------------------------------------------------------------------------------------------


def quantize_static(f32_path, int8_path, calibration, activations="u8", ops=("Conv", "Gemm", "MatMul"), gather=True, gru=True,
                    exclude=(), bias_int32=True):
    """Static QDQ quantization of `f32_path` into `int8_path`.

    Weights: int8, symmetric, one scale per output channel, stored as int8 initializers. Activations: per tensor, `u8` or
    `s8`, asymmetric, a Q/DQ pair on the *input* of each quantized operator only, so that Conv -> Relu -> Q reads as one integer
    island, and everything between islands (Softmax, LayerNorm, GELU, recurrence) stays f32. The range of an activation is
    the one with the least mean squared error over the calibration rows. Biases: int32 with scale = input scale x weight scale.
    `gather` stores lookup tables as int8 (one scale per column), `gru` the weights of a GRU (one scale per row); both are
    dequantized where they are used. `exclude` lists node names that stay f32. `calibration` is as `arrays` of [`onnx_run`]. Returns the path.
    """
    model = inputs_to_initializers(onnx.load(f32_path))
    weights = {i.name: i for i in model.graph.initializer}
    chosen = [n for n in model.graph.node if n.op_type in ops and n.name not in exclude and n.input[1] in weights]
    ranges = activation_ranges(model, sorted({n.input[0] for n in chosen}), calibration)
    new = Rewrite(model)
    levels = {"u8": (0, 255, np.uint8), "s8": (-128, 127, np.int8)}[activations]
    for node in model.graph.node:
        if any(node is c for c in chosen):
            axis = channel_axis(node)
            x, x_scale = new.quantized_activation(node.input[0], ranges[node.input[0]], levels)
            w, w_scale = new.quantized_weight(node.input[1], axis)
            fed = [x, w]
            if len(node.input) > 2 and node.input[2]:
                fed.append(new.quantized_bias(node.input[2], x_scale * w_scale) if bias_int32 and node.input[2] in weights else node.input[2])
            new.copy(node, fed)
        elif node.op_type == "Gather" and gather and node.input[0] in weights and len(weights[node.input[0]].dims) == 2 \
                and weights[node.input[0]].data_type == TensorProto.FLOAT:
            new.copy(node, [new.quantized_weight(node.input[0], 1)[0], node.input[1]])
        elif node.op_type == "GRU" and gru:
            new.copy(node, [node.input[0], new.quantized_weight(node.input[1], 1)[0], new.quantized_weight(node.input[2], 1)[0], *node.input[3:]])
        else:
            new.copy(node, list(node.input))
    quantized = new.finish()
    onnx.checker.check_model(quantized)
    Path(int8_path).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(quantized, int8_path)
    return Path(int8_path)


def channel_axis(node):
    """The axis of the weight of `node` that holds its output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return -1


def activation_ranges(model, names, calibration, values_max=200_000):
    """For each tensor the range (low <= 0 <= high) that 8 bits cover with the least squared error over the calibration rows."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    inputs = {i.name for i in model.graph.input}
    del probe.graph.output[:]
    inner = [n for n in names if n not in inputs]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in inner)
    run = session(probe) if inner else None
    rank = {i.name: len(i.type.tensor_type.shape.dim) for i in model.graph.input}
    fed = {k: (a if a.ndim == rank[k] + 1 else a[:, None]) for k, a in calibration.items()}
    rng = np.random.default_rng(0)
    count = len(next(iter(fed.values())))
    per_row = max(64, values_max // count)
    kept = {n: [] for n in names}
    for i in range(count):
        row = {k: a[i] for k, a in fed.items()}
        got = dict(zip(inner, run.run(inner, row))) if run else {}
        for n in names:
            v = np.asarray(got.get(n, row.get(n)), np.float32).ravel()
            # The extremes always, the rest by sampling.
            kept[n].append(np.concatenate([[v.min(), v.max()], v if v.size <= per_row else rng.choice(v, per_row)]))
    return {n: best_range(np.concatenate(v)) for n, v in kept.items()}


def best_range(values):
    """The (low, high) among shrunk min/max ranges whose 255 steps give the least squared error."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 1e-6)
    best = (np.inf, low, high)
    for a in np.linspace(1.0, 0.3, 15):
        for lo, hi in {(low * a, high), (low, high * a), (low * a, high * a)}:
            scale = max(hi - lo, 1e-8) / 255
            error = float(np.mean((np.clip(np.round(values / scale), np.round(lo / scale), np.round(hi / scale)) * scale - values) ** 2))
            if error < best[0]:
                best = (error, lo, hi)
    return best[1:]


class Rewrite:
    """A graph being copied node by node, with quantized tensors made once and shared."""

    def __init__(self, model):
        self.model = model
        self.nodes = []
        self.initializers = {i.name: i for i in model.graph.initializer}
        self.made = {}

    def add(self, name, value):
        """A new initializer."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def dequantize(self, quantized, scale, zero, out, axis=None):
        """Appends a DequantizeLinear and returns its output."""
        extra = {} if axis is None else {"axis": axis}
        self.nodes.append(helper.make_node("DequantizeLinear", [quantized, scale, zero], [out], name=out, **extra))
        return out

    def quantized_activation(self, name, limits, levels):
        """A Q/DQ pair behind the activation; (name, scale)."""
        low_level, high_level, dtype = levels
        if name not in self.made:
            low, high = limits
            scale = np.float32(max(high - low, 1e-8) / (high_level - low_level))
            zero = dtype(np.clip(round(low_level - low / float(scale)), low_level, high_level))
            s, z = self.add(f"{name}_scale", scale), self.add(f"{name}_zero_point", zero)
            self.nodes.append(helper.make_node("QuantizeLinear", [name, s, z], [f"{name}_q"], name=f"{name}_q"))
            self.made[name] = (self.dequantize(f"{name}_q", s, z, f"{name}_dq"), scale)
        return self.made[name]

    def quantized_weight(self, name, axis):
        """The weight as int8 with one scale per entry of `axis`; (name, scales)."""
        key = (name, axis)
        if key not in self.made:
            w = numpy_helper.to_array(self.initializers[name]).astype(np.float32)
            axis = axis % w.ndim
            others = tuple(i for i in range(w.ndim) if i != axis)
            scale = np.maximum(np.abs(w).max(axis=others), 1e-8).astype(np.float32) / np.float32(127)
            spread = scale.reshape([-1 if i == axis else 1 for i in range(w.ndim)])
            q = self.add(f"{name}_int8", np.clip(np.round(w / spread), -127, 127).astype(np.int8))
            s, z = self.add(f"{name}_scale", scale), self.add(f"{name}_zero_point", np.zeros(len(scale), np.int8))
            self.made[key] = (self.dequantize(q, s, z, f"{name}_dq", axis), scale)
        return self.made[key]

    def quantized_bias(self, name, scale):
        """The bias as int32 in units of `scale` (one per channel)."""
        key = (name, scale.tobytes())
        if key not in self.made:
            b = numpy_helper.to_array(self.initializers[name]).astype(np.float64)
            scale = np.broadcast_to(scale, b.shape).astype(np.float32)
            stem = f"{name}_{len(self.made)}"
            q = self.add(f"{stem}_int32", np.clip(np.round(b / scale), -(2**31) + 1, 2**31 - 1).astype(np.int32))
            s, z = self.add(f"{stem}_scale", scale), self.add(f"{stem}_zero_point", np.zeros(len(scale), np.int32))
            self.made[key] = self.dequantize(q, s, z, f"{stem}_dq", 0)
        return self.made[key]

    def copy(self, node, inputs):
        """Appends `node` with other inputs."""
        fresh = onnx.NodeProto()
        fresh.CopyFrom(node)
        del fresh.input[:]
        fresh.input.extend(inputs)
        self.nodes.append(fresh)

    def finish(self):
        """The model, without initializers that nothing reads."""
        used = {i for n in self.nodes for i in n.input} | {o.name for o in self.model.graph.output}
        graph = helper.make_graph(self.nodes, self.model.graph.name, self.model.graph.input, self.model.graph.output,
                                  [v for k, v in self.initializers.items() if k in used])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="attendant training")
        model.ir_version = min(self.model.ir_version, 8)
        return onnx.shape_inference.infer_shapes(model)


def accuracy_lost(f32_path, int8_path, arrays, labels, output="logits"):
    """(accuracy of f32, accuracy of int8, points lost), in percent."""
    labels = np.asarray(labels)
    a, b = (100 * float(np.mean(onnx_logits(p, arrays, output).argmax(1) == labels)) for p in (f32_path, int8_path))
    return a, b, a - b


def sha256(path):
    """Hex digest of a file, for the report."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- probabilities -----------------------------------------------------------------------------------------------------


def softmax(logits, temperature=1.0):
    """Row-wise softmax of `logits / temperature`."""
    z = np.asarray(logits, np.float64) / temperature
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def fit_temperature(logits, labels):
    """The temperature that minimizes cross-entropy on held-out rows (Guo et al. 2017), by golden-section search on its logarithm."""
    from scipy.optimize import minimize_scalar

    labels = np.asarray(labels)

    def loss(log_t):
        return -np.log(softmax(logits, np.exp(log_t))[np.arange(len(labels)), labels] + 1e-12).mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-2.5, 2.5), method="bounded").x))


def ece(probabilities, labels, bins=15):
    """Expected calibration error of the top class with equal-width bins (Guo et al. 2017), in percent."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == np.asarray(labels)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    total = sum(abs(right[index == b].mean() - confidence[index == b].mean()) * (index == b).sum() for b in range(bins) if (index == b).any())
    return 100 * float(total) / len(confidence)
