#!/usr/bin/env python3
"""Rebuilds the kiosk bundle from the data: the one command of training.

    python training/train.py            # everything: card, speech, request, fusion, demo, report
    python training/train.py speech     # one stage and nothing else
    python training/train.py loso       # leave-one-speaker-out models and their figures (not part of the bundle)

Needs training/requirements.txt, espeak-ng, Debian's fonts, a Rust toolchain and the data folder (../shared/data or $ATTENDANT_DATA).
"""

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kiosk import common  # noqa: E402

STAGES = ("card", "speech", "request", "fusion", "demo", "report")
# The sources that decide what an encoder's stage makes. A stage that these sources have made already is kept, so that a run
# that was interrupted goes on where it was; an empty training/.cache makes everything anew.
SOURCES = {
    "card": ("card", "cards", "common"),
    "speech": ("speech", "voices", "speakers", "common"),
    "request": ("request", "sentence_teacher", "text_augment", "common"),
}


def build_binary():
    """Builds the binary whose `features` and `eval` the stages call, and points them to it."""
    if "ATTENDANT_BIN" in os.environ:
        return
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=common.REPO, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", common.REPO / "target"))
    os.environ["ATTENDANT_BIN"] = str(target / "release" / "attendant")


def stamp(name):
    """(path of the stage's stamp, what it has to say): the hash of the sources and of the model in the bundle."""
    folder = Path(__file__).resolve().parent / "kiosk"
    sources = b"".join((folder / f"{module}.py").read_bytes() for module in SOURCES[name])
    model = common.BUNDLE / f"{name}.int8.onnx"
    made = common.sha256(model) if model.exists() else None
    return common.cache("stages", f"{name}.json"), {"sources": hashlib.sha256(sources).hexdigest(), "model": made}


def kept(name):
    """The seconds that the stage took when these sources made the model that is in the bundle; None if they did not."""
    if name not in SOURCES:
        return None
    path, now = stamp(name)
    found = json.loads(path.read_text()) if path.exists() else {}
    return found.pop("seconds") if {**now, "seconds": found.get("seconds")} == found and found.get("seconds") else None


def run_stage(name):
    """One stage; its module's `main()` does the work and prints its figures. Returns its seconds."""
    seconds = kept(name)
    if seconds is not None:
        print(f"== {name}: kept, these sources made it in {seconds:.0f} s", flush=True)
        return seconds
    start = time.monotonic()
    print(f"== {name}", flush=True)
    sys.argv = [name]  # a stage reads its own arguments when it is run alone
    importlib.import_module(f"kiosk.{name}").main()
    seconds = time.monotonic() - start
    if name in SOURCES:
        path, now = stamp(name)
        common.write_json(path, now | {"seconds": seconds})
    print(f"== {name}: {seconds:.0f} s", flush=True)
    return seconds


def run_all():
    """Every stage. The card encoder trains beside speech and request: one process a core, as small models gain nothing from threads."""
    start = time.monotonic()
    log = common.cache("card.log")
    print(f"== card: beside the others, its output goes to {log}", flush=True)
    with log.open("w") as out:
        card = subprocess.Popen([sys.executable, __file__, "card"], stdout=out, stderr=subprocess.STDOUT)
    try:
        times = {name: run_stage(name) for name in ("speech", "request")}
        if card.wait() != 0:
            raise SystemExit(f"{log}: card ended with exit {card.returncode}:\n{log.read_text()[-2000:]}")
    finally:
        card.kill()
    times["card"] = run_stage("card")
    times["encoders"] = time.monotonic() - start
    times |= {name: run_stage(name) for name in STAGES[3:]}
    common.write_json(common.cache("times.json"), {k: round(v) for k, v in times.items()})
    print(f"== all: {time.monotonic() - start:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="*", choices=[*STAGES, "loso", []], help="stages to run; all but loso by default")
    stages = parser.parse_args().stage
    build_binary()
    if not stages:
        run_all()
    for name in stages:
        run_stage(name)


if __name__ == "__main__":
    main()
