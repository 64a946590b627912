#!/usr/bin/env python3
"""Rebuilds the kiosk bundle from the data: the one command of training.

    python training/train.py            # everything: card, speech, request, fusion, demo, report
    python training/train.py speech     # one stage and nothing else
    python training/train.py loso       # leave-one-speaker-out models and their figures (not part of the bundle)

Needs training/requirements.txt, espeak-ng, Debian's fonts, a Rust toolchain and the data folder (../shared/data or $ATTENDANT_DATA).
"""

import argparse
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kiosk import common  # noqa: E402

STAGES = ("card", "speech", "request", "fusion", "demo", "report")


def build_binary():
    """Builds the binary whose `features` and `eval` the stages call, and points them to it."""
    if "ATTENDANT_BIN" in os.environ:
        return
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=common.REPO, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", common.REPO / "target"))
    os.environ["ATTENDANT_BIN"] = str(target / "release" / "attendant")


def run_stage(name):
    """One stage; its module's `main()` does the work and prints its figures."""
    start = time.monotonic()
    print(f"== {name}", flush=True)
    importlib.import_module(f"kiosk.{name}").main()
    seconds = time.monotonic() - start
    print(f"== {name}: {seconds:.0f} s", flush=True)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="*", choices=[*STAGES, "loso", []], help="stages to run; all but loso by default")
    stages = parser.parse_args().stage or STAGES
    build_binary()
    times = {name: run_stage(name) for name in stages}
    if tuple(stages) == STAGES:
        common.write_json(common.cache("times.json"), {k: round(v) for k, v in times.items()})
    print(f"== all: {sum(times.values()):.0f} s")


if __name__ == "__main__":
    main()
