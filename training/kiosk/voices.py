"""Sound for training and evaluation: recorded digits, synthetic speakers, rooms, microphones and noise.

Called by `speech` and by the scripts that pair modalities or make the demo. All audio here is f32 mono at 16 kHz in [-1, 1].
It trains nothing and computes no features: those come from the Rust binary.

Evaluation recipe (`mix_at_snr`): noise is cut to the length of the clip and scaled so that 10 log10(P_speech / P_noise) = snr_db, P being the
mean power over the clip's samples. A clip not longer than the window stands in the middle of digital silence (`centred`).
"""

import json
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from . import common

RATE_HZ = 16000
WINDOW = RATE_HZ
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FSDD_SPEAKERS = ["george", "jackson", "lucas", "nicolas", "yweweler"]
FSDD_TEST_BELOW = 5

# Not here: homophones of digits (to, too, for, fore, ate, won, sicks), what accents turn into one (tree, free, tu, nein), and
# words that contain a digit's sound (forward, someone, seventy, tonight).
WORDS = """
yes no please thank you sorry okay maybe never always often again hello goodbye morning evening afternoon yesterday monday tuesday friday
card desk number help money bank travel flight hotel ticket train bus taxi airport passport luggage counter queue floor lift stairs door window wall
table chair lamp paper pencil camera screen button machine computer phone battery cable charger music radio movie picture photo color red blue green yellow
black white orange purple brown silver golden water coffee tea sugar milk bread butter cheese apple banana cherry lemon potato tomato rice soup salad chicken
fish meat pepper salt kitchen bathroom garden house street road bridge river mountain ocean island beach summer winter autumn spring snow rain wind storm cloud
sun moon star planet earth people woman child baby mother father brother sister friend doctor nurse teacher student driver manager lawyer
dog cat horse cow sheep bird duck lion tiger monkey rabbit mouse car truck bicycle engine wheel brake garage fuel oil
school office market shop store church museum theater library hospital station
big small large little good bad happy sad angry hungry thirsty tired strong weak fast slow hot cold warm cool dry wet clean dirty
open close start stop begin finish enter leave arrive depart wait hurry walk run jump swim sing dance talk listen speak hear look watch read write
eat drink sleep wake wash cook buy sell pay give take send bring carry push pull turn move play work learn know think believe
who what where when why how which here there everywhere nothing something everything under over above below behind between
left right up down north south east west inside outside near far
fight nice sticks heaven hero zebra wander eleven twelve hundred thousand half quarter double single
fire file fine find mine night knife line wine vine sign side sight white height
fix fish mix kiss this miss
seldom several seminar section settle cellar
ape aid age late great wait
zeal zone zip zoo row arrow narrow euro
watt what want once wow wool
through threat thread throw theory
do due dew new knew blue shoe true chew cool
floor door more sore core pour
hive dive drive live life wife knives
um uh hmm ah oh wow hey huh
""".split()
WORDS = list(dict.fromkeys(WORDS))
HELD_OUT_WORDS = """
breakfast dinner umbrella jacket pocket credit debit account balance password printer ceiling carpet violin guitar orchestra hockey tennis
cabbage carrot mushroom pancake dolphin elephant penguin castle village harbor desert valley volcano question answer problem reason
simple careful quiet noisy heavy light early perhaps suddenly follow remember explain repeat choose borrow return cancel confirm
light right bite fever nightmare sister silver
""".split()
HELD_OUT_WORDS = [w for w in dict.fromkeys(HELD_OUT_WORDS) if w not in WORDS]
PHRASES = """
where is the bathroom|can you help me please|i lost my card|what time is it|how much does it cost|thank you very much|see you later|good morning everybody
i would like a coffee|please hold the line|the train is late again|my phone is dead|it is raining outside|let us go home now|do you speak english
i need a doctor|the lift is broken|please wait here|where do i pay|is there a queue|i cannot find my ticket|could you say that again|that is not right
he is my brother|she works at the bank|we are leaving on monday|the weather is nice|open the window please|close the door behind you|turn the music down
i have a question about my account|what is my balance|transfer some money please|my car will not start|how do i change my password|cancel my order
the baby is crying|our flight was delayed|which gate do we need|put it on the table|never mind|of course|no problem at all|let me think about it
excuse me|i am just looking|are you open on sunday|what happened here|this machine is slow|give me a minute
""".replace("\n", "|").strip("| ").split("|")
HELD_OUT_PHRASES = """
could i get a receipt|the printer is out of paper|my password is wrong|where can i park my car|please call the manager|i want a new bank card
how long is the waiting time|we met at the museum|do not touch the screen|the coffee is cold|i left my umbrella on the bus|is the library closed
what did the teacher say|the children are playing outside|there is a problem with my account|please speak slowly|have a nice evening
""".replace("\n", "|").strip("| ").split("|")

# espeak-ng languages and voice variants; a synthetic speaker is one of each, with a pitch and a speed.
ENGLISH = ["en-us", "en-us", "en-us", "en-gb", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc"]
VARIANTS = """m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt4 Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo
Jacky Lee Marco Mario Michael Mike adam anika announcer antonio aunty belinda benjamin boris caleb croak david ed edward edward2 grandma grandpa gustave
iven iven2 iven3 john linda marcelo max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 travis victor zac whisper""".split()
HELD_OUT_VARIANTS = ["m5", "f4", "Andy", "linda", "benjamin", "steph3", "klatt3", "Storm"]
VARIANTS = [v for v in VARIANTS if v not in HELD_OUT_VARIANTS]
# Foreign accents: the digits spelt so that the voice of another language says them as its speakers of English do.
ACCENTS = {
    "de": ["siero", "wann", "tuh", "srie", "fohr", "faif", "six", "sewwen", "eht", "nein"],
    "fr": ["ziro", "ouanne", "tou", "srie", "fore", "faïve", "sikse", "sévène", "éïte", "naïne"],
    "nl": ["ziero", "wan", "toe", "srie", "foor", "faaiv", "siks", "seven", "eet", "najn"],
    "es": ["sirou", "uan", "tu", "zri", "for", "faiv", "siks", "seven", "eit", "nain"],
    "it": ["ziro", "uan", "tu", "tri", "for", "faiv", "sics", "seven", "eit", "nain"],
    "pl": ["ziroł", "łan", "tu", "sri", "for", "fajw", "syks", "sewen", "ejt", "najn"],
    "sv": ["siro", "wann", "to", "tri", "får", "fajv", "sicks", "seven", "ejt", "najn"],
}


@dataclass
class Clip:
    """A piece of speech. `speaker` is a recorded speaker's name or "espeak/..."; `label` is 0-9 or `common.NONE`; `test` marks what is kept for
    evaluation; `index` counts a recorded speaker's takes of a digit."""

    audio: np.ndarray
    label: int
    speaker: str
    text: str
    test: bool
    index: int = 0


# --- sources -----------------------------------------------------------------------------------------------------------


def resample(x, source_hz, target_hz=RATE_HZ):
    """Polyphase resampling."""
    from math import gcd

    from scipy.signal import resample_poly

    if source_hz == target_hz:
        return x.astype(np.float32)
    g = gcd(int(source_hz), int(target_hz))
    return resample_poly(x, target_hz // g, source_hz // g).astype(np.float32)


def read(path):
    """Any sound file as f32 mono at 16 kHz."""
    import soundfile

    x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return resample(x.mean(1), rate)


def write_wav(path, x):
    """16-bit mono WAV at 16 kHz; values outside [-1, 1] clip."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE_HZ)
        out.writeframes((np.clip(x, -1, 1) * 32767).round().astype("<i2").tobytes())


def fsdd():
    """The recorded digits: index 0-4 of every speaker and digit is test, the rest train."""
    clips = []
    for path in sorted(common.data("fsdd").glob("*.wav")):
        digit, speaker, index = path.stem.split("_")
        clips.append(Clip(read(path), int(digit), speaker, DIGITS[int(digit)], int(index) < FSDD_TEST_BELOW, int(index)))
    return clips


def noises(folds):
    """ESC-10 recordings of the given folds at 16 kHz, without the digital silence some are padded with. Fold 4 is for evaluation only."""
    found = []
    for path in sorted(common.data("esc10").glob("*/*.ogg")):
        if int(path.name.split("-")[0]) in folds:
            x = read(path)
            loud = np.flatnonzero(np.abs(x) > 1e-4)
            found.append(x[: loud[-1] + 1] if len(loud) else x)
    return [x for x in found if len(x) > RATE_HZ // 4]


def say(text, voice="en-us", speed=150, pitch=50):
    """Synthetic speech by espeak-ng, trimmed. `voice` is a language with an optional variant ("en-gb+f3"), `speed` words a minute, `pitch` 0-99."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError as error:
        raise RuntimeError("espeak-ng: not installed; install the package espeak-ng") from error
    if done.returncode != 0 or len(done.stdout) < 100:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    # The header of a streamed WAV states no length: the samples follow its 44 bytes, the rate is in bytes 24-27.
    rate = int.from_bytes(done.stdout[24:28], "little")
    body = done.stdout[44:]
    x = np.frombuffer(body[: len(body) // 2 * 2], "<i2").astype(np.float32) / 32768
    return trim(resample(x, rate))


def trim(x, below_peak_db=35.0):
    """Cuts what is quieter than the peak by `below_peak_db` at both ends, in 10 ms steps, and keeps 20 ms around the rest."""
    step = RATE_HZ // 100
    levels = np.abs(x[: len(x) // step * step].reshape(-1, step)).max(1)
    loud = np.flatnonzero(levels > levels.max() * 10 ** (-below_peak_db / 20)) if len(levels) else []
    return x if len(loud) == 0 else x[max(0, (loud[0] - 2) * step) : (loud[-1] + 3) * step]


def synthetic(seed=1, per_variant=4, words_per_speaker=22):
    """Synthetic speakers saying digits, other words and phrases; cached.

    Training speakers say WORDS and PHRASES, held-out variants say HELD_OUT_WORDS and HELD_OUT_PHRASES (`test`), so that neither voice nor word
    of the evaluation is known.
    """
    rng = np.random.default_rng(seed)
    jobs = []  # (text spoken, voice, speed, pitch, label, text, test)
    for variant in VARIANTS + HELD_OUT_VARIANTS:
        test = variant in HELD_OUT_VARIANTS
        words, phrases = (HELD_OUT_WORDS, HELD_OUT_PHRASES) if test else (WORDS, PHRASES)
        for _ in range(2 if test else per_variant):
            voice = f"{rng.choice(ENGLISH)}+{variant}"
            speed, pitch = int(rng.integers(100, 200)), int(rng.integers(20, 85))
            manner = (voice, speed, pitch)
            jobs += [(d, *manner, k, d, test) for k, d in enumerate(DIGITS)]
            jobs += [(w, *manner, common.NONE, w, test) for w in rng.choice(words, words_per_speaker, replace=False)]
            jobs += [(p, *manner, common.NONE, p, test) for p in rng.choice(phrases, 4, replace=False)]
    for language, spelling in ACCENTS.items():
        for variant in ["m1", "m3", "m7", "f1", "f2", "f3", "Mike", "paul", "anika", "rob"]:
            manner = (f"{language}+{variant}", int(rng.integers(110, 190)), int(rng.integers(25, 75)))
            jobs += [(s, *manner, k, DIGITS[k], False) for k, s in enumerate(spelling)]
    key = common.hashlib.sha256(json.dumps([list(map(str, j)) for j in jobs]).encode()).hexdigest()[:16]
    path = common.cache("voices", f"{key}.npz")
    if not path.exists():
        with ThreadPoolExecutor(3) as pool:
            said = list(pool.map(lambda j: say(*j[:4]), jobs))
        ends = np.cumsum([len(x) for x in said])
        common.save_npz(path, audio=(np.clip(np.concatenate(said), -1, 1) * 32767).astype(np.int16), ends=ends)
    stored = np.load(path)
    audio, ends = stored["audio"], stored["ends"]
    parts = np.split(audio, ends[:-1])
    return [Clip(x.astype(np.float32) / 32767, j[4], f"espeak/{j[1]}/{j[2]}/{j[3]}", j[5], j[6]) for x, j in zip(parts, jobs)]


# --- windows and mixing ------------------------------------------------------------------------------------------------


def centred(clip):
    """The 1 s window that `attendant eval` makes of a clip: in the middle of digital silence, or, if longer, the second with the most energy."""
    n = len(clip)
    if n <= WINDOW:
        out = np.zeros(WINDOW, np.float32)
        at = (WINDOW - n) // 2
        out[at : at + n] = clip
        return out
    energy = np.concatenate([[0.0], np.cumsum(clip.astype(np.float64) ** 2)])
    at = int(np.argmax(energy[WINDOW:] - energy[:-WINDOW]))
    return clip[at : at + WINDOW].astype(np.float32)


def excerpt(rng, noise, length):
    """`length` samples of `noise` from a random place, repeated if it is shorter."""
    if len(noise) < length:
        noise = np.tile(noise, length // len(noise) + 1)
    at = int(rng.integers(0, len(noise) - length + 1))
    return noise[at : at + length]


def loud_excerpt(rng, noise, length, tries=20):
    """An excerpt with sound in it: barks and sneezes have long pauses, and a pause cannot be scaled to an SNR."""
    level = np.mean(noise.astype(np.float64) ** 2)
    for _ in range(tries):
        cut = excerpt(rng, noise, length)
        if np.mean(cut.astype(np.float64) ** 2) > 0.05 * level:
            return cut
    return cut


def mix_at_snr(clip, noise, snr_db):
    """`clip` + `noise` of the same length, noise scaled so that 10 log10(P_clip / P_noise) = `snr_db` over all samples. Scaled down if it would clip."""
    p_clip, p_noise = (float(np.mean(np.asarray(v, np.float64) ** 2)) for v in (clip, noise))
    gain = np.sqrt(p_clip / max(p_noise, 1e-12) / 10 ** (snr_db / 10))
    out = (clip + gain * noise).astype(np.float32)
    return out / max(1.0, float(np.abs(out).max()) / 0.99)


def coloured(rng, length, slope_db_per_octave):
    """Gaussian noise with a power spectrum of the given slope (0 white, -3 pink, -6 brown), RMS 0.1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    f = np.maximum(np.fft.rfftfreq(length, 1 / RATE_HZ), 40.0)
    x = np.fft.irfft(spectrum * (f / 1000) ** (slope_db_per_octave / 6.02), length)
    return (0.1 * x / max(x.std(), 1e-9)).astype(np.float32)


def babble(rng, clips, length, talkers=5):
    """Several clips at once, at random places and levels, RMS 0.1."""
    x = np.zeros(length, np.float32)
    for _ in range(talkers):
        at = 0
        level = 10 ** rng.uniform(-0.4, 0.2)
        while at < length:
            clip = clips[int(rng.integers(len(clips)))].audio
            skip = int(rng.integers(0, RATE_HZ // 3))
            cut = clip[: max(0, length - at - skip)]
            x[at + skip : at + skip + len(cut)] += level * cut
            at += skip + len(clip)
    return 0.1 * x / max(float(x.std()), 1e-6)


# --- rooms and microphones ---------------------------------------------------------------------------------------------


def impulse_response(rng):
    """A small synthetic room: the direct path, a few early reflections, a tail of decaying noise (RT60 0.1-0.7 s)."""
    rt60 = rng.uniform(0.1, 0.7)
    n = int(RATE_HZ * min(rt60, 0.4))
    tail = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / (rt60 * RATE_HZ))
    tail[: int(rng.uniform(0.008, 0.03) * RATE_HZ)] = 0
    tail *= 10 ** (rng.uniform(-18, 0) / 20) / max(np.sqrt((tail**2).sum()), 1e-9)
    tail[0] = 1.0
    for _ in range(int(rng.integers(2, 7))):
        tail[int(rng.uniform(0.001, 0.03) * RATE_HZ)] += rng.choice([-1, 1]) * rng.uniform(0.1, 0.5)
    return tail.astype(np.float32)


def room(rng, x, keep_tail=True):
    """`x` as heard in a random room, at the level it had; with up to 0.2 s of the tail if `keep_tail`."""
    from scipy.signal import fftconvolve

    wet = fftconvolve(x, impulse_response(rng))[: len(x) + (RATE_HZ // 5 if keep_tail else 0)]
    return (wet * np.sqrt(np.mean(x**2) / max(np.mean(wet[: len(x)] ** 2), 1e-12))).astype(np.float32)


def band_limit(rng, x):
    """A telephone (300-3400 Hz), a low-pass microphone, a small loudspeaker, or a tilt."""
    from scipy.fft import next_fast_len

    n = next_fast_len(len(x), True)
    f = np.fft.rfftfreq(n, 1 / RATE_HZ)
    kind = rng.integers(4)
    if kind == 0:
        low, high = rng.uniform(200, 350), rng.uniform(3000, 3700)
    elif kind == 1:
        low, high = rng.uniform(20, 80), rng.uniform(2800, 4000)
    elif kind == 2:
        low, high = rng.uniform(150, 400), 8000.0
    else:
        low, high = 20.0, 8000.0
    gain = 1 / np.sqrt(1 + (low / np.maximum(f, 1)) ** 6) / np.sqrt(1 + (f / high) ** 12)
    gain *= (np.maximum(f, 60) / 1000) ** rng.uniform(-0.7, 0.5)
    y = np.fft.irfft(np.fft.rfft(x, n) * gain, n)[: len(x)]
    return (y * np.sqrt(np.mean(x**2) / max(np.mean(y**2), 1e-12))).astype(np.float32)


def speed(x, factor):
    """Plays `x` faster by `factor`: time, pitch and formants move together."""
    at = np.arange(0, len(x) - 1, factor)
    i = at.astype(int)
    w = (at - i).astype(np.float32)
    # Linear interpolation loses highs above 6 kHz; the features end at 4 kHz.
    return x[i] * (1 - w) + x[i + 1] * w


def microphone(rng, x):
    """Gain between whispering distance and too close, sometimes clipped, and the noise of a cheap converter."""
    x = x / max(float(np.abs(x).max()), 1e-6) * 10 ** rng.uniform(-1.6, 0.0)
    if rng.random() < 0.1:
        top = float(np.abs(x).max()) * rng.uniform(0.3, 0.8)
        x = np.clip(x, -top, top)
    if rng.random() < 0.5:
        x = x + rng.standard_normal(len(x)).astype(np.float32) * 10 ** rng.uniform(-4.5, -2.8)
    return x.astype(np.float32)
