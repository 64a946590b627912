"""Compares the outputs of `attendant infer` and onnxruntime on the same files.

    python agree.py [--bin PATH] [--seeds N] MODEL.onnx..      files that are there
    python agree.py [--bin PATH] --networks DIR [NAME..]       those of networks.py, made in DIR where absent

Inputs are normal noise of fixed seeds. An int8 output may differ by one quantization step (that of the `DequantizeLinear`
it comes from) and must have its largest value at the same place, unless onnxruntime's two largest are within a step of one
another; an f32 output by 1e-4 of its largest magnitude (of 0.1 where that is smaller); the output of a dynamically quantized model
by 1/127 of it. onnxruntime runs each file with and without its optimizations, which differ from one another by more than
a step in deep networks; the nearer one counts, and both are printed.
Exits with 1 if any file disagrees. Needs onnx, onnxruntime and numpy.
"""
import argparse
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

import networks

DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger"}


def step(model, output):
    """The quantization step of an output, or None if it is f32."""
    makers = {o: n for n in model.graph.node for o in n.output}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    node = makers.get(output)
    while node is not None and node.op_type in {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"}:
        node = makers.get(node.input[0])
    if node is not None and node.op_type == "DequantizeLinear":
        return float(np.max(constants[node.input[1]]))
    return None


def tolerance(model, output, expected):
    if (size := step(model, output)) is not None:
        return size * 1.001, "steps", size
    largest = max(float(np.max(np.abs(expected))), 0.1)
    if any(n.op_type in DYNAMIC for n in model.graph.node):
        return largest / 127, "1/127 of the largest", largest / 127
    return largest * 1e-4, "1e-4 of the largest", largest * 1e-4


def inputs_of(model, seed):
    constants = {t.name for t in model.graph.initializer}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = [d.dim_value or 1 for d in tensor.shape.dim]
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            raise SystemExit(f"input {value.name} is no f32: give it to attendant and onnxruntime by hand")
        yield value.name, networks.sample(shape, seed)


def sessions(path):
    """onnxruntime with and without its graph optimizations: which nodes it runs in integers depends on them.

    Its u8 x s8 products saturate at 16 bits on x86 without VNNI; the option asks for those that do not, where it has them.
    """
    for level in (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL):
        for exact in ("1", "0"):
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.graph_optimization_level = level
            options.add_session_config_entry("session.x64quantprecision", exact)
            try:
                yield ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                break
            except Exception:  # noqa: BLE001  a kernel is missing in one mode or the other
                continue


def judge(model, name, found, expected):
    """Whether an output agrees, how far apart it is in units of what is allowed, and in words."""
    allowed, unit, size = tolerance(model, name, expected)
    if found.shape != expected.shape:
        return False, float("inf"), f"{name}: shape {found.shape}, onnxruntime {expected.shape}"
    distance = float(np.max(np.abs(found.astype(np.float64) - expected))) if expected.size else 0.0
    first, second = np.sort(expected.ravel())[::-1][:2] if expected.size > 1 else (0.0, -np.inf)
    same = np.argmax(found) == np.argmax(expected) or first - second <= allowed
    words = f"{name}: {distance / size:.3f} {unit}" + ("" if same else ", another maximum")
    return distance <= allowed and bool(same), distance / size, words


def compare(binary, path, seed):
    """One line for each output: agreement and how far apart, with the nearer of onnxruntime's two ways to run it."""
    model = onnx.load(path)
    given = dict(inputs_of(model, seed))
    runs = [(s.get_outputs(), s.run(None, given)) for s in sessions(path)]
    if not runs:
        return [(True, 0.0, "onnxruntime cannot run it")]
    with tempfile.TemporaryDirectory() as directory:
        command = [binary, "infer", str(path), "--out", directory]
        for i, values in enumerate(given.values()):
            np.save(f"{directory}/in{i}.npy", values)
            command += ["--input", f"{directory}/in{i}.npy"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            return [(False, float("inf"), ran.stderr.strip())]
        found = [np.load(f"{directory}/{i}.npy") for i in range(len(runs[0][0]))]
    lines = []
    for i, y in enumerate(found):
        judged = [judge(model, outputs[i].name, y, expected[i]) for outputs, expected in runs]
        ok, distance, words = min(judged, key=lambda j: (not j[0], j[1]))
        if len(runs) > 1 and judged[0][1] != judged[1][1]:
            own = judge(model, runs[0][0][i].name, runs[0][1][i], runs[1][1][i])
            words += f" (onnxruntime, optimized or not: {own[1]:.3f})"
        lines.append((ok, distance, words))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/release/attendant")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=Path)
    parser.add_argument("--forms", nargs="*", default=networks.FORMS)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    paths = [Path(p) for p in args.names]
    if args.networks:
        logging.disable(logging.WARNING)
        args.networks.mkdir(parents=True, exist_ok=True)
        paths = []
        for name in args.names or networks.NETWORKS:
            forms = [None, *args.forms]
            files = [args.networks / (f"{name}.onnx" if f is None else f"{name}.{f}.onnx") for f in forms]
            if not all(f.exists() for f in files):
                networks.make(args.networks, name, args.forms)
            paths += files
    failed = 0
    for path in paths:
        lines = [line for seed in range(args.seeds) for line in compare(args.bin, path, 100 + seed)]
        bad = [words for ok, _, words in lines if not ok]
        failed += bool(bad)
        worst = max(lines, key=lambda line: (not line[0], line[1]))[2]
        print(f"{'agrees ' if not bad else 'DIFFERS'} {path.name:24} {worst}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
