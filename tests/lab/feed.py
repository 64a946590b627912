"""The bundle's demo recording as a camera and a microphone see it: feed.py RECORDING FOLDER.

Writes frames.yuyv (640x480, five pictures a second, for the guest), frames.y4m (the same pixels, for the replay that the guest is
compared with), sound.wav (16 kHz) and shown.json (the classes that are shown, in order). Typed requests are left out: nobody types in the
lab.
"""

import io
import json
import sys
import wave
from pathlib import Path

import numpy as np
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory
from PIL import Image

WIDTH, HEIGHT, HZ, RATE_HZ = 640, 480, 5, 16000


def yuv422(image):
    """Planes of 8 bits, BT.601 limited range: Y [480, 640], U and V [480, 320]."""
    full = np.asarray(image.convert("YCbCr").resize((WIDTH, HEIGHT)), dtype=np.float32)
    y = full[..., 0] * 219 / 255 + 16
    chroma = (full[..., 1:] - 128) * 224 / 255 + 128
    half = chroma.reshape(HEIGHT, WIDTH // 2, 2, 2).mean(axis=2)
    planes = (y, half[..., 0], half[..., 1])
    return [np.clip(np.round(p), 0, 255).astype(np.uint8) for p in planes]


def yuyv(planes):
    """The planes packed, Y0 U Y1 V."""
    packed = np.empty((HEIGHT, WIDTH // 2, 4), dtype=np.uint8)
    packed[..., 0], packed[..., 2] = planes[0][:, 0::2], planes[0][:, 1::2]
    packed[..., 1], packed[..., 3] = planes[1], planes[2]
    return packed.tobytes()


def main(recording, folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures, sound, first, labels = [], np.zeros(0, dtype=np.int16), None, []
    with open(recording, "rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for schema, _, message in reader.iter_messages():
            first = message.log_time if first is None else first
            t_s = (message.log_time - first) / 1e9
            if schema.name == "foxglove.CompressedImage":
                from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
                pictures.append((t_s, CompressedImage.FromString(message.data).data))
            elif schema.name == "attendant.Truth":
                labels.append(json.loads(message.data).get("label"))
            elif schema.name == "foxglove.RawAudio":
                from foxglove_schemas_protobuf.RawAudio_pb2 import RawAudio
                block = np.frombuffer(RawAudio.FromString(message.data).data, dtype="<i2")
                at = round(t_s * RATE_HZ)
                if at + len(block) > len(sound):
                    sound = np.concatenate([sound, np.zeros(at + len(block) - len(sound), dtype=np.int16)])
                sound[at : at + len(block)] = block
    (folder / "shown.json").write_text(json.dumps([label for label in labels if label]))
    end_s = max(pictures[-1][0], len(sound) / RATE_HZ)
    cached = (None, None)
    with open(folder / "frames.yuyv", "wb") as raw, open(folder / "frames.y4m", "wb") as y4m:
        y4m.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{HZ}:1 Ip A1:1 C422\n".encode())
        for number in range(int(end_s * HZ)):
            shown = [data for t_s, data in pictures if t_s <= number / HZ][-1:] or [pictures[0][1]]
            if cached[0] is not shown[0]:
                planes = yuv422(Image.open(io.BytesIO(shown[0])))
                cached = (shown[0], (planes, yuyv(planes)))
            planes, packed = cached[1]
            raw.write(packed)
            y4m.write(b"FRAME\n" + b"".join(p.tobytes() for p in planes))
    with wave.open(str(folder / "sound.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE_HZ)
        out.writeframes(sound.tobytes())
    print(f"{len(pictures)} pictures, {len(sound) / RATE_HZ:.1f} s of sound")


if __name__ == "__main__":
    main(*sys.argv[1:3])
