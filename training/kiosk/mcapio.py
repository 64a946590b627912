"""Writes recordings as the runtime reads them: MCAP, uncompressed chunks, indexed.

Called by the demo's author and by tests/data/make_recording.py. Pictures and sound are Foxglove's protobuf schemas, the rest is
JSON with schemas of our own (docs/recordings.md). It knows nothing of what is shown.
"""

import json

import numpy as np
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawAudio_pb2 import RawAudio
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.timestamp_pb2 import Timestamp
from mcap.writer import CompressionType, Writer
from mcap_protobuf.schema import register_schema

# Readers count from the first message; players of other makes show a date.
BASE_NS = 1_767_225_600 * 10**9  # 2026-01-01T00:00:00Z
CHUNK_BYTES = 256 * 1024

_NUMBER = {"type": "number"}
_STRING = {"type": "string"}


def _object(**properties):
    return {"type": "object", "properties": properties}


JSON_SCHEMAS = {
    "attendant.Text": _object(text=_STRING),
    "attendant.Reading": _object(values={"type": "array", "items": {"type": ["number", "null"]}}),
    "attendant.Fault": _object(source=_STRING, reason=_STRING),
    "attendant.Truth": _object(label=_STRING, shown={"type": "array", "items": _STRING}, note=_STRING),
}


class DemoWriter:
    """`with DemoWriter(path) as w: w.truth(0, "desk_3", ["card"]); w.jpeg(0.1, data, 640, 480)`

    Messages may come in any order: they are written in the order of their times, equal times in the order of the calls.
    Times are seconds from the start of the recording; the first message should be at 0, because readers count from it.
    """

    def __init__(self, path):
        self.path = path
        self._messages = []  # (time ns, order, topic, schema, bytes)

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error is None:
            self.close()

    def jpeg(self, t_s, data, width, height, topic="/camera"):
        """One JPEG file. `width` and `height` are checked against its header."""
        found = jpeg_size(data)
        if found != (width, height):
            raise ValueError(f"{topic} at {t_s} s: the JPEG is {found}, expected {(width, height)}")
        ns = _ns(t_s)
        message = CompressedImage(timestamp=_stamp(ns), frame_id=topic[1:], data=bytes(data), format="jpeg")
        self._protobuf(ns, topic, message)

    def raw_image(self, t_s, data, width, height, encoding, step=0, topic="/camera"):
        """Pixels: `encoding` is mono8, rgb8, yuyv or nv12, `step` the bytes of a row (0: without padding)."""
        ns = _ns(t_s)
        message = RawImage(timestamp=_stamp(ns), frame_id=topic[1:], width=width, height=height, encoding=encoding)
        message.step = step
        message.data = bytes(data)
        self._protobuf(ns, topic, message)

    def audio(self, t_s, samples, rate, topic="/mic"):
        """A block of int16 samples, `[n]` or `[n, channels]`, the first one captured at `t_s`."""
        samples = np.asarray(samples)
        if samples.dtype != np.int16 or samples.ndim not in (1, 2) or samples.size == 0:
            raise ValueError(f"{topic} at {t_s} s: {samples.dtype} {samples.shape}, expected int16 [n] or [n, channels]")
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        ns = _ns(t_s)
        message = RawAudio(timestamp=_stamp(ns), data=samples.astype("<i2").tobytes(), format="pcm-s16")
        message.sample_rate = int(rate)
        message.number_of_channels = channels
        self._protobuf(ns, topic, message)

    def text(self, t_s, text, topic="/text"):
        """A line that was typed."""
        self._json(t_s, topic, "attendant.Text", {"text": text})

    def reading(self, t_s, name, values):
        """One value of every channel of the sensor `name`; None or NaN for one that could not be read."""
        values = [None if v is None or np.isnan(v) else float(v) for v in values]
        self._json(t_s, f"/sensor/{name}", "attendant.Reading", {"values": values})

    def fault(self, t_s, source, reason):
        """The source `source` says that it has failed; it is well again with its next sample."""
        self._json(t_s, "/fault", "attendant.Fault", {"source": source, "reason": reason})

    def truth(self, t_s, label, shown, note=""):
        """From `t_s` on `label` is to be decided; `shown` names the encoders that have something to go by."""
        self._json(t_s, "/truth", "attendant.Truth", {"label": label, "shown": list(shown), "note": note})

    def close(self):
        """Writes the file."""
        writer = Writer(str(self.path), chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
        writer.start(library="attendant training")
        channels, counts = {}, {}
        for ns, _, topic, schema, data in sorted(self._messages, key=lambda m: m[:2]):
            if topic not in channels:
                channels[topic] = self._channel(writer, topic, schema)
            counts[topic] = counts.get(topic, -1) + 1
            log_time = BASE_NS + ns
            writer.add_message(channels[topic], log_time, data, publish_time=log_time, sequence=counts[topic])
        writer.finish()
        self._messages = []

    def _channel(self, writer, topic, schema):
        if isinstance(schema, str):
            encoded = json.dumps({"title": schema, **JSON_SCHEMAS[schema]}).encode()
            return writer.register_channel(topic, "json", writer.register_schema(schema, "jsonschema", encoded))
        return writer.register_channel(topic, "protobuf", register_schema(writer, schema))

    def _json(self, t_s, topic, schema, body):
        data = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        self._messages.append((_ns(t_s), len(self._messages), topic, schema, data))

    def _protobuf(self, ns, topic, message):
        self._messages.append((ns, len(self._messages), topic, type(message), message.SerializeToString()))


def _ns(t_s):
    if not t_s >= 0:
        raise ValueError(f"time {t_s} s, expected 0 or later")
    return round(float(t_s) * 1e9)


def _stamp(ns):
    seconds, nanos = divmod(BASE_NS + ns, 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)


def jpeg_size(data):
    """Width and height from a JPEG's frame header."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
