"""What a recording costs and stands: `python benches/record.py target/release/attendant [--replays N] [--kills N] [--pairs N]`.

Records the kiosk's demo and then measures, side by side in one run: CPU time and decision latency with and without recording
(alternating, at full speed; what it costs to start, which hashes program and bundle, is measured with one typed line and taken off); replays, which must all give one event hash; kills at random moments (the seed is printed), after
which `info` must read what is left and `replay --verify` must agree with it. Where Python's `mcap` and `mcap-protobuf-support` are
installed (training/requirements.txt), they must read every message and decode the pictures and the sound.
"""

import argparse
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def run(*args, ok=(0,)):
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode not in ok:
        sys.exit(f"{' '.join(args)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def cpu_s(*args):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(*args)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, float(re.search(r"to decision p99 ([\d.]+) ms", done.stdout + done.stderr)[1])


def read_by_reference(path):
    try:
        from mcap.reader import make_reader
        from mcap_protobuf.decoder import DecoderFactory
    except ImportError as e:
        print(f"skipped: the reference reader is not installed ({e})")
        return
    with open(path, "rb") as f:
        reader = make_reader(f, decoder_factories=[DecoderFactory()])
        expected = reader.get_summary().statistics.message_count
        read = sum(1 for _ in reader.iter_messages())
        decoded = sum(len(m.data) > 0 for *_, m in reader.iter_decoded_messages(topics=["/camera", "/mic"]))
    print(f"reference reader: {read} of {expected} messages, {decoded} pictures and blocks of sound decoded")
    if read != expected or decoded == 0:
        sys.exit(1)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("program")
    args.add_argument("--replays", type=int, default=100)
    args.add_argument("--kills", type=int, default=50)
    args.add_argument("--pairs", type=int, default=9)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.mcap")
        line = os.path.join(folder, "line.txt")
        with open(line, "w") as f:
            f.write("x\n")
        short = ("--text", line, "--speed", "max")
        plain, recorded, starts = [], [], []
        for _ in range(args.pairs):
            plain.append(cpu_s(args.program, "run", "--speed", "max"))
            if os.path.exists(path):
                os.remove(path)
            recorded.append(cpu_s(args.program, "record", path, "--speed", "max"))
            empty = os.path.join(folder, "empty.mcap")
            starts.append((cpu_s(args.program, "run", *short)[0], cpu_s(args.program, "record", empty, *short)[0]))
            os.remove(empty)
        if args.pairs:
            cpu = [(r[0] - s[1]) / (p[0] - s[0]) for p, r, s in zip(plain, recorded, starts)]
            latency = [r[1] / max(p[1], 1e-9) for p, r in zip(plain, recorded)]
            print(f"decision p99 of the first pair: {plain[0][1]} ms plain, {recorded[0][1]} ms recorded")
            for what, ratios in (("CPU time", cpu), ("decision p99", latency)):
                print(f"{what}: recorded / plain median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}, n {len(ratios)}")
        else:
            run(args.program, "record", path, "--speed", "max")
        print(f"recording: {os.path.getsize(path)} bytes")
        read_by_reference(path)
        hashes, speeds = set(), []
        for _ in range(args.replays):
            began = time.monotonic()
            report = json.loads(run(args.program, "replay", "--verify", "--json", path).stdout)
            speeds.append(report["duration"] / 1e6 / (time.monotonic() - began))
            hashes.add(report["event_hash"])
        if args.replays:
            print(f"{args.replays} replays: {len(hashes)} event hash, {statistics.median(speeds):.1f} times real speed with start")
            if len(hashes) != 1:
                sys.exit(1)
        rng = random.Random(args.seed)
        calls = []
        for i in range(args.kills):
            cut = os.path.join(folder, f"cut{i}.mcap")
            child = subprocess.Popen([args.program, "record", cut], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(1.2, 6.0))
            child.kill()
            child.wait()
            info = json.loads(run(args.program, "info", "--json", cut).stdout)
            if info["cut"] is None:
                sys.exit(f"kill {i}: the recording has an end")
            if info["calls"]:
                run(args.program, "replay", "--verify", cut)
            calls.append(info["calls"])
            os.remove(cut)
        if args.kills:
            print(f"{args.kills} kills, seed {args.seed}: all readable and replayed, {min(calls)} to {max(calls)} calls")


main()
