"""Make the AV-digits data set: a handwritten digit and the same digit's name spoken.

Rebuild with espeak-ng 1.51 on the path and numpy, scipy and scikit-learn installed:

    python tools/make_av_digits.py build

`check` rebuilds in memory and compares with the file, `choose` prints the table by which the
noise was chosen, `score` the scores of each modality alone. No two modalities are ever scored
together here: the noise is set without a look at what fusion makes of it.

Chosen: image noise of standard deviation 5.5 (pixels run 0..16) and an SNR of 5 dB for the
speech. `choose` looks at training and validation rows only; aim: each modality alone between
0.80 and 0.87, and the two equally hard. SVM accuracy on the validation rows:

    image  clean 0.978   noisy 0.832
    audio  clean 0.951   noisy 0.859   (0.832 on voices left out of the training rows)
"""

import argparse
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]

FILE = Path(__file__).parents[1] / "modules/fusekit_modules/sources/data/av_digits.npz"
SEED = 7
IMAGE_NOISE = 5.5  # standard deviation on the 0..16 pixel scale
SNR = 5.0  # decibels

DIGITS = "zero one two three four five six seven eight nine"
ENGLISH = "en-gb en-us en-gb-scotland en-gb-x-gbclan en-gb-x-rp en-gb-x-gbcwmd en-029 en-us-nyc"
# The variants of espeak-ng 1.51 less klatt*, robosoft*, whisper*, UniRobot, anikaRobot,
# announcer, Demonic, fast, and caleb (the same sound as klatt).
VARIANTS = """
Alex Alicia Andrea Andy Annie AnxiousAndy Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco
Mario Michael Mike Mr_serious Nguyen RicishayMax RicishayMax2 RicishayMax3 Storm Tweaky adam
anika antonio aunty belinda benjamin boris croak david ed edward edward2 f1 f2 f3 f4 f5 grandma
grandpa gustave iven iven2 iven3 iven4 john kaukovalta linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max
michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 steph3 travis
victor zac
"""
WORDS, ACCENTS, VOICES = DIGITS.split(), ENGLISH.split(), VARIANTS.split()
TEST_VOICES = 25
TRAIN, VALIDATION, TEST = 0, 1, 2
VALIDATION_SHARE = 0.15

RATE, FRAME, HOP, FFT, FRAMES, BANDS = 8000, 400, 200, 512, 31, 32
LENGTH = FRAME + HOP * (FRAMES - 1)  # 0.8 s
JITTER = 800  # the word starts within the first 0.1 s
DB_FLOOR, DB_STEP, DB_LEVELS = -35.0, 1.25, 64


def family(voice: str) -> str:
    """Return the name that numbered versions of one voice share; f1..f5, m1..m8 are distinct."""
    return voice if re.fullmatch(r"[fm]\d", voice) else voice.rstrip("0123456789")


def choose_test_voices(rng: np.random.Generator) -> set[int]:
    """Draw whole families of voices until at least TEST_VOICES are held out."""
    families = sorted({family(voice) for voice in VOICES})
    chosen: set[int] = set()
    for i in rng.permutation(len(families)):
        if len(chosen) < TEST_VOICES:
            chosen |= {k for k, voice in enumerate(VOICES) if family(voice) == families[i]}
    return chosen


def assign_voices(label: Ints, rng: np.random.Generator) -> Ints:
    """Give each image a voice, every voice as often as any other within a class."""
    voice = np.empty_like(label)
    for digit in range(10):
        rows = np.flatnonzero(label == digit)
        rounds = [rng.permutation(len(VOICES)) for _ in range(len(rows) // len(VOICES) + 1)]
        voice[rows] = np.concatenate(rounds)[: len(rows)]
    return voice


def speak(word: str, accent: str, voice: str, rate: int, pitch: int) -> Floats:
    """Return one utterance at 8 kHz, silence trimmed, mean power 1, cut at 0.8 s."""
    name = f"{accent}+{voice.replace('_', ' ')}"
    command = ["espeak-ng", "-v", name, "-s", str(rate), "-p", str(pitch), "--stdout", word]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    samples = np.frombuffer(wav[44:], "<i2").astype(np.float64)  # 44 bytes of header
    wave = resample_poly(samples, 160, 441)
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    wave = wave[loud[0] : loud[-1] + 1][:LENGTH]
    return wave / np.sqrt(np.mean(wave**2))


def mel_filters() -> Floats:
    """Return BANDS triangular filters, even on the mel scale from 60 Hz to 4 kHz."""
    low, high = 2595 * np.log10(1 + np.array([60, RATE / 2]) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    frequency = np.fft.rfftfreq(FFT, 1 / RATE)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise, fall = (frequency - left) / (centre - left), (right - frequency) / (right - centre)
    return np.maximum(0, np.minimum(rise, fall))


def log_mel(waves: Floats) -> NDArray[np.uint8]:
    """Return the log-mel power of `waves` (n, LENGTH) as codes (n, FRAMES, BANDS)."""
    frames = np.lib.stride_tricks.sliding_window_view(waves, FRAME, axis=1)[:, ::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), FFT)) ** 2 / FRAME
    decibels = 10 * np.log10(power @ mel_filters().T + 1e-12)
    codes = np.round((decibels - DB_FLOOR) / DB_STEP)
    return np.clip(codes, 0, DB_LEVELS - 1).astype(np.uint8)


def speech() -> tuple[Arrays, Floats, Floats]:
    """Return the noise-free arrays, the waveforms and white noise of power 1 beside them."""
    digits: Any = load_digits()
    label = digits.target.astype(np.int64)
    assign, held, place, noise = map(np.random.default_rng, np.random.SeedSequence(SEED).spawn(4))
    voice = assign_voices(label, assign)
    accent = assign.integers(len(ACCENTS), size=len(label))
    rate = assign.integers(120, 241, size=len(label))
    pitch = assign.integers(20, 81, size=len(label))
    waves = np.zeros((len(label), LENGTH))
    for row in range(len(label)):
        wave = speak(
            WORDS[label[row]], ACCENTS[accent[row]], VOICES[voice[row]], rate[row], pitch[row]
        )
        start = place.integers(min(JITTER, LENGTH - len(wave)) + 1)
        waves[row, start : start + len(wave)] = wave
    test = np.isin(voice, sorted(choose_test_voices(held)))
    split = np.where(test, TEST, TRAIN)
    _, validation = train_test_split(
        np.flatnonzero(~test),
        test_size=VALIDATION_SHARE,
        stratify=label[~test],
        random_state=SEED,
    )
    split[validation] = VALIDATION
    arrays = {
        "image_clean": digits.images.astype(np.uint8),
        "label": label.astype(np.uint8),
        "split": split.astype(np.uint8),
        "voice": voice.astype(np.uint8),
        "accent": accent.astype(np.uint8),
        "rate": rate.astype(np.uint8),
        "pitch": pitch.astype(np.uint8),
        "voice_names": np.array(VOICES),
        "accent_names": np.array(ACCENTS),
        "word_names": np.array(WORDS),
        "audio_floor": np.float32(DB_FLOOR),
        "audio_step": np.float32(DB_STEP),
    }
    return arrays, waves, noise.standard_normal(waves.shape)


def noisy_images(clean: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    """Add Gaussian noise to the pixels, round, and clip to 0..16."""
    noise = np.random.default_rng(SEED + 1).standard_normal(clean.shape)
    return np.clip(np.round(clean + deviation * noise), 0, 16).astype(np.uint8)


def noisy_audio(waves: Floats, noise: Floats, snr: float) -> NDArray[np.uint8]:
    """Mix speech and white noise at `snr` decibels, power of speech taken while it sounds."""
    return log_mel(waves + 10 ** (-snr / 20) * noise)


def scores(x: NDArray[Any], arrays: Arrays, on: int) -> tuple[float, float]:
    """Return the accuracy of an SVM and of a logistic regression fitted on one modality."""
    x, y = x.reshape(len(x), -1), arrays["label"]
    fit, ask = arrays["split"] == TRAIN, arrays["split"] == on
    svm = SVC(C=10).fit(x[fit], y[fit])
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    linear.fit(x[fit], y[fit])
    return float(svm.score(x[ask], y[ask])), float(linear.score(x[ask], y[ask]))


def unseen_voice_score(x: NDArray[Any], arrays: Arrays) -> float:
    """Return the SVM's accuracy within the training rows, on folds of voices left out."""
    fit = arrays["split"] == TRAIN
    names = [family(VOICES[k]) for k in arrays["voice"][fit]]
    x, y = x.reshape(len(x), -1)[fit], arrays["label"][fit]
    return float(cross_val_score(SVC(C=10), x, y, groups=names, cv=GroupKFold(4)).mean())


def choose() -> None:
    """Print single-modality scores over noise levels; the test rows are not looked at."""
    arrays, waves, noise = speech()
    print("image noise | svm | logistic, on validation")
    for deviation in (0, 4, 5, 5.5, 6):
        x = noisy_images(arrays["image_clean"], deviation) / 16
        print(deviation, *(f"{score:.3f}" for score in scores(x, arrays, VALIDATION)))
    print("audio SNR | svm | logistic, on validation | svm, unseen training voices")
    for snr in (99, 15, 10, 5, 2.5, 0, -5):
        x = noisy_audio(waves, noise, snr) * DB_STEP
        found = (*scores(x, arrays, VALIDATION), unseen_voice_score(x, arrays))
        print(snr, *(f"{score:.3f}" for score in found))


def build() -> Arrays:
    """Return every array of the file, at the chosen noise levels."""
    arrays, waves, noise = speech()
    return arrays | {
        "image": noisy_images(arrays["image_clean"], IMAGE_NOISE),
        "audio": noisy_audio(waves, noise, SNR),
        "audio_clean": log_mel(waves),
        "image_noise": np.float32(IMAGE_NOISE),
        "audio_snr": np.float32(SNR),
    }


def check() -> None:
    """Build again and say which arrays differ from the file's."""
    built, kept = build(), np.load(FILE)
    same = {key for key in built if key in kept and np.array_equal(built[key], kept[key])}
    print("differ:", ", ".join(sorted({*built, *kept} - same)) or "none")


def score() -> None:
    """Print the validation and test accuracy of each modality alone, from the file."""
    arrays = dict(np.load(FILE))
    print("modality | validation svm, logistic | test svm, logistic")
    for name, scale in (("image", 1 / 16), ("audio", DB_STEP)):
        for key in (f"{name}_clean", name):
            found = (scores(arrays[key] * scale, arrays, on) for on in (VALIDATION, TEST))
            print(key, *(f"{value:.3f}" for pair in found for value in pair))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the AV-digits data set.")
    parser.add_argument("action", choices=("build", "check", "choose", "score"))
    match parser.parse_args().action:
        case "build":
            np.savez_compressed(FILE, allow_pickle=False, **build())
        case "check":
            check()
        case "choose":
            choose()
        case _:
            score()
