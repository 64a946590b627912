#!/usr/bin/env python3
"""Model by model: Attendant, onnxruntime and (where there is a .tflite) LiteRT, in turn in one run, one thread each.

    cargo build --release
    pip install numpy onnx onnxruntime [ai-edge-litert] [matplotlib]
    python benches/peers/models.py [MODEL ...] [--folder DIR] [--rounds 10] [--plot ratios.png]

Without --folder, networks.py makes its networks in target/networks: f32, and QDQ with u8 activations, the form that is fastest in
onnxruntime. With it, every NAME.onnx of the folder is taken. A NAME.tflite beside a NAME.onnx is LiteRT's (MLPerf Tiny publishes the
first four). Prints medians in microseconds and the ratios of medians, Attendant over the other: below 1 Attendant is faster.
Machines are noisy: only numbers of one run compare.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import onnxruntime

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import networks  # noqa: E402

FORM = "qdq.u8"
ROOT = pathlib.Path(__file__).resolve().parents[2]
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


class Attendant:
    """`attendant bench MODEL --serve`; its inputs are made up, of the shapes that the file declares."""

    def __init__(self, binary, model):
        command = [str(binary), "bench", str(model), "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def times(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"attendant ended with code {self.process.wait()}")
        return json.loads(line)["run_ns"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Local:
    """An engine of this process: `run` is timed."""

    def times(self, count):
        times = []
        for _ in range(count):
            start = time.perf_counter_ns()
            self.run()
            times.append(time.perf_counter_ns() - start)
        return times

    def close(self):
        pass


class OnnxRuntime(Local):
    def __init__(self, model):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        feed = {}
        for info in session.get_inputs():
            shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
            kind = TYPES[info.type]
            feed[info.name] = (rng.uniform(-1, 1, shape) if kind == np.float32 else np.ones(shape)).astype(kind)
        self.run = lambda: session.run(None, feed)


class LiteRt(Local):
    def __init__(self, model):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(model), num_threads=1)
        interpreter.allocate_tensors()
        for info in interpreter.get_input_details():
            interpreter.set_tensor(info["index"], np.ones(info["shape"], info["dtype"]))
        self.run = interpreter.invoke


def measure(engines, rounds):
    """Median nanoseconds by engine, all in turn, about 50 ms each a round."""
    counts = {}
    for name, engine in engines.items():
        engine.times(2)
        counts[name] = max(3, min(500, int(50e6 / min(engine.times(3)))))
    all_times = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            all_times[name] += engine.times(counts[name])
    return {name: statistics.median(times) for name, times in all_times.items()}


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    peers = sorted({peer for row in rows for peer in row["ratios"]})
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(rows) + 1.5), layout="constrained")
    height = 0.8 / max(1, len(peers))
    for k, peer in enumerate(peers):
        have = [(i, row["ratios"][peer]) for i, row in enumerate(rows) if peer in row["ratios"]]
        axes.barh([i + k * height for i, _ in have], [ratio for _, ratio in have], height, label=f"over {peer}")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [row["model"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time of Attendant over that of the peer (below 1: Attendant is faster)")
    axes.legend()
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names, without .onnx; all if none")
    parser.add_argument("--folder", type=pathlib.Path, help="take NAME.onnx and NAME.tflite from here")
    parser.add_argument("--attendant", type=pathlib.Path, default=ROOT / "target/release/attendant")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here")
    parser.add_argument("--plot", type=pathlib.Path, help="draw the ratios here, .png or .svg (needs matplotlib)")
    args = parser.parse_args()

    folder = args.folder
    if folder is None:
        folder = ROOT / "target/networks"
        folder.mkdir(parents=True, exist_ok=True)
        stems = {name.split(".")[0] for name in args.models} or set(networks.NETWORKS)
        for name in (name for name in networks.NETWORKS if name in stems):
            if not (folder / f"{name}.{FORM}.onnx").exists():
                networks.make(folder, name, [FORM])
    paths = [p for p in sorted(folder.glob("*.onnx")) if not args.models or any(p.name.startswith(m) for m in args.models)]
    if not paths:
        sys.exit(f"{folder}: no NAME.onnx to measure")

    rows = []
    for path in paths:
        engines = {"attendant": Attendant(args.attendant, path), "onnxruntime": OnnxRuntime(path)}
        tflite = path.with_suffix(".tflite")
        if tflite.exists():
            engines["litert"] = LiteRt(tflite)
        try:
            medians = measure(engines, args.rounds)
        except RuntimeError as error:
            print(f"{path.stem}: {error}", file=sys.stderr)
            continue
        finally:
            for engine in engines.values():
                engine.close()
        ours = medians["attendant"]
        ratios = {name: ours / t for name, t in medians.items() if name != "attendant"}
        rows.append({"model": path.stem, "median_us": {n: t / 1000 for n, t in medians.items()}, "ratios": ratios})
        columns = [f"{name} {t / 1000:10.1f} us" for name, t in medians.items()]
        columns += [f"{ratio:5.2f}x {name}" for name, ratio in ratios.items()]
        print(f"{path.stem:24}", "  ".join(columns), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
