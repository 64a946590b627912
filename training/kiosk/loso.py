"""Leave one speaker out: five bundles, each without one FSDD speaker in speech and fusion, measured on that speaker.

Called by `train.py loso`; writes training/.cache/loso/results.json, which report.py prints. A speech model that is in
training/.cache/loso/{speaker}/ already is kept; remove the folder to train it anew. None of this is shipped.
"""

import shutil

from . import common, evalsets, fusion, report, speech, voices


def bundle_without(speaker):
    """The folder of a whole bundle whose speech and fusion never heard `speaker`."""
    folder = common.cache("loso", speaker, "x").parent
    if not (folder / "speech.int8.onnx").exists():
        speech.train(exclude_speaker=speaker)
    found = fusion.train(exclude_speaker=speaker)
    for path in common.BUNDLE.iterdir():
        if path.is_file() and path.name not in ("speech.int8.onnx", "fusion.int8.onnx"):
            shutil.copy(path, folder / path.name)
    manifest = folder / "bundle.toml"
    manifest.write_text(fusion.set_in_manifest(manifest.read_text(), 'model = "fusion.int8.onnx"', "temperature", found["temperature"]))
    return folder


def measure(speaker):
    """Shares right on the speaker's test clips: alone, clean and at 0 dB; fused in the hard condition."""
    bundle = bundle_without(speaker)
    clips = evalsets.test_clips([speaker])
    rate = lambda name, clips, snr_db=None: report.alone(report.evaluate(bundle, evalsets.spoken(name, clips, snr_db)), "speech")["rate"]
    hard = report.evaluate(bundle, evalsets.hard(f"loso_{speaker}_hard", clips))
    return {
        "clean": rate(f"loso_{speaker}_clean", clips), "0db": rate(f"loso_{speaker}_0db", clips, 0.0),
        "fused": hard["fused"]["accuracy"]["rate"], "card_in_hard": report.alone(hard, "card")["rate"],
    }  # fmt: skip


def main():
    results = {}
    for speaker in voices.FSDD_SPEAKERS:
        results[speaker] = measure(speaker)
        print(speaker, {k: round(100 * v, 2) for k, v in results[speaker].items()}, flush=True)
    common.write_json(common.cache("loso", "results.json"), results)


if __name__ == "__main__":
    main()
