"""The request encoder: typed text -> 64-value token, desk logits and the 150 intents of CLINC150.

Owns: the cut of the teacher's vocabulary, the data (soft labels of the teacher on augmented text), the student, its int8
export, temperatures and the out-of-scope threshold. `train.py` calls `train()`; fusion.py uses `texts_for_fusion()`.
The student is small on purpose: one lookup, one convolution, attention pooling, two dense layers (about 2 MMAC for 32 tokens).
Its word vectors start as a principal-component cut of the teacher's (all-MiniLM-L6-v2, Apache-2.0).
"""

import json
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper
from tokenizers import Tokenizer
from torch import nn

from . import common, sentence_teacher, text_augment

SEED = 150
MAX_TOKENS = 32
VOCABULARY = 8800
WIDTH = 128
HIDDEN = 256
POOLS = 5
TEACHER_EPOCHS = int(os.environ.get("ATTENDANT_TEACHER_EPOCHS", "3"))
VARIANTS = 4
EPOCHS = 8
HELD_PER_INTENT = 4
# Share of in-scope requests that the threshold may turn away, on the requests kept out of training.
REJECTED_MAX = 0.02


class Task:
    """CLINC150 with the bundle's order of intents and desks."""

    def __init__(self):
        rows = [line.split() for line in (common.BUNDLE / "intents.txt").read_text().splitlines() if line]
        self.intents = [name for name, _ in rows]
        self.desk_of_intent = np.array([common.LABELS.index(desk) for _, desk in rows])
        sets = json.loads(common.data("clinc150", "data_full_dev.json").read_text())
        index = {name: i for i, name in enumerate(self.intents)}
        # The last few of every intent stay out of training: they set temperatures and threshold, and feed the fusion.
        left = Counter(intent for _, intent in sets["train"])
        parts = {"train": [], "held": []}
        for text, intent in sets["train"]:
            parts["held" if left[intent] <= HELD_PER_INTENT else "train"].append((text, intent))
            left[intent] -= 1
        sets |= parts
        self.text = {name: [t for t, _ in sets[name]] for name in sets}
        self.intent = {name: np.array([index[i] for _, i in sets[name]]) for name in ("train", "held", "val")}


def cut_tokenizer(task: Task, path):
    """Writes the teacher's WordPiece tokenizer with the pieces of the training texts and the most frequent others.

    The teacher's vocabulary is ordered by frequency. Returns (tokenizer, the teacher's id of each new id).
    """
    full = sentence_teacher.tokenizer()
    vocab = full.get_vocab()
    seen = Counter()
    for e in full.encode_batch(task.text["train"] + task.text["oos_train"], add_special_tokens=False):
        seen.update(e.tokens)
    letters = [p for p in vocab if p.isascii() and len(p.removeprefix("##")) == 1]
    frequent = [p for p, _ in sorted(vocab.items(), key=lambda row: row[1]) if p.isascii() and p.removeprefix("##").isalnum()]
    wanted = dict.fromkeys(letters) | dict.fromkeys(p for p, _ in seen.most_common()) | dict.fromkeys(frequent)
    pieces = ["[PAD]", "[UNK]"] + [p for p in wanted if not p.startswith("[") or p == "["][: VOCABULARY - 2]
    spec = json.loads(full.to_str())
    spec |= {"padding": None, "truncation": None, "post_processor": None}
    spec["model"]["vocab"] = {p: i for i, p in enumerate(pieces)}
    spec["added_tokens"] = [
        {"id": i, "content": p, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, p in enumerate(pieces[:2])
    ]
    path.write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n")
    return Tokenizer.from_file(str(path)), np.array([vocab[p] for p in pieces])


def bundled_tokenizer() -> Tokenizer:
    """The tokenizer of the bundle."""
    return Tokenizer.from_file(str(common.BUNDLE / "tokenizer.json"))


def ids_of(tok: Tokenizer, texts: list[str]) -> np.ndarray:
    """Token ids [N, MAX_TOKENS], cut and padded as the runtime does; `train()` checks a sample against the runtime's own."""
    out = np.zeros((len(texts), MAX_TOKENS), np.int64)
    for row, e in zip(out, tok.encode_batch(texts, add_special_tokens=False)):
        ids = e.ids[:MAX_TOKENS]
        row[: len(ids)] = ids
    return out


def check_against_runtime(tok: Tokenizer, texts: list[str]):
    """The ids of `attendant features` and of the Python package must be the same."""
    file = common.cache("request_check.txt")
    file.write_text("".join(t + "\n" for t in texts))
    theirs = common.features("request", file).reshape(len(texts), MAX_TOKENS)
    bad = np.flatnonzero((theirs != ids_of(tok, texts)).any(1))
    if len(bad):
        raise RuntimeError(f"{len(bad)} of {len(texts)} texts tokenize differently in the runtime, first: {texts[bad[0]]!r}")


class Student(nn.Module):
    """ids i64 [B, L] (pad 0) -> (embedding [B,64], logits [B,11], intents [B,I])."""

    def __init__(self, words: torch.Tensor, intents: int):
        super().__init__()
        self.words = nn.Parameter(words)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.conv_norm = nn.BatchNorm1d(WIDTH)
        self.scores = nn.Conv1d(WIDTH, POOLS, 1)
        self.hidden = nn.Linear(WIDTH * POOLS, HIDDEN)
        self.embedding = nn.Linear(HIDDEN, common.EMBEDDING_LEN)
        self.logits = nn.Linear(common.EMBEDDING_LEN, len(common.LABELS))
        self.intents = nn.Linear(HIDDEN, intents)
        self.teacher_view = nn.Linear(HIDDEN, sentence_teacher.WIDTH)
        self.register_buffer("nothing", torch.zeros(common.EMBEDDING_LEN))

    def body(self, ids: torch.Tensor, drop: float = 0.0) -> torch.Tensor:
        # The vector of [PAD] is zero; what the convolution makes of it is kept out of the pools by `absent`.
        absent = torch.where(ids == 0, -1e4, 0.0).unsqueeze(1)
        x = F.embedding(ids, self.words).transpose(1, 2)
        if drop and self.training:
            # Whole words vanish: no request may hang on one of them.
            x = x * (torch.rand(ids.shape) > drop).unsqueeze(1)
        x = x + F.relu(self.conv_norm(self.conv(x)))
        weights = torch.softmax(self.scores(x) + absent, dim=-1)
        pooled = torch.matmul(weights, x.transpose(1, 2)).flatten(1)
        if drop and self.training:
            pooled = F.dropout(pooled, 0.1)
        return F.relu(self.hidden(pooled))

    def settle_empty(self):
        """Makes the token of an empty text the corner of the embedding that the desk head calls `none` most surely."""
        weight = self.logits.weight.detach()
        self.nothing.copy_(1e-3 * torch.sign(weight[common.NONE] - weight[: common.NONE].mean(0)))

    def forward(self, ids: torch.Tensor):
        h = self.body(ids)
        # -10000 without a single piece, 0 otherwise.
        empty = torch.where(ids == 0, -1e4, 0.0).amax(1, keepdim=True)
        e = torch.tanh(self.embedding(h) - empty * self.nothing)
        return e, self.logits(e), self.intents(h)

    def with_teacher_view(self, ids: torch.Tensor, drop: float):
        h = self.body(ids, drop)
        e = torch.tanh(self.embedding(h))
        return self.logits(e), self.intents(h), self.teacher_view(h)


def first_words(source_ids: np.ndarray) -> torch.Tensor:
    """The kept pieces' word vectors of the teacher, reduced to WIDTH principal components, unit variance; [PAD] is zero."""
    full = sentence_teacher.word_vectors()[torch.from_numpy(source_ids)]
    full = full - full[2:].mean(0)
    _, _, v = torch.linalg.svd(full[2:], full_matrices=False)
    words = full @ v[:WIDTH].T
    words = words / words[2:].std() * 0.3
    words[:2] = 0
    return words


def corpus(task: Task, words: list[str], rng: np.random.Generator):
    """(texts, kind) to learn from; kind 0 = original, 1 = variant (the teacher decides), 2 = out of scope."""
    pool = task.text["train"]
    texts = list(pool)
    kinds = [0] * len(pool)
    for _ in range(VARIANTS):
        texts += [text_augment.variant(t, pool, words, rng) for t in pool]
    light = [text_augment.slip(text_augment.padded(t, rng) if rng.random() < 0.3 else t, rng, 0.2) for t in pool]
    texts += light
    kinds += [1] * (len(texts) - len(kinds))
    outside = out_of_scope(task, words, rng, 5000)
    return texts + outside, np.array(kinds + [2] * len(outside))


def out_of_scope(task: Task, words: list[str], rng: np.random.Generator, count: int) -> list[str]:
    """Texts for which `none` is right: the set's own, project-made questions, nonsense, nothing at all."""
    out = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.35:
            text = task.text["oos_train"][int(rng.integers(len(task.text["oos_train"])))]
            text = text_augment.padded(text, rng) if rng.random() < 0.3 else text
        elif kind < 0.75:
            text = text_augment.off_topic(rng)
        elif kind < 0.98:
            text = text_augment.gibberish(words, rng)
        else:
            text = ("", "你好", "我要换卡", "здравствуйте", "مرحبا", "?", "...")[int(rng.integers(7))]
        out.append(text_augment.slip(text, rng, 0.15) if rng.random() < 0.3 else text)
    return out


def targets_of(task: Task, kinds, intents=None, teacher_logits=None, desk_logits=None):
    """Soft targets ([N,150], [N,11]): half truth and half teacher for originals, the teacher for variants, flat for kind 2."""
    count = len(kinds)
    fine = np.full((count, len(task.intents)), 1 / len(task.intents), np.float32)
    desk = np.zeros((count, len(common.LABELS)), np.float32)
    desk[:, common.NONE] = 1
    first = np.flatnonzero(kinds == 0)
    hard_fine, hard_desk = np.zeros((len(first), fine.shape[1]), np.float32), np.zeros((len(first), desk.shape[1]), np.float32)
    hard_fine[np.arange(len(first)), intents] = 1
    hard_desk[np.arange(len(first)), task.desk_of_intent[intents]] = 1
    fine[first], desk[first] = hard_fine, hard_desk
    if teacher_logits is not None:
        soft_fine, soft_desk = common.softmax(teacher_logits).astype(np.float32), common.softmax(desk_logits).astype(np.float32)
        variants = kinds == 1
        fine[variants], desk[variants] = soft_fine[variants], soft_desk[variants]
        fine[first] = 0.5 * hard_fine + 0.5 * soft_fine[first]
        desk[first] = 0.5 * hard_desk + 0.5 * soft_desk[first]
    return fine, desk


def common_words() -> list[str]:
    """Whole words of the teacher's vocabulary, the frequent ones."""
    vocab = sentence_teacher.tokenizer().get_vocab()
    return [w for w, _ in sorted(vocab.items(), key=lambda row: row[1]) if w.isascii() and w.isalpha() and len(w) > 1][:8000]


def taught(task: Task, log):
    """The fine-tuned teacher."""
    rng = common.seed_all(SEED)
    words, tok = common_words(), sentence_teacher.tokenizer()
    texts = [text_augment.slip(t, rng, 0.15) if rng.random() < 0.15 else t for t in task.text["train"]]
    outside = task.text["oos_train"] * 6 + [text_augment.off_topic(rng) for _ in range(600)]
    outside += [text_augment.gibberish(words, rng) for _ in range(250)]
    kinds = np.array([0] * len(texts) + [2] * len(outside))
    fine, desk = targets_of(task, kinds, task.intent["train"])
    teacher = sentence_teacher.Teacher(len(task.intents), len(common.LABELS))
    rows = sentence_teacher.encode(tok, texts + outside)
    sentence_teacher.fine_tune(teacher, rows, fine, desk, TEACHER_EPOCHS, SEED, log)
    return teacher


def fit(student: Student, ids: np.ndarray, kinds, fine, desk, view, epochs: int, log):
    """Cross-entropy with the soft targets, and the teacher's sentence embedding (cosine) as a side task."""
    rng = np.random.default_rng(SEED)
    lengths = np.maximum((ids != 0).sum(1), 1)
    ids, fine, desk, view = (torch.from_numpy(a) for a in (ids, fine, desk, view))
    size, peak = 128, 2e-3
    fast = [student.words]
    slow = [p for n, p in student.named_parameters() if n != "words"]
    opt = torch.optim.AdamW([{"params": fast, "weight_decay": 0.0}, {"params": slow, "weight_decay": 0.01}], lr=peak)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, peak, total_steps=epochs * (len(ids) // size + 2), pct_start=0.1)
    start = time.time()
    for epoch in range(epochs):
        student.train()
        total = 0.0
        order = np.argsort(lengths + rng.random(len(ids)) * 1.5)
        chunks = [c for c in np.split(order, range(size, len(ids), size)) if len(c)]
        rng.shuffle(chunks)
        for pick in chunks:
            cut = int(lengths[pick].max())
            logits, intents, seen = student.with_teacher_view(ids[pick, :cut], 0.08)
            loss = F.cross_entropy(intents, fine[pick]) + 0.5 * F.cross_entropy(logits, desk[pick])
            loss = loss + 2.0 * (1 - F.cosine_similarity(seen, view[pick])).mean()
            opt.zero_grad(set_to_none=True)
            loss.backward()
            with torch.no_grad():
                student.words.grad[0] = 0
            opt.step()
            plan.step()
            total += loss.item() * len(pick)
        log(f"  request epoch {epoch + 1}/{epochs}: loss {total / len(ids):.3f}, {time.time() - start:.0f} s")


def settings(task: Task, run) -> dict:
    """Temperatures and threshold, from requests kept out of training and fresh out-of-scope texts. `run`: texts -> outputs."""
    rng = np.random.default_rng(SEED + 3)
    _, logits, intents = run(task.text["held"])
    _, outside, _ = run([text_augment.off_topic(rng) for _ in range(40)] + [text_augment.gibberish(common_words(), rng) for _ in range(20)])
    temperature = common.fit_temperature(intents, task.intent["held"])
    likeliest = common.softmax(intents, temperature).max(1)
    desks = np.concatenate([task.desk_of_intent[task.intent["held"]], np.full(len(outside), common.NONE)])
    return {
        "temperature": round(common.fit_temperature(np.concatenate([logits, outside]), desks), 3),
        "intents_temperature": round(temperature, 3),
        "intents_threshold": round(float(np.quantile(likeliest, REJECTED_MAX)), 3),
    }


def scores(task: Task, run, chosen: dict) -> dict:
    """The measures on CLINC150's val and oos_val, in percent, with the settings of `settings`."""
    truth = task.intent["val"]
    _, logits, intents = run(task.text["val"])
    _, outside_logits, outside_intents = run(task.text["oos_val"])
    p, q = (common.softmax(z, chosen["intents_temperature"]) for z in (intents, outside_intents))
    right, kept = p.argmax(1) == truth, p.max(1) >= chosen["intents_threshold"]
    found = {
        "intents_accuracy": right.mean(),
        "intents_accuracy_after_threshold": (right & kept).mean(),
        "in_scope_rejected": 1 - kept.mean(),
        "out_of_scope_recall": (q.max(1) < chosen["intents_threshold"]).mean(),
        "out_of_scope_recall_desk_head": (outside_logits.argmax(1) == common.NONE).mean(),
        "desk_accuracy": (logits.argmax(1) == task.desk_of_intent[truth]).mean(),
    }
    desks = common.softmax(logits, chosen["temperature"])
    return {name: round(100 * float(value), 2) for name, value in found.items()} | {
        "desk_ece": round(common.ece(desks, task.desk_of_intent[truth]), 2),
        "intents_ece": round(common.ece(p, truth), 2),
    }


def onnx_outputs(model, tok: Tokenizer):
    """texts -> (embedding, logits, intents) by an ONNX file through onnxruntime."""

    def run(texts):
        found = common.onnx_run(model, {"ids": ids_of(tok, texts)})
        return [found[name].reshape(len(texts), -1) for name in ("embedding", "logits", "intents")]

    return run


def train(log=print) -> dict:
    """Trains, exports and measures; writes request.int8.onnx and tokenizer.json into the bundle, metrics into the cache."""
    start = time.time()
    task = Task()
    tok, source_ids = cut_tokenizer(task, common.BUNDLE / "tokenizer.json")
    texts, kinds, view, teacher_intents, teacher_desks = answered(task, log)
    log(f"request: {len(texts)} texts answered by the teacher, {time.time() - start:.0f} s")
    fine, desk = targets_of(task, kinds, task.intent["train"], teacher_intents, teacher_desks)
    common.seed_all(SEED + 2)
    student = Student(first_words(source_ids), len(task.intents))
    ids = ids_of(tok, texts)
    check_against_runtime(tok, task.text["val"])
    fit(student, ids, kinds, fine, desk, view, EPOCHS, log)
    return export(task, tok, student, ids[:: len(ids) // 1500], time.time() - start, log)


def answered(task: Task, log):
    """The corpus with the teacher's answers, kept in the cache under the hash of what makes them."""
    sources = [Path(m.__file__).read_text() for m in (sentence_teacher, text_augment)]
    recipe = Path(__file__).read_text()
    sources += [recipe[recipe.index(f"def {name}") :].split("\n\n\n")[0] for name in ("taught", "corpus", "out_of_scope")]
    settings_used = (SEED, VARIANTS, TEACHER_EPOCHS, HELD_PER_INTENT)
    key = common.hashlib.sha256("".join([*sources, str(settings_used)]).encode()).hexdigest()[:12]
    path = common.cache("request", f"answers-{key}.npz")
    if not path.exists():
        teacher = taught(task, log)
        texts, kinds = corpus(task, common_words(), common.seed_all(SEED + 1))
        rows = sentence_teacher.encode(sentence_teacher.tokenizer(), texts)
        view, intents, desks = (a.astype(np.float16) for a in sentence_teacher.answers(teacher, rows))
        np.savez(path, texts=np.array(texts), kinds=kinds, view=view, intents=intents, desks=desks)
    with np.load(path) as stored:
        return [str(t) for t in stored["texts"]], stored["kinds"], *(stored[n].astype(np.float32) for n in ("view", "intents", "desks"))


def look_up_in_int8(path):
    """Moves the dequantization of the word table behind the lookup: 32 rows a text instead of the whole table at every start."""
    model = onnx.load(path)
    nodes = {n.output[0]: n for n in model.graph.node}
    gather = next(n for n in model.graph.node if n.op_type == "Gather")
    table = nodes[gather.input[0]]
    picked = helper.make_node("Gather", [table.input[0], gather.input[1]], ["words_picked"], name="words_picked", axis=0)
    scaled = helper.make_node("DequantizeLinear", ["words_picked", *table.input[1:]], list(gather.output), name="words", axis=2)
    kept = []
    for node in model.graph.node:
        if node.name == gather.name:
            kept += [picked, scaled]
        elif node.name != table.name:
            kept.append(node)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def export(task: Task, tok: Tokenizer, student: Student, calibration: np.ndarray, seconds: float, log=print) -> dict:
    """ONNX in f32 and int8, measured on val; the metrics."""
    f32, int8 = common.cache("request.f32.onnx"), common.BUNDLE / "request.int8.onnx"
    student.settle_empty()
    common.export_onnx(student, torch.from_numpy(calibration[:1]), f32, ["ids"], ["embedding", "logits", "intents"])
    common.quantize_static(f32, int8, {"ids": calibration})
    look_up_in_int8(int8)
    chosen = settings(task, onnx_outputs(int8, tok))
    metrics = chosen | {
        "f32": scores(task, onnx_outputs(f32, tok), chosen),
        "int8": scores(task, onnx_outputs(int8, tok), chosen),
        "model_bytes": int8.stat().st_size,
        "tokenizer_bytes": (common.BUNDLE / "tokenizer.json").stat().st_size,
        "sha256": common.sha256(int8),
        "train_seconds": round(seconds),
    }
    common.write_json(common.cache("request_metrics.json"), metrics)
    log(json.dumps(metrics, indent=1))
    return metrics


def main():
    train()


if __name__ == "__main__":
    main()
