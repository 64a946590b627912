"""The card encoder: a small CNN that reads the digit on a card out of a grey 64x64 picture.

Renders frames (cards.py), sends them and MNIST's own pictures through `attendant features`, trains from scratch, folds, quantizes,
fits the temperature and measures. Called by train.py; `python -m kiosk.card` in training/ runs it alone. Writes
models/kiosk/card.int8.onnx and training/.cache/card_metrics.json. It does not choose the recipe of the pictures: cards.py does.
"""

import copy
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import cards, common

SEED = 20240605
SIDE = 64
# Rendered frames for training; the corrupted ones are made from every second of them.
FRAMES = 80_000
HELD_FRAMES = 4_000
NONE_SHARE = 0.2
CHUNK = 2_000
EPOCHS = 12
BATCH = 128
RATE = 4e-3
SMOOTHING = 0.01
# Corruption in training reaches past the hard condition, so that the model knows when it cannot know.
TRAIN_STRENGTH = (0.25, 1.5)
# Where a picture comes from; it chooses the augmentation.
SOURCES = {"mnist": 0, "frames": 1, "hard": 2}


# ---------------------------------------------------------------- data

def write_y4m(path, frames):
    """Grey frames u8 [n,h,w] as a mono YUV4MPEG2 stream."""
    n, h, w = frames.shape
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{w} H{h} F5:1 Ip A1:1 Cmono\n".encode())
        for frame in frames:
            file.write(b"FRAME\n")
            file.write(frame.tobytes())


def tensors(frames):
    """What the runtime makes of frames u8 [n,h,w]: u8 [n,64,64] (the tensor before mean and std, which are exact halves)."""
    path = common.cache("card", f"{os.getpid()}.y4m")
    write_y4m(path, np.ascontiguousarray(frames))
    return tensors_of(path, len(frames))


def tensors_of(path, count):
    """The tensors of a stream of `count` frames as in [`tensors`]; removes the stream."""
    rows = common.features("card", path).reshape(-1, SIDE, SIDE)
    if len(rows) != count:
        raise RuntimeError(f"attendant features: {len(rows)} tensors for the {count} frames of {path}, expected one each")
    path.unlink()
    return np.clip(np.round((rows * 0.5 + 0.5) * 255), 0, 255).astype(np.uint8)


def as_input(pictures):
    """u8 [n,64,64] -> f32 [n,1,64,64], mean 0.5, std 0.5 as in bundle.toml."""
    return (np.asarray(pictures, np.float32)[:, None] / 255 - 0.5) / 0.5


def mnist_tensors(split):
    """(u8 [n,64,64], labels): MNIST's pictures as a camera would deliver them, white on black, filling the picture."""
    x, y = cards.mnist(split)
    return cached(f"mnist-{split}", lambda: (tensors(x), y.astype(np.int64)))


def recipe():
    """Names the cache entries of this version of cards.py."""
    return hashlib.sha256((common.REPO / "training/kiosk/cards.py").read_bytes()).hexdigest()[:12]


def cached(name, make):
    """`make()` -> (pictures, labels), kept in the cache under the hash of the recipe."""
    path = common.cache("card", f"{name}-{recipe()}.npz")
    if not path.exists():
        pictures, labels = make()
        np.savez(path, pictures=pictures, labels=labels)
    with np.load(path) as file:
        return file["pictures"], file["labels"]


def render_chunk(job):
    """Writes one chunk of frames, every second one also corrupted, as a stream; (path, labels, source of each frame)."""
    seed, count, split = job
    rng = np.random.default_rng((SEED, seed))
    path = common.cache("card", f"chunk-{split}-{seed}-{count}-{recipe()}.y4m")
    about = path.with_suffix(".npz")
    if not about.exists():
        frames, labels, sources = [], [], []
        for index in range(count):
            label = common.NONE if rng.random() < NONE_SHARE else int(rng.integers(10))
            frame = cards.render(rng, None if label == common.NONE else label, split=split)
            frames.append(frame)
            labels.append(label)
            sources.append(SOURCES["frames"])
            if index % 2:
                frames.append(cards.corrupt(rng, frame, rng.uniform(*TRAIN_STRENGTH)))
                labels.append(label)
                sources.append(SOURCES["hard"])
        write_y4m(path, np.stack(frames))
        np.savez(about, labels=np.array(labels, np.int64), sources=np.array(sources, np.int64))
    with np.load(about) as file:
        return path, file["labels"], file["sources"]


def train_chunk(job):
    """One chunk as tensors: (u8 [n,64,64], labels, sources)."""
    path, labels, sources = render_chunk(job)
    pictures = tensors_of(path, len(labels))
    path.with_suffix(".npz").unlink()
    return pictures, labels, sources


def chunks(count, split, first_seed):
    """The jobs that render `count` frames."""
    return [(first_seed + i, min(CHUNK, count - i * CHUNK), split) for i in range(-(-count // CHUNK))]


def in_parallel(work, jobs):
    """`work` over the jobs on all cores."""
    with get_context("fork").Pool(os.cpu_count()) as pool:
        return pool.map(work, jobs, chunksize=1)


def rendered(count, split, first_seed):
    """`count` frames and half as many corrupted ones: (pictures, labels, sources)."""
    def make():
        cards.fonts(split)
        parts = in_parallel(train_chunk, chunks(count, split, first_seed))
        pictures, labels, sources = (np.concatenate(p) for p in zip(*parts))
        return pictures, np.stack([labels, sources])

    pictures, both = cached(f"{split}-{count}", make)
    return pictures, both[0], both[1]


def augment(rng, pictures, sources):
    """u8 [n,64,64] -> f32 [n,1,64,64] with light shifts, turns, inversion, blur, noise and cut-outs.

    Frames get little of it: the recipe has all of that, and the network is too small to be taught every thing twice. Light and
    contrast are not varied, because the network normalizes them away.
    """
    n = len(pictures)
    raw = sources == SOURCES["mnist"]
    out = np.empty((n, SIDE, SIDE), np.float32)
    turn = np.deg2rad(rng.normal(0, np.where(raw, 7, 4)))
    scale = np.where(rng.random(n) < np.where(raw, 0.12, 0), rng.uniform(0.5, 0.9, n), rng.uniform(0.88, 1.14, n))
    shear = rng.normal(0, np.where(raw, 0.09, 0.04))
    shift = rng.uniform(-4.5, 4.5, (n, 2))
    moved = rng.random(n) < np.where(raw, 0.95, 0.5)
    blurred = rng.random(n) < 0.04
    cut = rng.random(n) < 0.06
    for i in range(n):
        picture = pictures[i]
        if moved[i]:
            c, s = np.cos(turn[i]) * scale[i], np.sin(turn[i]) * scale[i]
            a = np.array(((c, -s + shear[i] * c), (s, c + shear[i] * s)))
            b = SIDE / 2 - a @ (SIDE / 2, SIDE / 2) + shift[i]
            picture = cv2.warpAffine(picture, np.column_stack((a, b)), (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if blurred[i]:
            picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.6))
        out[i] = picture
        if cut[i]:
            y, x = rng.integers(0, SIDE, 2)
            h, w = rng.integers(3, 16, 2)
            out[i, y:y + h, x:x + w] = rng.uniform(0, 255)
    out *= np.float32(1 / 127.5)
    out -= 1
    invert = rng.random(n) < np.where(raw, 0.3, 0.15)
    sigma = np.where(rng.random(n) < 0.2, rng.exponential(0.04, n), 0)
    bank = cards.noise_bank().reshape(-1)
    start = int(rng.integers(len(bank) - out.size)) if out.size < len(bank) else 0
    noise = bank[start:start + out.size].reshape(out.shape)
    out[invert] *= -1
    out += noise * sigma[:, None, None].astype(np.float32)
    np.clip(out, -1, 1, out=out)
    return torch.from_numpy(out[:, None])


# ---------------------------------------------------------------- model

class Card(nn.Module):
    """f32 [n,1,64,64] -> embedding [n,64], logits [n,11].

    The picture is brought to mean 0 and deviation 1 first, because a dim lamp must not change what is read. Three strided
    convolutions reach 8x8 places, two more widen what each place sees to 49 pixels, a whole digit; then one learned attention over
    the places picks where the card is. That finds a small card anywhere, which a flattened map has to learn place by place.
    6.7 million multiply-adds. The classifier sits on the embedding: what the logits know, the fusion gets too.
    """

    def __init__(self, stages=((8, 5, 2), (32, 3, 2), (64, 3, 2), (64, 3, 1), (64, 3, 1))):
        super().__init__()
        layers, before = [], 1
        for width, kernel, stride in stages:
            layers += [nn.Conv2d(before, width, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.trunk = nn.Sequential(*layers)
        self.places = (SIDE // 8) ** 2
        self.where = nn.Conv2d(before, 1, 1)
        self.embed = nn.Linear(before, common.EMBEDDING_LEN)
        self.head = nn.Linear(common.EMBEDDING_LEN, len(common.LABELS))

    def forward(self, x):
        # Average pools rather than means: the runtime's kernel for them is the faster one.
        centered = x - F.adaptive_avg_pool2d(x, 1)
        spread = torch.sqrt(F.adaptive_avg_pool2d(centered * centered, 1) + 0.003)
        seen = self.trunk(centered / spread)
        weight = torch.softmax(self.where(seen).reshape(-1, self.places, 1), 1)
        pooled = torch.matmul(seen.reshape(-1, seen.shape[1], self.places), weight).reshape(-1, seen.shape[1])
        embedding = torch.relu(self.embed(pooled))
        return embedding, self.head(embedding)


def predict(model, pictures):
    """Logits f32 [n,11] of u8 pictures."""
    model.eval()
    with torch.no_grad():
        parts = [model(torch.from_numpy(as_input(pictures[i:i + 500])))[1] for i in range(0, len(pictures), 500)]
    return torch.cat(parts).numpy()


def epoch_order(rng, sources, progress):
    """Which pictures an epoch shows: every frame, half of MNIST, and, once clean frames are read, the corrupted ones."""
    take = [np.flatnonzero(sources == SOURCES["frames"])]
    mnist = np.flatnonzero(sources == SOURCES["mnist"])
    take.append(rng.choice(mnist, len(mnist) // 2, replace=False))
    if progress >= 0.3:
        take.append(np.flatnonzero(sources == SOURCES["hard"]))
    return rng.permutation(np.concatenate(take))


def fit(model, data, epochs, rate=RATE, seed=SEED, watch=None):
    """Trains in place with AdamW, a cosine rate and an average of the weights (EMA); returns the averaged model."""
    pictures, labels, sources = data
    rng = np.random.default_rng((seed, 77))
    steps = sum(len(epoch_order(np.random.default_rng(0), sources, e / epochs)) // BATCH for e in range(epochs))
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=rate)
    warm = min(300, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, 0.5 * (1 + np.cos(np.pi * min(s / steps, 1))) + 1e-3))
    model = model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    ahead = ThreadPoolExecutor(1)  # one batch ahead, one thread, so that the draws keep their order
    step, targets = 0, torch.from_numpy(labels)
    for epoch in range(epochs):
        began, total = time.monotonic(), 0.0
        order = epoch_order(rng, sources, epoch / epochs)
        model.train()
        batches = [order[i:i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]
        coming = ahead.submit(augment, rng, pictures[batches[0]], sources[batches[0]])
        for n, take in enumerate(batches):
            batch = coming.result().to(memory_format=torch.channels_last)
            if n + 1 < len(batches):
                coming = ahead.submit(augment, rng, pictures[batches[n + 1]], sources[batches[n + 1]])
            with torch.autocast("cpu", torch.bfloat16, enabled=common.bf16_is_native()):
                logits = model(batch)[1]
            loss = F.cross_entropy(logits.float(), targets[take], label_smoothing=SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            keep = min(0.998, step / (step + 20))
            with torch.no_grad():
                for a, b in zip(average.state_dict().values(), model.state_dict().values()):
                    if a.dtype.is_floating_point:
                        a.lerp_(b, 1 - keep)
                    else:
                        a.copy_(b)
            total += float(loss.detach())
        note = f"epoch {epoch + 1}/{epochs} loss {total / len(batches):.4f} {time.monotonic() - began:.0f} s"
        if watch and (epoch % 3 == 2 or epoch + 1 == epochs):
            note += "  " + "  ".join(f"{k} {100 * np.mean(predict(average, x).argmax(1) == y):.2f}" for k, (x, y) in watch.items())
        print(note, flush=True)
    return average


# ---------------------------------------------------------------- figures

def evaluation_frames():
    """Name -> a function that makes (frames, labels): MNIST's development test half, held-out frames (eleven classes), the hard
    condition, frames without a digit. Handwriting and fonts of these were not trained on."""
    def mnist():
        x, y = cards.mnist("test")
        return x, y.astype(np.int64)

    return {
        "mnist_test5k": mnist,
        "frames": lambda: cards.clean_cards(11, 4000),
        "hard": lambda: cards.hard_cards(12, 3000),
        "none": lambda: cards.clean_cards(13, 2000, labels=[common.NONE] * 2000),
    }


def evaluation_sets():
    """Name -> (u8 pictures, labels) of [`evaluation_frames`]."""
    def through(make):
        frames, labels = make()
        return tensors(frames), labels

    return {name: cached(f"eval-{name}", lambda: through(make)) for name, make in evaluation_frames().items()}


def figures(logits, labels, temperature):
    """Accuracy, calibration and loss of one set, in percent."""
    p = common.softmax(logits, temperature)
    return {"accuracy": 100 * float(np.mean(logits.argmax(1) == labels)), "ece": common.ece(p, labels),
            "nll": float(-np.log(p[np.arange(len(labels)), labels] + 1e-12).mean()), "n": len(labels)}


def report(f32_path, int8_path):
    """Measures both models on every evaluation set; returns the dictionary that becomes card_metrics.json."""
    held_x, held_y, held_s = rendered(HELD_FRAMES, "held", 900_000)
    raw_x, raw_y = mnist_tensors("held")
    x, y = np.concatenate([held_x, raw_x]), np.concatenate([held_y, raw_y])
    temperature = common.fit_temperature(common.onnx_logits(int8_path, as_input(x)), y)
    result = {"temperature": temperature, "sets": {}, "int8_sha256": common.sha256(int8_path), "int8_bytes": int8_path.stat().st_size}
    for name, (pictures, labels) in evaluation_sets().items():
        rows = {kind: common.onnx_logits(path, as_input(pictures)) for kind, path in (("f32", f32_path), ("int8", int8_path))}
        result["sets"][name] = {kind: figures(logits, labels, temperature) for kind, logits in rows.items()}
        result["sets"][name]["lost"] = result["sets"][name]["f32"]["accuracy"] - result["sets"][name]["int8"]["accuracy"]
        if name == "none":
            p = common.softmax(rows["int8"], temperature)[:, :10].max(1)
            result["none_false_positive"] = {f"p>{t}": 100 * float(np.mean(p > t)) for t in (0.5, 0.8, 0.9)}
    for kind, path in (("f32", f32_path), ("int8", int8_path)):
        run, one = common.session(path), {"image": as_input(raw_x[:1])}
        one = {run.get_inputs()[0].name: one["image"]}
        spent = []
        for _ in range(300):
            began = time.perf_counter()
            run.run(None, one)
            spent.append(time.perf_counter() - began)
        result[f"onnxruntime_{kind}_ms"] = 1e3 * float(np.median(spent))
    return result


# ---------------------------------------------------------------- the command

def build(frames=FRAMES, epochs=EPOCHS, out=None):
    """Trains, exports, quantizes and measures; returns the metrics."""
    began = time.monotonic()
    common.seed_all(SEED)
    mnist_x, mnist_y = mnist_tensors("train")
    frame_x, frame_y, frame_s = rendered(frames, "train", 0)
    data = (np.concatenate([mnist_x, frame_x]), np.concatenate([mnist_y, frame_y]),
            np.concatenate([np.zeros(len(mnist_y), np.int64), frame_s]))
    held = rendered(HELD_FRAMES, "held", 900_000)
    watch = {"mnist": mnist_tensors("held"), **{k: (held[0][held[2] == SOURCES[k]], held[1][held[2] == SOURCES[k]]) for k in ("frames", "hard")}}
    print(f"card: {len(data[1])} pictures after {time.monotonic() - began:.0f} s", flush=True)
    common.seed_all(SEED)
    model = fit(Card(), data, epochs, watch=watch)
    f32_path = common.cache("card.f32.onnx")
    int8_path = out or common.BUNDLE / "card.int8.onnx"
    common.export_onnx(model, torch.zeros(1, 1, SIDE, SIDE), f32_path, ["image"], ["embedding", "logits"])
    torch.save(model.state_dict(), common.cache("card", "card.pt"))
    take = np.random.default_rng(SEED).choice(len(data[1]), 600, replace=False)
    common.quantize_static(f32_path, int8_path, {"image": as_input(data[0][take])})
    metrics = report(f32_path, int8_path)
    metrics["train_s"] = time.monotonic() - began
    common.write_json(common.cache("card_metrics.json"), metrics)
    return metrics


def main():
    """Builds the encoder and prints its figures."""
    metrics = build()
    for name, row in metrics["sets"].items():
        print(f"{name}: int8 {row['int8']['accuracy']:.2f} %, f32 {row['f32']['accuracy']:.2f} %, ece {row['int8']['ece']:.2f} %")
    print(f"temperature {metrics['temperature']:.3f}, none read as a digit {metrics['none_false_positive']}, {metrics['train_s']:.0f} s")


if __name__ == "__main__":
    main()
