"""Builds the wheel and uses it from an empty directory, with no checkout on the path.

Runs check, train (5 steps), show, schema and list, and compares the schema with the file that the
wheel holds for editors. Exits 1 with the output of what failed.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "fusekit:base/av_digits.yaml"
SCHEMA = "fusekit/schema/experiment.json"


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command and gives what it said; on failure prints that and exits."""
    print("$", " ".join(str(part).rsplit("/", 1)[-1] for part in command), flush=True)
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n")
        sys.exit(1)
    return done.stdout


def check_schema(text: str, site: Path) -> None:
    """The installed schema file is there and is what `fusekit schema` says; otherwise exits."""
    file = site / SCHEMA
    if not file.is_file() or json.loads(file.read_text(encoding="utf-8")) != json.loads(text):
        print(f"{SCHEMA} is not in the wheel, or is not what `fusekit schema` says")
        sys.exit(1)


def main() -> None:
    """Builds, installs into a fresh environment, and runs the commands."""
    with tempfile.TemporaryDirectory() as folder:
        empty, dist = Path(folder) / "empty", Path(folder) / "dist"
        empty.mkdir()
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", dist, cwd=ROOT)
        (wheel,) = dist.glob("*.whl")
        venv.create(Path(folder) / "env", with_pip=False, system_site_packages=False)
        env = Path(folder) / "env"
        python = env / "bin" / "python"
        site = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        run(
            sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel,
            cwd=empty,
        )  # fmt: skip
        borrow_dependencies(Path(site))
        fusekit = (python, "-m", "fusekit")
        run(*fusekit, "check", CONFIG, cwd=empty)
        run(*fusekit, "train", CONFIG, "--set", "train.steps=5", "--set", "train.epochs=null",
            cwd=empty)  # fmt: skip
        run(*fusekit, "show", CONFIG, cwd=empty)
        check_schema(run(*fusekit, "schema", cwd=empty), Path(site))
        run(*fusekit, "list", cwd=empty)
        print(f"the wheel works by itself: {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")


def borrow_dependencies(site: Path) -> None:
    """Lets the fresh environment see this one's dependencies, but not the checkout: everything in
    site-packages except what the editable install put there."""
    import sysconfig

    here = Path(sysconfig.get_paths()["purelib"])
    for entry in here.iterdir():
        name = entry.name.lower()
        if "fusekit" in name or name.startswith(("_virtualenv", "pip", "__pycache__")):
            continue
        target = site / entry.name
        if not target.exists():
            target.symlink_to(entry)


if __name__ == "__main__":
    main()
