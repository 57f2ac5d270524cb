"""Shell scripts, put together from quoted words."""

import shlex
from collections.abc import Iterable, Mapping

from fusekit_tpu.launch.job import Job

HEAD = "#!/usr/bin/env bash"
STRICT = "set -euo pipefail"


def script(*parts: str | Iterable[str]) -> str:
    """A script from lines and blocks of lines; `STRICT` after the comments that begin it."""
    lines = [HEAD]
    for part in parts:
        lines += [part] if isinstance(part, str) else part
    return "\n".join(lines) + "\n"


def comment(text: str) -> str:
    return f"# {text}"


def exports(variables: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def command(head: Iterable[str], *options: Iterable[str]) -> str:
    """A command with each option on a line of its own; all words quoted."""
    return " \\\n  ".join(shlex.join(part) for part in (head, *options))


def start(job: Job) -> str:
    """The script of one process: goes on with the newest run that has a checkpoint, or begins one.

    Every process decides alike. A checkpoint is sealed only after all have trained together, so
    none can find one that another did not.
    """
    train = job.command("$here/config.yaml")
    quoted = [f'"{word}"' if word.startswith("$here") else shlex.quote(word) for word in train]
    root = shlex.quote(f"{job.runs.path}/{job.name}")
    return script(
        comment(f"Trains {job.name} on {job.topology}: in each process, at the start and after"),
        comment("every restart. With a sealed checkpoint there it goes on from it."),
        STRICT,
        'here=$(cd "$(dirname "$0")" && pwd)',
        exports(job.environment),
        f"root={root}",
        "latest=",
        'for seal in "$root"/*/checkpoints/*/digests.json'
        ' "$root"/*/stages/*/checkpoints/*/digests.json; do',
        '  if [ -e "$seal" ]; then',
        '    run=${seal#"$root"/}',
        "    run=$root/${run%%/*}",
        "    if [[ $run > $latest ]]; then latest=$run; fi",
        "  fi",
        "done",
        f"command=({' '.join(quoted)})",
        'if [ -n "$latest" ]; then command+=(--resume "$latest"); fi',
        'exec "${command[@]}"',
    )
