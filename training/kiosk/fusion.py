"""The fusion: attention over the tokens of card, speech and request, with mask and age.

Owns: the banks of encoder outputs on material the encoders were not trained on, the synthetic visits drawn from them (paired by
class: the three modalities were never recorded together), the network, its int8 export and temperature. `train.py` calls
`train()`; with a speech model that left a speaker out it makes that speaker's bundle half. It trains no encoder.

The network can be a product of calibrated experts, which is the optimum for modalities that err independently: each token
votes over the classes, a gate (the attention before normalization) says how loudly, and a small joint layer corrects the sum.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import card, cards, common, request, speakers, speech, text_augment, voices
from .common import LABELS, NONE

SEED = 3011
TOKENS = ("card", "speech", "request")
CARD, SPEECH, REQUEST = range(3)
CLASSES = len(LABELS)
# The longest a token may live: fusion.max_age_ms of the manifest, hold_ms of a text.
MAX_AGE_S = np.array([1.5, 1.5, 4.0], np.float32)
# Share of tokens of the greatest age that belong to something else by then.
STALE_WRONG = np.array([0.35, 0.35, 0.12], np.float32)
CARD_FRAMES = 5200
# Share of everyday visits without a visitor, beyond the one in eleven that the labels give: more of it makes the kiosk less
# easily roused by noise, and less sure of a weak voice.
NOBODY = 0.0
# How often a visitor uses a modality: the lower, the less an empty picture speaks against a voice.
USED = 0.28
# The same for a microphone without a camera, which is where nothing else can contradict it.
LONE_NOBODY = 0.87
ROWS = 160_000
EPOCHS = 6


# Words that the speech encoder was neither trained nor is measured on: how sure it is of them is how sure it is of strangers.
STRANGE_WORDS = """
anchor arrow artist avenue basket battle beard beauty blanket bottle bottom branch breath bucket bullet candle cannon captain carrot cattle
center chapter cheek chicken chimney circle citizen clay cliff cloth coach coast collar column copper corner cotton couple cousin cream
cricket crystal curtain damage danger decade degree delay detail devil dinner distance double dragon dress drum dust eagle elbow empire
energy error evil fabric factor failure farmer fashion feather fellow figure finger flame flavor flower fountain frame freedom frost
fruit funnel gallon garlic gender ghost giant glove golf grammar grass gravel habit hammer handle harvest helmet hidden honey hotdog
humor hunter insect iron jelly jewel journey judge kettle kingdom ladder lamb leather legend lemonade lesson letter liberty limit liquid
lobster logic lumber magnet mansion marble meadow medal melody member mercy metal method mineral mirror mixture model moment mortgage
motion motor muscle mystery napkin needle neighbor nerve noodle novel object onion opera option organ oven oyster palace panel
parade parcel parrot partner pasture patient peanut pepperoni pigeon pillow pilot planet plastic poetry poison pony powder prison profit
pudding purse puzzle quarrel rabbit radar ribbon riddle robot rocket ruler saddle sailor salmon sample sandal savage scissors seed
serpent shadow shelter shield shoulder signal skeleton slipper smoke soldier spider spirit sponge stable statue stomach studio
subject supper surface swallow symbol talent tailor temple tender texture thimble thread tiger tongue towel tractor treasure trophy tunnel turtle
uncle uniform vapor velvet vessel victory vinegar wagon walnut warrior weapon whistle widow willow wisdom witness wizard wrinkle yogurt
site fate tile pile hide ride fade grade rate stone phone bone gone gun run done fun bun flew grew force court
sport port fort thrift thrill tray freak freeze leaven hate wait gate mine fine dine shine pine vine lane zebra zinc
""".split()


# --- banks: what the encoders say about material they have not seen ------------------------------------------------------


@dataclass
class Bank:
    """Encoder outputs: `token` f32 [N,64], the class `label` [N], `hard` [N] (as bad as the hard condition), `fresh` [N]:
    kept back to choose the temperature and to measure."""

    token: np.ndarray
    logits: np.ndarray
    label: np.ndarray
    hard: np.ndarray
    fresh: np.ndarray

    def rows(self, label: int, fresh: bool, hard: bool | None = None) -> np.ndarray:
        keep = (self.label == label) & (self.fresh == fresh)
        return np.flatnonzero(keep if hard is None else keep & (self.hard == hard))


def encoded(model: Path, inputs: np.ndarray, name: str):
    """(token, logits) of every row through the int8 encoder; kept in the cache under the hash of model and inputs."""
    inputs = np.ascontiguousarray(inputs)
    key = common.hashlib.sha256(common.sha256(model).encode() + inputs.tobytes()).hexdigest()[:16]
    path = common.cache("fusion", f"{name}-{key}.npz")
    if not path.exists():
        feed = {common.session(model).get_inputs()[0].name: inputs}
        found = common.onnx_run(model, feed, ["embedding", "logits"])
        np.savez(path, token=found["embedding"][:, 0], logits=found["logits"][:, 0])
    with np.load(path) as stored:
        return stored["token"], stored["logits"]


def card_inputs():
    """(pictures u8 [N,64,64], labels, hard) from handwriting that the card encoder was not trained on; half of them corrupted."""

    def make():
        rng = np.random.default_rng((SEED, 1))
        frames, labels, strengths = [], [], []
        for _ in range(CARD_FRAMES):
            label = NONE if rng.random() < 0.15 else int(rng.integers(10))
            draw = rng.random()
            strength = 0.0 if draw < 0.25 else float(rng.uniform(0.1, 0.8)) if draw < 0.5 else float(rng.uniform(0.85, 1.15))
            frame = cards.render(rng, None if label == NONE else label, split="held")
            frames.append(cards.corrupt(rng, frame, strength * cards.HARD_STRENGTH))
            labels.append(label)
            strengths.append(strength)
        return card.tensors(np.stack(frames)), np.stack([labels, np.array(strengths) > 0.84]).astype(np.int64)

    pictures, about = card.cached(f"fusion-{CARD_FRAMES}", make)
    return pictures, about[0], about[1].astype(bool)


def card_bank() -> Bank:
    pictures, label, hard = card_inputs()
    token, logits = encoded(common.BUNDLE / "card.int8.onnx", card.as_input(pictures), "card")
    fresh = np.random.default_rng((SEED, 2)).random(len(label)) < 0.2
    return Bank(token, logits, label, hard, fresh)


def speech_inputs():
    """Tensors, labels, hard, fresh, speaker: recorded digits that the speech encoder was not trained on, at many levels of
    noise; other words, cut digits and noise alone as `none`."""
    source = Path(voices.__file__).read_text() + Path(speakers.__file__).read_text() + Path(__file__).read_text().split("def speech_inputs")[1].split("\ndef speech_bank")[0] + " ".join(STRANGE_WORDS)
    key = common.hashlib.sha256(source.encode()).hexdigest()[:12]
    path = common.cache("fusion", f"speech-inputs-{key}.npz")
    if not path.exists():
        rng = np.random.default_rng((SEED, 3))
        noises = voices.noises({1, 2, 3})
        kept = speech.validation_clips()
        windows, about = [], []

        def noisy(x, snr_db):
            noise = voices.loud_excerpt(rng, noises[int(rng.integers(len(noises)))], len(x))
            return voices.mix_at_snr(x, noise, snr_db)

        for clip in kept:
            for take in range(16):
                # Half as recorded, half as another speaker in another room: a voice never heard must not sound certain.
                x = clip.audio if take % 2 else speech.heard(rng, clip.audio, tail=False)[0]
                draw = rng.random()
                snr = 99.0 if draw < 0.15 else float(rng.uniform(3, 20)) if draw < 0.4 else float(rng.uniform(-4, 3))
                x = x if snr == 99.0 else noisy(x, snr)
                # As `eval` cuts clips, or wherever a live window happens to have it.
                x = voices.centred(x) if rng.random() < 0.7 else speech.place(rng, x, len(x), "whole")[0]
                windows.append(x)
                about.append((clip.label, snr < 3, clip.index >= 49, clip.speaker))
        others = [c for c in voices.synthetic() if c.label == NONE and not c.test]
        for i in rng.choice(len(others), 900, replace=False):
            x = speech.heard(rng, others[i].audio, tail=False)[0]
            x = noisy(x, float(rng.uniform(-3, 15))) if rng.random() < 0.5 else x
            windows.append(voices.centred(x))
            about.append((NONE, False, rng.random() < 0.2, "espeak"))
        for x in strangers(rng, noises):
            windows.append(x)
            about.append((NONE, False, rng.random() < 0.2, "espeak"))
        for _ in range(900):
            x = voices.excerpt(rng, noises[int(rng.integers(len(noises)))], voices.WINDOW)
            windows.append(x * float(10 ** rng.uniform(-2, 0)))
            about.append((NONE, False, rng.random() < 0.2, "noise"))
        label, hard, fresh, who = (np.array(column) for column in zip(*about))
        common.save_npz(path, x=speech.tensors(windows), label=label.astype(np.int64), hard=hard, fresh=fresh, who=who)
    with np.load(path) as stored:
        return tuple(stored[name] for name in ("x", "label", "hard", "fresh", "who"))


def strangers(rng, noises, count: int = 3000):
    """Windows of a live stream of STRANGE_WORDS with pauses and of a recorded person, half of it over noise: whole words, cut words, two words."""
    known = set(voices.WORDS) | set(voices.HELD_OUT_WORDS) | set(voices.DIGITS)
    parts = []
    for word in [w for w in dict.fromkeys(STRANGE_WORDS) if w not in known]:
        for _ in range(2):
            if rng.random() < 0.5:
                voice = f"{rng.choice(voices.ENGLISH)}+{rng.choice(voices.VARIANTS)}"
                said = voices.say(word, voice, int(rng.integers(100, 200)), int(rng.integers(20, 85)))
            else:
                said = speakers.flite(word, str(rng.choice(speakers.FLITE)), float(rng.uniform(0.75, 1.4)), int(rng.integers(90, 200)))
            parts += [said * float(rng.uniform(0.2, 1.0)), np.zeros(int(rng.uniform(0.05, 0.8) * voices.RATE_HZ), np.float32)]
    person = [c for c in speakers.prompts(speakers.STRANGER) if len(c.audio) < 8 * voices.RATE_HZ]
    for i in rng.choice(len(person), 150, replace=False):
        said = person[i].audio / max(float(np.abs(person[i].audio).max()), 1e-6)
        parts += [said * float(rng.uniform(0.2, 1.0)), np.zeros(int(rng.uniform(0.05, 0.8) * voices.RATE_HZ), np.float32)]
    talk = np.concatenate(parts)
    for start in np.sort(rng.integers(0, len(talk) - voices.WINDOW, count)):
        x = talk[start : start + voices.WINDOW].copy()
        if rng.random() < 0.5:
            noise = voices.excerpt(rng, noises[int(rng.integers(len(noises)))], voices.WINDOW)
            x = x + noise * float(rng.uniform(0.05, 0.5))
        yield np.clip(x, -1, 1).astype(np.float32)


def speech_bank(model: Path, exclude_speaker: str | None) -> Bank:
    x, label, hard, fresh, who = speech_inputs()
    keep = who != exclude_speaker
    token, logits = encoded(model, x[keep], "speech")
    return Bank(token, logits, label[keep], hard[keep], fresh[keep])


def request_bank() -> Bank:
    """The requests that request.py keeps out of its training, each with several slips of the finger, and out-of-scope texts."""
    rng = np.random.default_rng((SEED, 4))
    task, words = request.Task(), request.common_words()
    texts, label, fresh = [], [], []
    for text, desk in zip(task.text["held"], task.desk_of_intent[task.intent["held"]]):
        new = rng.random() < 0.2
        for take in range(6):
            edited = text if take == 0 else text_augment.slip(text, rng, 0.15 if take % 2 else 0.0)
            texts.append(text_augment.padded(edited, rng) if take > 2 else edited)
            label.append(int(desk))
            fresh.append(new)
    for _ in range(700):
        texts.append(text_augment.off_topic(rng) if rng.random() < 0.6 else text_augment.gibberish(words, rng))
        label.append(NONE)
        fresh.append(rng.random() < 0.2)
    ids = request.ids_of(request.bundled_tokenizer(), texts)
    token, logits = encoded(common.BUNDLE / "request.int8.onnx", ids, "request")
    return Bank(token, logits, np.array(label), np.zeros(len(label), bool), np.array(fresh))


# --- visits ------------------------------------------------------------------------------------------------------------


@dataclass
class Visits:
    """Rows for training or measuring: `pick` [N,3] indices into the banks, `mask` [N,3], `age_s` [N,3], `label` [N]."""

    pick: np.ndarray
    mask: np.ndarray
    age_s: np.ndarray
    label: np.ndarray


def draw(rng, table, labels):
    """A random row of the class for every label; `table[class]` lists the rows."""
    out = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        out[at] = rng.choice(table[label], len(at))
    return out


def visits(banks: list[Bank], rng, count: int, fresh: bool, hard_share: float, old_share: float = 0.5, nobody: float = 0.0, lone: float = 0.0) -> Visits:
    """Synthetic visits. A row is either the hard condition (corrupted card and speech near 0 dB, both there) or an everyday
    visit: a visitor uses some of the modalities, the others see and hear nobody, or are absent. Then any subset is masked."""
    tables = [[b.rows(c, fresh) for c in range(CLASSES)] for b in banks]
    hard_tables = [[b.rows(c, fresh, True) if b.hard.any() else b.rows(c, fresh) for c in range(CLASSES)] for b in banks]
    for table, plain in zip(hard_tables, tables):
        table[NONE] = plain[NONE]
    label = rng.integers(0, CLASSES, count)
    hard = rng.random(count) < hard_share
    label[~hard & (rng.random(count) < nobody)] = NONE
    uses = rng.random((count, 3)) < USED
    uses[hard, :2] = True
    # Any subset may be masked, but never all that the visitor uses: nothing could be learned from such a row.
    mask = rng.random((count, 3)) > 0.25
    mask[hard & (rng.random(count) < 0.5)] = (True, True, False)
    lost = ~(uses & mask).any(1)
    one = rng.integers(0, 3, lost.sum())
    uses[lost, one], mask[lost, one] = True, True
    age = (rng.random((count, 3)) ** 2 * MAX_AGE_S).astype(np.float32)
    young = rng.random((count, 3)) > old_share
    age[young] = (rng.random((count, 3)) * 0.12)[young]
    # A lone microphone in a room full of talk: most of what it hears is not for the kiosk.
    alone = (mask == (False, True, False)).all(1) & (rng.random(count) < lone)
    label[alone] = NONE
    # Nobody to hear or see at all: the prior of a room in which nothing happens.
    empty = rng.random(count) < 0.005
    mask[empty], label[empty] = False, NONE
    pick = np.empty((count, 3), np.int64)
    for k in range(3):
        shown = np.where(uses[:, k], label, NONE)
        # An old token may belong to the visitor before, or to nobody.
        moved = rng.random(count) < STALE_WRONG[k] * age[:, k] / MAX_AGE_S[k]
        shown = np.where(moved, rng.integers(0, CLASSES, count), shown)
        pick[:, k] = np.where(hard, draw(rng, hard_tables[k], shown), draw(rng, tables[k], shown))
    return Visits(pick, mask, age, label)


def condition(banks: list[Bank], rng, count: int, mask, hard: bool) -> Visits:
    """Fresh rows of one condition with every modality of `mask` in use, age zero: for measuring."""
    label = rng.integers(0, 10, count)
    tables = [[b.rows(c, True, True if hard and b.hard.any() else None) for c in range(CLASSES)] for b in banks]
    pick = np.stack([draw(rng, t, label) for t in tables], 1)
    return Visits(pick, np.tile(np.array(mask, bool), (count, 1)), np.zeros((count, 3), np.float32), label)


# --- the network -------------------------------------------------------------------------------------------------------


class Fusion(nn.Module):
    """tokens f32 [B,3,64], mask bool [B,3], age_s f32 [B,3] -> logits [B,11], attention [B,3].

    With x_i the scaled token of modality i: votes v_i = W_i x_i, gates g_i = mask_i exp(s_i), attention g_i / sum g,
    logits = prior + sum g_i v_i + joint(x). Two matrix products carry all of it: one for votes, gate features and the joint
    layer's input, one for the gates' scores and the joint correction. The gates see all tokens: a modality may be trusted less
    because another one contradicts it.
    """

    GATE, JOINT = 12, 48

    def __init__(self, scale: np.ndarray):
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(scale).view(1, 3, 1))
        self.votes = nn.ModuleList(nn.Linear(common.EMBEDDING_LEN, CLASSES) for _ in range(3))
        self.features = nn.ModuleList(nn.Linear(common.EMBEDDING_LEN, self.GATE) for _ in range(3))
        self.shared = nn.ModuleList(nn.Linear(common.EMBEDDING_LEN, self.JOINT) for _ in range(3))
        self.age_vote = nn.Parameter(torch.zeros(3))
        self.age_feature = nn.Parameter(torch.zeros(3, self.GATE))
        self.age_shared = nn.Parameter(torch.zeros(3, self.JOINT))
        self.second = nn.Linear(3 * self.GATE + self.JOINT, 3 + CLASSES)
        self.prior = nn.Parameter(torch.zeros(CLASSES))
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def wide(self):
        """(weight [out, 3*64 + 6], no bias): rows votes 33, gate features 36, joint 48; columns tokens 192, mask 3, age 3."""
        n = common.EMBEDDING_LEN
        parts = []
        for group, ages in ((self.votes, None), (self.features, self.age_feature), (self.shared, self.age_shared)):
            size = group[0].out_features
            joined = group is self.shared
            weight = torch.zeros(size if joined else 3 * size, 3 * n + 6)
            for i, layer in enumerate(group):
                block = torch.zeros_like(weight)
                at = slice(0, size) if joined else slice(i * size, (i + 1) * size)
                block[at, i * n : (i + 1) * n] = layer.weight
                block[at, 3 * n + i] = layer.bias
                if ages is not None:
                    block[at, 3 * n + 3 + i] = ages[i]
                weight = weight + block
            parts.append(weight)
        return torch.cat(parts)

    def forward(self, tokens, mask, age_s):
        present = mask.to(torch.float32)
        # Where, not a product: whatever an absent token holds, NaN too, must not come through.
        x = torch.where(mask.unsqueeze(-1), tokens, torch.zeros(())) * self.scale
        age = torch.where(mask, age_s, torch.zeros(())) * 0.25
        first = torch.cat([x.flatten(1), present, age], 1) @ self.weight_of_first()
        votes, hidden = first[:, : 3 * CLASSES].view(-1, 3, CLASSES), F.relu(first[:, 3 * CLASSES :])
        second = self.second(hidden)
        gates = present * torch.exp(torch.clamp(second[:, :3], -6.0, 3.0))
        attention = gates / (gates.sum(1, keepdim=True) + 1e-9)
        logits = (gates.unsqueeze(1) @ votes).squeeze(1) + second[:, 3:] + self.prior
        return logits, attention

    def weight_of_first(self):
        return self.wide().T if self.training else self.frozen

    def eval(self):
        with torch.no_grad():
            self.register_buffer("frozen", self.wide().T.contiguous())
        return super().eval()


def tensors_of(banks: list[Bank], v: Visits):
    tokens = np.stack([b.token[v.pick[:, k]] for k, b in enumerate(banks)], 1).astype(np.float32)
    return torch.from_numpy(tokens), torch.from_numpy(v.mask), torch.from_numpy(v.age_s), torch.from_numpy(v.label)


def expert_targets(banks: list[Bank], v: Visits) -> np.ndarray:
    """How likely each present modality alone finds the label, normalized over the modalities: what the attention should look
    like. Rows where nothing is seen have no target (zeros)."""
    p = np.stack([common.softmax(b.logits)[v.pick[:, k], v.label] for k, b in enumerate(banks)], 1) * v.mask
    total = p.sum(1, keepdims=True)
    return np.where((total > 0.05) & (v.label[:, None] != NONE), p / np.maximum(total, 1e-6), 0).astype(np.float32)


def fit(model: Fusion, banks: list[Bank], rng, epochs: int, rows: int, log):
    """Cross-entropy on the label; a lighter one pulls the attention to the modalities that are right."""
    size = 512
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=epochs * (rows // size) + 1, pct_start=0.1)
    for epoch in range(epochs):
        v = visits(banks, rng, rows, fresh=False, hard_share=0.4, nobody=NOBODY, lone=LONE_NOBODY)
        tokens, mask, age, label = tensors_of(banks, v)
        wanted = torch.from_numpy(expert_targets(banks, v))
        model.train()
        total, right = 0.0, 0
        for i in range(0, rows - size + 1, size):
            at = slice(i, i + size)
            logits, attention = model(tokens[at], mask[at], age[at])
            loss = F.cross_entropy(logits, label[at])
            loss = loss - 0.1 * (wanted[at] * torch.log(attention + 1e-4)).sum(1).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            plan.step()
            total += loss.item() * size
            right += int((logits.argmax(1) == label[at]).sum())
        log(f"  fusion epoch {epoch + 1}/{epochs}: loss {total / rows:.3f}, right {100 * right / rows:.2f} %")
    return model.eval()


def first_votes(model: Fusion, banks: list[Bank], scale: np.ndarray):
    """Starts each vote as the encoder's own classifier, recovered from its outputs by least squares."""
    for k, b in enumerate(banks):
        x = np.column_stack([b.token * scale[k], np.ones(len(b.token))])
        y = b.logits - b.logits.mean(1, keepdims=True)
        solved = np.linalg.solve(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ y)
        with torch.no_grad():
            model.votes[k].weight.copy_(torch.from_numpy(solved[:-1].T))
            model.votes[k].bias.copy_(torch.from_numpy(solved[-1]))


# --- figures -----------------------------------------------------------------------------------------------------------


def run(path: Path, banks: list[Bank], v: Visits):
    """(logits, attention) of an exported fusion over visits."""
    tokens, mask, age, _ = (t.numpy() for t in tensors_of(banks, v))
    found = common.onnx_run(path, {"tokens": tokens[:, None], "mask": mask[:, None], "age_s": age[:, None]})
    return found["logits"][:, 0], found["attention"][:, 0]


def measure(path: Path, banks: list[Bank], temperature: float, count: int = 3000) -> dict:
    """Accuracy of fused and alone on kept-back rows, everyday and hard, for every subset of modalities; calibration."""
    found = {}
    for name, hard in (("plain", False), ("hard", True)):
        for code in range(1, 8):
            mask = [bool(code >> k & 1) for k in range(3)]
            v = condition(banks, np.random.default_rng((SEED, 9, code)), count, mask, hard)
            logits, attention = run(path, banks, v)
            alone = {TOKENS[k]: float(100 * (b.logits[v.pick[:, k]].argmax(1) == v.label).mean()) for k, b in enumerate(banks) if mask[k]}
            key = f"{name} " + "+".join(alone)
            p = common.softmax(logits, temperature)
            found[key] = {
                "fused": float(100 * (logits.argmax(1) == v.label).mean()), "ece": common.ece(p, v.label), "alone": alone,
                "attention": dict(zip(TOKENS, attention.mean(0).round(3).tolist())),
            }  # fmt: skip
    v = visits(banks, np.random.default_rng((SEED, 10)), count, True, 0.0, 0.1)
    logits, _ = run(path, banks, v)
    found["everyday"] = {"fused": float(100 * (logits.argmax(1) == v.label).mean()), "ece": common.ece(common.softmax(logits, temperature), v.label)}
    return found


def train(speech_model=None, exclude_speaker=None, out=None, log=print) -> dict:
    """Trains, exports and measures; returns the metrics.

    Alone it writes models/kiosk/fusion.int8.onnx and training/.cache/fusion_metrics.json. With `exclude_speaker` nothing of that
    speaker is used, and the files go to training/.cache/loso/{speaker}/, where `speech_model` is expected too by default.
    """
    start = time.monotonic()
    common.seed_all(SEED)
    folder = Path(out) if out else common.cache("loso", exclude_speaker, "x").parent if exclude_speaker else common.BUNDLE
    speech_model = Path(speech_model) if speech_model else folder / "speech.int8.onnx"
    banks = [card_bank(), speech_bank(speech_model, exclude_speaker), request_bank()]
    log(f"fusion: banks of {[len(b.label) for b in banks]} tokens, {time.monotonic() - start:.0f} s")
    scale = np.array([1 / max(np.quantile(np.abs(b.token), 0.999), 1e-3) for b in banks], np.float32)
    model = Fusion(scale)
    first_votes(model, banks, scale)
    rng = np.random.default_rng((SEED, 5))
    fit(model, banks, rng, EPOCHS, ROWS, log)
    v = visits(banks, rng, 600, fresh=False, hard_share=0.4)
    tokens, mask, age, _ = tensors_of(banks, v)
    int8 = folder / "fusion.int8.onnx"
    f32 = common.cache("loso", exclude_speaker, "fusion.f32.onnx") if exclude_speaker else common.cache("fusion.f32.onnx")
    common.export_onnx(model, (tokens[:1], mask[:1], age[:1]), f32, ["tokens", "mask", "age_s"], ["logits", "attention"])
    common.quantize_static(f32, int8, {"tokens": tokens.numpy()[:, None], "mask": mask.numpy()[:, None], "age_s": age.numpy()[:, None]})
    held = visits(banks, np.random.default_rng((SEED, 6)), 6000, fresh=True, hard_share=0.4, old_share=0.2)
    temperature = round(common.fit_temperature(run(int8, banks, held)[0], held.label), 3)
    metrics = {
        "temperature": temperature,
        "int8": measure(int8, banks, temperature),
        "f32_hard": float(100 * (run(f32, banks, held)[0].argmax(1) == held.label).mean()),
        "int8_hard": float(100 * (run(int8, banks, held)[0].argmax(1) == held.label).mean()),
        "sha256": common.sha256(int8), "bytes": int8.stat().st_size, "seconds": round(time.monotonic() - start),
    }  # fmt: skip
    common.write_json((folder if exclude_speaker or out else common.CACHE) / "fusion_metrics.json", metrics)
    for name, row in metrics["int8"].items():
        log(f"  {name}: {json.dumps(row)}")
    return metrics


def set_in_manifest(text: str, after: str, key: str, value: float) -> str:
    """`bundle.toml` with `key = value` behind the first line that reads `after`; replaces the key if that section has it."""
    head, tail = text.split(after + "\n", 1)
    section, *rest = tail.split("\n\n", 1)
    kept = [line for line in section.split("\n") if not line.startswith(f"{key} =")]
    return head + "\n".join([after, f"{key} = {value}", *kept]) + "".join("\n\n" + r for r in rest)


def write_settings():
    """Carries temperatures and the out-of-scope threshold from the metrics in the cache into bundle.toml."""
    path = common.BUNDLE / "bundle.toml"
    text = path.read_text()
    for name in ("card", "request", "fusion"):
        metrics = common.cache(f"{name}_metrics.json")
        if not metrics.exists():
            print(f"{metrics}: not there; the settings of {name} in {path} stay as they are", flush=True)
            continue
        found = json.loads(metrics.read_text())
        text = set_in_manifest(text, f'model = "{name}.int8.onnx"', "temperature", round(found["temperature"], 3))
        if name == "request":
            # The first key written stands below the second.
            text = set_in_manifest(text, 'labels = "intents.txt"', "threshold", found["intents_threshold"])
            text = set_in_manifest(text, 'labels = "intents.txt"', "temperature", found["intents_temperature"])
    path.write_text(text)


def main(arguments=()):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--exclude", choices=voices.FSDD_SPEAKERS, help="the bundle half without this speaker")
    args = parser.parse_args(arguments)
    train(exclude_speaker=args.exclude)
    if args.exclude is None:
        write_settings()


if __name__ == "__main__":
    main(sys.argv[1:])
