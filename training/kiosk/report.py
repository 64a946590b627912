"""Measures the bundle through `attendant eval` and writes models/kiosk/REPORT.md and report.json.

Called by train.py last. No figure here comes from anywhere but the runtime: every accuracy is what `attendant eval` prints for the int8
bundle, and beside it for the same models before quantization (`training/.cache/f32`).
"""

import json
import shutil
import subprocess

from . import common, evalsets

MODELS = ("card", "speech", "request", "fusion")
LOSO = common.CACHE / "loso"


def evaluate(bundle, rows):
    """What `attendant eval` says of `rows`, as a dict."""
    command = common.attendant("eval", "--bundle", bundle, "--json", rows)
    done = subprocess.run(command, cwd=common.REPO, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    if rows.suffix == ".mcap":
        result["stream"] = result["recordings"][0]["stream"]
    result["file"] = f"{rows.parent.name}/{rows.name}"
    return result


def twins():
    """The models before quantization that are in the cache, by name."""
    return {name: path for name in MODELS if (path := common.CACHE / f"{name}.f32.onnx").exists()}


def f32_bundle():
    """The bundle with the models as they were before quantization, where [`twins`] has them; None if it has none."""
    if not twins():
        return None
    folder = common.cache("f32", "x").parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in common.BUNDLE.iterdir():
        if path.suffix in (".txt", ".json", ".toml", ".mcap", ".onnx"):
            shutil.copy(path, folder / path.name)
    manifest = (folder / "bundle.toml").read_text()
    for name, path in twins().items():
        shutil.copy(path, folder / f"{name}.f32.onnx")
        manifest = manifest.replace(f"{name}.int8.onnx", f"{name}.f32.onnx")
    (folder / "bundle.toml").write_text(manifest)
    return folder


def share(result):
    """A share as percent with its 95 % interval (Wilson)."""
    return f"{100 * result['rate']:.2f} % ({100 * result['low']:.1f}-{100 * result['high']:.1f}, n {result['of']})"


def percent(x):
    return f"{100 * x:.2f} %"


def alone(result, name):
    """The share of rows that encoder `name` got right by itself."""
    return result["alone"][name]


def subset(result, *names):
    """The fused share when only `names` take part."""
    want = sorted(names)
    return next(a["accuracy"] for a in result["ablations"] if sorted(a["modalities"]) == want)


def rows_of(int8, f32):
    """(row, bar in percent, pick) of the table of accuracies; `pick` finds the share in a set of results."""
    return [
        ("card: MNIST test5k", 99.0, lambda r: alone(r["mnist"], "card")),
        ("card: rendered camera frames, 11 classes", 97.0, lambda r: alone(r["cards"], "card")),
        ("speech: FSDD index 0-4, clean", 99.5, lambda r: alone(r["speech_clean"], "speech")),
        ("speech: FSDD index 0-4, ESC-10 fold 4 at 0 dB", 92.0, lambda r: alone(r["speech_0db"], "speech")),
        ("speech: the same, four other draws of the noise", 92.0, lambda r: alone(r["speech_0db_more"], "speech")),
        ("request: CLINC150 val, 150 intents", 93.5, lambda r: r["clinc"]["intents"]["accuracy"]),
        ("request: the same, with the out-of-scope threshold", None, lambda r: r["clinc"]["intents"]["accuracy_with_threshold"]),
        ("request: out-of-scope recall at the shipped threshold", 47.0, lambda r: r["clinc"]["intents"]["oos_recall"]),
        ("hard condition: card alone (to be 55-70)", None, lambda r: alone(r["hard"], "card")),
        ("hard condition: speech alone", None, lambda r: alone(r["hard"], "speech")),
        ("hard condition: fused card + speech", 97.0, lambda r: r["hard"]["fused"]["accuracy"]),
        ("hard condition with a typed request: fused", None, lambda r: r["hard_text"]["fused"]["accuracy"]),
        ("everyday visits: fused", None, lambda r: r["visits"]["fused"]["accuracy"]),
    ]


def accuracy_table(int8, f32):
    lines = ["| measure | bar | int8 | f32 | lost |", "|---|---|---|---|---|"]
    for name, bar, pick in rows_of(int8, f32):
        a = pick(int8)
        # Without a twin of the encoder the row would compare int8 with itself.
        b = pick(f32) if f32 and (name.split(":")[0] not in MODELS or name.split(":")[0] in twins()) else None
        lost = f"{100 * (b['rate'] - a['rate']):+.2f}" if b else "-"
        lines.append(f"| {name} | {f'{bar} %' if bar else '-'} | {share(a)} | {percent(b['rate']) if b else '-'} | {lost} |")
    return lines


def removal_table(result):
    """Fused with one modality removed against the best remaining one alone."""
    names = sorted(result["alone"])
    lines = ["| removed | fused rest | best remaining alone (own head; through the fusion) | difference |", "|---|---|---|---|"]
    for gone in names:
        rest = [n for n in names if n != gone]
        fused = subset(result, *rest)["rate"]
        own = max(alone(result, n)["rate"] for n in rest)
        through = max(subset(result, n)["rate"] for n in rest)
        best = max(own, through)
        lines.append(f"| {gone} | {percent(fused)} | {percent(own)}; {percent(through)} | {100 * (fused - best):+.2f} |")
    return lines


def loso_table():
    path = common.CACHE / "loso" / "results.json"
    if not path.exists():
        return ["Not measured in this build; `python training/train.py loso` measures it."], None
    results = json.loads(path.read_text())
    lines = ["| speaker left out | clean | 0 dB | fused, hard condition |", "|---|---|---|---|"]
    keys = ("clean", "0db", "fused")
    for speaker, r in sorted(results.items()):
        lines.append(f"| {speaker} | " + " | ".join(percent(r[k]) for k in keys) + " |")
    mean = {k: sum(r[k] for r in results.values()) / len(results) for k in keys}
    lines.append("| **mean** (bars 93, 75, 90 %) | " + " | ".join(percent(mean[k]) for k in keys) + " |")
    return lines, {"speakers": results, "mean": mean}


def confusion_lines(result):
    """The confusion of the fused answers as a table."""
    labels, counts = result["labels"], result["fused"]["confusion"]
    short = [n.removeprefix("desk_") for n in labels]
    lines = ["| true \\ answer | " + " | ".join(short) + " |", "|---" * (len(labels) + 1) + "|"]
    return lines + [f"| {name} | " + " | ".join(str(c) for c in row) + " |" for name, row in zip(short, counts, strict=True)]


def heard_digits(result, truth_path):
    """How many digits of a stream were decided: (right, wrong, of), and the decisions outside of any digit."""
    truth = json.loads(truth_path.read_text())
    entered = [(e["t_s"], e["class"]) for e in result["stream"]["entered"]]
    right = wrong = inside = 0
    for start, end, label in truth:
        # The window ends up to 1 s after the digit, the decision a little later.
        found = [c for t, c in entered if start <= t <= end + 1.8]
        right += label in found
        wrong += sum(c != label for c in found)
        inside += len(found)
    return {"right": right, "wrong": wrong, "of": len(truth), "elsewhere": len(entered) - inside}


def alarm_lines(int8):
    """Decisions in streams that hold nothing to decide, and what the same strictness costs: digits in a stream that are decided."""
    def line(name, what):
        if name not in int8:
            return f"- {what}: not measured, its material is not installed."
        s = int8[name]["stream"]
        return f"- {what}: {s['decisions']} false decisions in {s['minutes']:.0f} minutes."

    lines = [
        line("false_alarms", "ESC-10 fold 4 and held-out words of held-out voices, no camera (bar: 1 in 30 minutes)"),
        line("false_alarms_camera", "the same beside a camera that sees empty scenes"),
        line("people", "a recorded person, Italian prompts, never trained on, no camera"),
        line("real_speech", "English speech (silero_test.wav), no camera"),
    ]
    for name, what in (("digit_stream", "no camera"), ("digit_stream_10db", "no camera, ESC-10 fold 4 at 10 dB"), ("digit_stream_camera", "a camera on empty scenes")):
        h = int8[name]["heard"]
        lines.append(f"- FSDD index 0-4 spoken in a stream, {what}: {100 * h['right'] / h['of']:.1f} % of {h['of']} digits decided, {h['wrong']} decided wrong, {h['elsewhere']} decisions in between.")
    return lines


def main():
    sets = {name: path for name, path in evalsets.all_sets().items() if path}
    f32_dir = f32_bundle()
    int8 = {name: evaluate(common.BUNDLE, path) for name, path in sets.items()}
    f32 = {name: evaluate(f32_dir, path) for name, path in sets.items() if path.suffix == ".jsonl"} if f32_dir else None
    for name in ("digit_stream", "digit_stream_10db", "digit_stream_camera"):
        truth = sets[name.removesuffix("_camera")].parent / "truth.json"
        int8[name]["heard"] = heard_digits(int8[name], truth)
    loso, loso_json = loso_table()
    times_path = common.CACHE / "times.json"
    times = json.loads(times_path.read_text()) if times_path.exists() else None
    sizes = {n: (common.BUNDLE / f"{n}.int8.onnx").stat().st_size for n in MODELS}
    text = [
        "# The kiosk bundle: measured",
        "",
        "Made by `python training/train.py` (the last stage writes this file). Every figure is printed by `attendant eval` for the shipped",
        "int8 models; `f32` are the same models before quantization. In brackets: 95 % interval (Wilson) and number of rows.",
        "The three modalities are **paired by class**: card, voice and text of a row were never recorded together.",
        "",
        "    python training/train.py report        # makes the sets and measures everything below",
        "    attendant eval training/.cache/eval/hard/rows.jsonl",
        "",
        "## Accuracy",
        "",
        *accuracy_table(int8, f32),
        "",
        f"The hard condition: cards rendered by `cards.py`, corrupted by blur, noise, low contrast and occlusion at strength {evalsets.cards.HARD_STRENGTH}",
        f"(seed {evalsets.SEED}); speech is FSDD index 0-4 with ESC-10 fold 4 over the clip at 0 dB; {evalsets.HARD_PER_CLIP} cards meet every clip.",
        "",
        "## One modality removed",
        "",
        "On the hard condition with a typed request (CLINC150 val). The bar: the difference is at least -0.5.",
        "",
        *removal_table(int8["hard_text"]),
        "",
        "## A speaker never heard",
        "",
        "Five models, each trained without one FSDD speaker and tested on that speaker's index 0-4; int8.",
        "",
        *loso,
        "",
        "## Calibration and false decisions",
        "",
        f"- ECE of the fused probability, everyday visits: {percent(int8['visits']['fused']['ece'])} (bar 3 %); hard condition: {percent(int8['hard']['fused']['ece'])}.",
        *alarm_lines(int8),
        "",
        "## Confusion, everyday visits",
        "",
        *confusion_lines(int8["visits"]),
        "",
        "What these figures hide, and how the shipped weights came about: [CAVEATS.md](CAVEATS.md).",
        "",
        "## Models",
        "",
        *(f"- {n}.int8.onnx: {size / 1000:.0f} kB" for n, size in sizes.items()),
        *([f"- training: {', '.join(f'{k} {v} s' for k, v in times.items())}"] if times else []),
        "",
        "## Data and licences",
        "",
        "- MNIST (LeCun, Cortes, Burges).",
        "- Free Spoken Digit Dataset, CC BY-SA 4.0 (index 5-49 trained on).",
        "- ESC-10, K. J. Piczak, CC BY 3.0 (folds 1-3 trained on).",
        "- CLINC150, Larson et al. 2019, CC BY 3.0 (train and oos_train trained on).",
        "- espeak-ng and flite voices and the Piper voice joe (CC0): synthetic speech made at training time; Debian's fonts (rendered at training time).",
        "- Asterisk's core sounds (Allison Smith, June Wallack and others), CC BY-SA 3.0: recorded people at training time.",
        "- Teacher of the request encoder: all-MiniLM-L6-v2, Apache-2.0, at training time; the student's word vectors start from a PCA of the teacher's.",
        "",
    ]
    (common.BUNDLE / "REPORT.md").write_text("\n".join(text))
    common.write_json(common.BUNDLE / "report.json", {"int8": int8, "f32": f32, "loso": loso_json, "sizes": sizes, "times_s": times})
    print("\n".join(text))


if __name__ == "__main__":
    main()
