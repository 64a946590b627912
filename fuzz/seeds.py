"""Writes the seeds of fuzz/corpus anew: python3 fuzz/seeds.py. Standard library only; the same bytes every time.

Everything in them is made here or is one of the repository's own test files. Inputs that once broke something are named crash-* and are
kept as they are.
"""

import base64
import json
import struct
import wave
from hashlib import sha256
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz/corpus"


def put(target: str, name: str, data: bytes) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


# ---- recording: MCAP, mcap.dev/spec

MAGIC = b"\x89MCAP0\r\n"


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def record(opcode: int, body: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(body)) + body


def field(number: int, data: bytes) -> bytes:
    """A field of bytes; lengths below 128 are one byte."""
    length = len(data)
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([number << 3 | 2]) + size + data


def fixed32(number: int, value: int) -> bytes:
    return bytes([number << 3 | 5]) + struct.pack("<I", value)


CHANNELS = [
    ("/camera", "foxglove.CompressedImage", "protobuf"),
    ("/thermal", "foxglove.RawImage", "protobuf"),
    ("/mic", "foxglove.RawAudio", "protobuf"),
    ("/text", "attendant.Text", "json"),
    ("/sensor/distance", "attendant.Reading", "json"),
    ("/fault", "attendant.Fault", "json"),
    ("/truth", "attendant.Truth", "json"),
    ("/calls", "attendant.Call", "json"),
    ("/events", "attendant.Event", "json"),
]


def head() -> bytes:
    out = record(1, string("") + string("seeds"))
    for i, (topic, schema, encoding) in enumerate(CHANNELS):
        out += record(3, struct.pack("<H", i + 1) + string(schema) + string("jsonschema") + string(""))
        out += record(4, struct.pack("<HH", i, i + 1) + string(topic) + string(encoding) + struct.pack("<I", 0))
    return out


def message(channel: int, sequence: int, t_us: int, body: bytes) -> bytes:
    t_ns = t_us * 1000
    return record(5, struct.pack("<HIQQ", channel, sequence, t_ns, t_ns) + body)


def messages() -> bytes:
    pcm = struct.pack("<4h", 0, 16384, -32768, 5)
    image = field(2, b"\xff\xd8\x01\x02") + field(3, b"jpeg")
    raw = fixed32(2, 2) + fixed32(3, 2) + field(4, b"mono8") + fixed32(5, 2) + field(6, bytes(4))
    sound = field(2, pcm) + field(3, b"pcm-s16") + fixed32(4, 8000) + fixed32(5, 1)
    return b"".join(
        [
            message(6, 0, 0, b'{"label":"desk_3","shown":["card"],"note":""}'),
            message(0, 0, 5000, image),
            message(1, 0, 6000, raw),
            message(2, 0, 10000, sound),
            message(3, 0, 20000, b'{"text":"hello"}'),
            message(4, 0, 30000, b'{"unit":"m","values":[1.5,null,-2]}'),
            message(5, 0, 40000, b'{"source":"camera","reason":"covered"}'),
        ]
    )


def calls() -> bytes:
    return b"".join(
        [
            message(7, 0, 1000, b'{"now_us":0,"call":"start"}'),
            message(3, 0, 2000, b'{"text":"hello"}'),
            message(7, 1, 2000, b'{"now_us":2000,"call":"sample","source":"text"}'),
            message(8, 0, 2000, b'{"v":1}'),
            message(7, 2, 3000, b'{"now_us":3000,"call":"tick"}'),
        ]
    )


def tail() -> bytes:
    return record(15, struct.pack("<I", 0)) + record(2, struct.pack("<QQI", 0, 0, 0)) + MAGIC


def chunk(body: bytes) -> bytes:
    return record(6, struct.pack("<QQQI", 0, 0, len(body), 0) + string("") + struct.pack("<Q", len(body)) + body)


def recordings() -> None:
    whole = MAGIC + head() + messages() + tail()
    put("recording", "plain", whole)
    put("recording", "chunked", MAGIC + head() + chunk(messages()) + tail())
    put("recording", "cut", whole[: len(whole) * 2 // 3])
    put("recording", "calls", MAGIC + head() + chunk(calls()) + tail())
    put("recording", "unreadable-message", MAGIC + head() + message(3, 0, 0, b"{") + messages() + tail())
    put("recording", "no-record", MAGIC)


# ---- the others


def sound() -> None:
    for name, channels, width in [("mono8", 1, 1), ("mono16", 1, 2), ("stereo24", 2, 3), ("mono32", 1, 4)]:
        out = BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(width)
            file.setframerate(8000)
            file.writeframes(bytes(range(1, 25)))
        put("wav", name, out.getvalue())
    samples = struct.pack("<4f", 0.0, 0.5, float("nan"), 9.0)
    fmt = struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)
    body = b"WAVE" + b"fmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", 0) + samples
    put("wav", "float-unknown-length", b"RIFF" + struct.pack("<I", 0) + body)
    sub = b"\x01\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    fmt = struct.pack("<HHIIHHHHI", 0xFFFE, 2, 8000, 32000, 4, 16, 22, 16, 3) + sub
    body = b"WAVELIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", 40) + fmt + b"data"
    put("wav", "extensible", b"RIFF" + struct.pack("<I", 9) + body + struct.pack("<I", 8) + bytes(8))


def pictures() -> None:
    for path in sorted((ROOT / "tests/golden/jpeg").glob("*.jpg")):
        side = 16 if "4" in path.stem else 7
        put("jpeg", path.stem, bytes([side]) + path.read_bytes())


def frames() -> None:
    for kind, name in enumerate(["mjpeg", "yuyv", "uyvy", "nv12", "yu12", "gray", "rgb"]):
        put("yuv", name, struct.pack("<BHHHB", kind, 8, 6, 0, 0x40) + bytes(range(16, 48)))
        put("yuv", f"{name}-padded", struct.pack("<BHHHB", kind, 5, 3, 32, 0x40) + bytes(range(200, 232)))
    put("yuv", "crash-yu12-no-width", struct.pack("<BHHHB", 4, 0, 2, 0, 0) + bytes(8))
    put("yuv", "gray-endless", struct.pack("<BHHHB", 5, 0xFFFF, 0xFFFF, 0xFFFF, 0x3F) + bytes(8))


def bodies() -> None:
    put("http", "text", b'\x00{"text":"I lost my card"}')
    put("http", "choice", b'\x01{"class":"desk_3"}')
    put("http", "resume", b"\x02run-42")
    payloads = [
        b'{"id":"a","text":"hello"}',
        b'{"class":"desk_3"}',
        b'{"source":"mic","muted":true}',
        b'{"enter":0.7,"exit":0.45}',
        b'{"lang":"en"}',
        b"{}",
    ]
    for i, payload in enumerate(payloads):
        put("http", f"command-{i}", bytes([3, i]) + payload)


def manifests() -> None:
    put("manifest", "kiosk", (ROOT / "models/kiosk/bundle.toml").read_bytes())
    put("manifest", "unknown-key", b'[bundle]\nname = "a"\nversion = "1.0.0"\nnam = "b"\n')
    one = b'[bundle]\nname = "a"\nversion = "1.0.0"\n[[encoder]]\nname = "e"\nsource = "s"\nmodel = "m.onnx"\nlabels = "l.txt"\n'
    put("manifest", "series", one + b'[encoder.series]\nchannels = ["a"]\nwindow_len = 4\nhop_len = 2\nmean = [0.0]\nstd = [1.0]\n')
    put("manifest", "text", one + b'[encoder.text]\ntokenizer = "t.json"\nmax_tokens = 8\n')


def settings() -> None:
    put("config", "device", b"\x00" + (ROOT / "deploy/attendant.toml").read_bytes())
    lines = (
        b'[source.t]\nkind = "lm75"\nbus = "/dev/i2c-1"\n[[output]]\non = "ask"\nline = { label = "c", number = 3 }\n'
        b'[mqtt]\nbroker = "mqtts://b"\n[web]\nlisten = "127.0.0.1:1"\n[speech]\ncommand = ["say"]\n'
        b'[recording]\ndir = "ring"\nring_s = 60\n'
    )
    put("config", "lines", b"\x00" + lines)
    put("config", "wrong-source", b'\x00[source.camera]\nkind = "wav"\n')
    put("config", "board-host", b"\x01" + (ROOT / "boards/host.toml").read_bytes())
    put("config", "board-pi5", b"\x01" + (ROOT / "boards/pi5.toml").read_bytes())


def models() -> None:
    for path in sorted((ROOT / "tests/data/models").glob("*.onnx")):
        put("model", path.stem, path.read_bytes())
    for path in sorted((ROOT / "tests/data/onnx_node").glob("test_*linear*.onnx")):
        if ".data." not in path.name and path.stat().st_size < 600:
            put("model", path.stem.removeprefix("test_"), path.read_bytes())


if __name__ == "__main__":
    for make in [recordings, sound, pictures, frames, bodies, manifests, settings, models]:
        make()
    files = [f for f in CORPUS.rglob("*") if f.is_file()]
    print(f"{len(files)} seeds, {sum(f.stat().st_size for f in files)} bytes")


# ---- packed: docs/bundles-signed.md


def tar(name: str, content: bytes) -> bytes:
    head = bytearray(512)
    for at, text in [
        (0, name), (100, "0000644"), (108, "0000000"), (116, "0000000"), (124, f"{len(content):011o}"),
        (136, "00000000000"), (148, "        "), (156, "0"), (257, "ustar\x0000"),
    ]:  # fmt: skip
        head[at : at + len(text)] = text.encode()
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head) + content + bytes(-len(content) % 512)


def bundle(parts: dict[str, bytes], signature: bytes = b"") -> bytes:
    listed = [{"name": n, "bytes": len(c), "sha256": sha256(c).hexdigest()} for n, c in sorted(parts.items())]
    about = {"format": 1, "name": "x", "version": "1.0.0", "counter": 1, "parts": listed}
    own = tar("manifest.json", json.dumps(about).encode())
    own += tar("manifest.json.minisig", signature) if signature else b""
    return own + b"".join(tar(n, c) for n, c in sorted(parts.items())) + bytes(1024)


SIGNED = b"untrusted comment: signature of an attendant bundle\n" + (
    base64.b64encode(b"ED" + bytes(72)) + b"\ntrusted comment: x\n" + base64.b64encode(bytes(64)) + b"\n"
)
put("packed", "one", bundle({"bundle.toml": b"x"}))
put("packed", "nested", bundle({"bundle.toml": b"x", "text/labels.txt": b"yes\nno\n", "empty": b""}))
put("packed", "signed", bundle({"bundle.toml": b"x"}, SIGNED))
put("packed", "elsewhere", bundle({"bundle.toml": b"x", "../y": b"y"}))
