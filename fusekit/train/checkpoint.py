"""Checkpoints: the whole state by canonical path, where the data stand, and proof of integrity.

A checkpoint does not depend on how the program holds the state (scanned or unrolled layers, mesh,
replicas side by side or in turn), so it can be restored into any program of the same experiment.

    <folder>/<step>/state/      arrays by canonical path (Orbax)
                    state_<k>/  in place of it, for each of several replicas
                    about/      shapes, where the data pipeline stands, and what the writer adds
                    digests.json
"""

import re
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from fusekit.errors import CheckpointError
from fusekit.hosts.rows import agreed
from fusekit.program import Program
from fusekit.train.digest import faults, seal
from fusekit.train.files import tame
from fusekit.train.optimizer import matches
from fusekit.train.replicas import joined, split, step_of
from fusekit.train.shapes import Shapes, compare, needed, shapes_of
from fusekit.train.state import TrainState

FORMAT = 1
PARAMS = "params."


class DamagedWarning(UserWarning):
    """A checkpoint was passed over because its files are not as they were written."""


class Restored(NamedTuple):
    """What a checkpoint held.

    Args:
      state: the state, on the program's devices.
      data: the state of the data pipeline, if there was one.
      step: of the checkpoint.
      extra: what the writer added.
    """

    state: Any
    data: dict[str, Any] | None
    step: int
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: where they lie; made when something is saved.
      keep: how many of the newest stay; with one there is nothing to fall back upon.
      wait: write before `save` returns. Otherwise a thread writes copies made in host memory;
        over several hosts it always waits.
    """

    def __init__(self, folder: str | PathLike[str], *, keep: int = 2, wait: bool = False):
        self.folder, self.keep = Path(folder).absolute(), keep
        self._several = jax.process_count() > 1
        self._thread = None if wait or self._several else ThreadPoolExecutor(1, "checkpoints")
        self._pending: Future[None] | None = None

    # -- writing -------------------------------------------------------------------------------

    def save(
        self,
        program: Program,
        state: Any,
        *,
        data: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> int:
        """Saves a state, or the states of all replicas, under its step. Waits for the save before.

        A good checkpoint of the same step stays as it is; a damaged one is moved aside.

        Returns:
          The step.

        Raises:
          CheckpointError: it, or the one before, could not be written.
        """
        return self._save(program, split(program, state), data, extra)

    def save_replica(
        self, program: Program, state: TrainState, *, extra: Mapping[str, Any] | None = None
    ) -> int:
        """Saves one replica's state as an ordinary checkpoint."""
        return self._save(program, [state], None, extra)

    def _save(
        self,
        program: Program,
        states: Sequence[TrainState],
        data: Mapping[str, Any] | None,
        extra: Mapping[str, Any] | None,
    ) -> int:
        self.wait()
        step = step_of(states[0])
        if agreed(self._there(step)):
            return step
        flats = [program.flat(state) for state in states]
        about = {
            "format": FORMAT,
            "replicas": len(flats),
            "arrays": {path: [list(s), d] for path, (s, d) in shapes_of(flats[0]).items()},
            "data": None if data is None else tame(data),
            "extra": tame(extra or {}),
        }
        items = dict(zip(items_of(len(flats)), map(self._copies, flats), strict=True))
        if self._thread is None:
            self._write(step, items, about)
        else:
            self._pending = self._thread.submit(self._write, step, items, about)
        return step

    def _there(self, step: int) -> bool:
        """Whether there is a good checkpoint of a step, as the first host sees it, which moves a
        damaged one aside."""
        if jax.process_index() or step not in self.steps():
            return False
        if not faults(self.folder / str(step)):
            return True
        self._aside(step)
        return False

    def _copies(self, flat: dict[str, Any]) -> dict[str, Any]:
        """What may be written while training goes on and gives the state's memory away.

        Arrays without elements hold nothing, and Orbax cannot write them: they are left out.
        """
        flat = {path: array for path, array in flat.items() if array.size}
        if self._several:
            return flat
        return {path: np.array(array) for path, array in jax.device_get(flat).items()}

    def _write(self, step: int, items: dict[str, dict[str, Any]], about: dict[str, Any]) -> None:
        try:
            self._tidy()
            given: dict[str, Any] = {n: ocp.args.PyTreeSave(flat) for n, flat in items.items()}
            given["about"] = ocp.args.JsonSave(about)
            with self._manager() as manager:
                manager.save(step, args=ocp.args.Composite(**given), force=True)
            if jax.process_index() == 0:
                seal(self.folder / str(step))
                for old in [s for s in self.steps() if s != step][: -self.keep + 1 or None]:
                    shutil.rmtree(self.folder / str(old))
            agreed(step)
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder}: {error}"
            ) from error

    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            create=True,
            save_root_metadata=False,
            enable_async_checkpointing=False,
            # over several hosts Orbax subtracts, after a SIGTERM, times that are not read then
            lightweight_initialize=not self._several,
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _tidy(self) -> None:
        """Deletes what a save that was killed has left."""
        if jax.process_index() == 0 and self.folder.is_dir():
            for left in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)

    def _aside(self, step: int) -> None:
        """Renames a checkpoint so that it is one no longer."""
        number = 0
        while (to := self.folder / f"damaged-{step}-{number}").exists():
            number += 1
        (self.folder / str(step)).rename(to)

    def set_aside_after(self, step: int) -> None:
        """Renames every checkpoint newer than `step`, as damaged: training goes on from there."""
        if jax.process_index() == 0:
            for newer in [s for s in self.steps() if s > step]:
                self._aside(newer)
        agreed(step)

    def wait(self) -> None:
        """Returns when what was saved is written and sealed. Raises `CheckpointError`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits, then ends the thread. Raises `CheckpointError`."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    # -- reading -------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending; good or not."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if re.fullmatch(r"\d+", p.name))

    def verify(self) -> dict[int, list[str]]:
        """By step, what is wrong with the checkpoint; an empty list for a good one."""
        self.wait()
        return {step: faults(self.folder / str(step)) for step in self.steps()}

    def newest(self) -> int:
        """The newest step whose files are as they were written.

        Warns of newer ones that are not, and says what is wrong with them.

        Raises:
          CheckpointError: there is none, or none is good.
        """
        self.wait()
        if not self._several:
            return self._search()
        from jax.experimental import multihost_utils

        found = np.int64(-1)
        if jax.process_index() == 0:
            try:
                found = np.int64(self._search())
            except CheckpointError as error:
                warnings.warn(str(error), stacklevel=2)
        step = int(multihost_utils.broadcast_one_to_all(found))
        if step < 0:
            raise CheckpointError(f"no checkpoint in {self.folder} can be trusted")
        return step

    def _search(self) -> int:
        bad: list[str] = []
        for step in reversed(self.steps()):
            wrong = faults(self.folder / str(step))
            if not wrong:
                if bad:
                    lines = "\n  ".join(bad)
                    warnings.warn(
                        f"falling back to the checkpoint of step {step} in {self.folder}, "
                        f"since newer ones are damaged:\n  {lines}",
                        DamagedWarning,
                        stacklevel=3,
                    )
                return step
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            bad.append(f"step {step}: {'; '.join(wrong[:3])}{more}")
        if not bad:
            raise CheckpointError(f"there is no checkpoint in {self.folder}")
        lines = "\n  ".join(bad)
        raise CheckpointError(f"no checkpoint in {self.folder} can be trusted:\n  {lines}")

    def about(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself. Raises `CheckpointError`."""
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        found = self._read(step, args)["about"]
        if found["format"] != FORMAT:
            raise CheckpointError(
                f"{self.folder / str(step)} has format {found['format']}; this is {FORMAT}"
            )
        return found

    def restore(
        self, program: Program, *, step: int | None = None, replica: int | None = None
    ) -> Restored:
        """Reads a checkpoint after verifying it.

        Args:
          program: into which; of the same experiment, whatever its layout and its layers.
          step: which; default the newest good one.
          replica: which of several replicas, for a program that has one.

        Raises:
          CheckpointError: it is not good, or holds another state than the program needs; every
            path that is missing, unexpected or of another shape is named.
        """
        step, about = self._chosen(step)
        there = self._replicas(about, program, step, replica)
        due = needed(program)
        where = f"the checkpoint {self.folder / str(step)}"
        compare(due, told(about), where)
        flats = [self._arrays(step, item, due) for item in there]
        state = joined(program, [program.restored(flat) for flat in flats])
        return Restored(state, about["data"], step, about["extra"])

    def replica(self, program: Program, *, step: int | None = None) -> TrainState:
        """The state that `save_replica` saved. Raises `CheckpointError`."""
        step, about = self._chosen(step)
        due = needed(program)
        compare(due, told(about), f"the checkpoint {self.folder / str(step)}")
        return program.restored(self._arrays(step, "state", due))

    def flat(self, replica: int = 0, *, step: int | None = None) -> dict[str, Any]:
        """The arrays of one replica's state by canonical path, for whatever program. Of a single
        replica it is the same for all. Raises `CheckpointError`."""
        step, about = self._chosen(step)
        items = items_of(about["replicas"])
        return self._arrays(step, items[min(replica, len(items) - 1)], told(about))

    def parameters_only(
        self,
        program: Program,
        state: Any,
        *,
        paths: Iterable[str] | None = None,
        step: int | None = None,
        replica: int | None = None,
    ) -> Any:
        """The state with the parameters of a checkpoint: a warm start.

        Step, optimiser, variables and keys stay those of `state`, which must not be used again.

        Args:
          program: the program of `state`.
          state: all else comes from it.
          paths: which parameters, as in `trainable`; default all.
          step: which checkpoint; default the newest good one.
          replica: which replica to give to all; default: each its own, or the only one.

        Raises:
          CheckpointError: as `restore`, for parameters alone.
        """
        step, about = self._chosen(step)
        if replica is None and about["replicas"] == 1:
            replica = 0
        items = self._replicas(about, program, step, replica) * (
            1 if replica is None else program.replicas
        )
        wanted = tuple(paths) if paths is not None else None
        due, there = (_parameters(shapes, wanted) for shapes in (needed(program), told(about)))
        compare(due, there, f"the checkpoint {self.folder / str(step)}")
        if not due:
            raise CheckpointError(f"no parameter is called {', '.join(wanted or ())}")
        states = [
            program.restored({**program.flat(old), **self._arrays(step, item, due)})
            for old, item in zip(split(program, state), items, strict=True)
        ]
        return joined(program, states)

    def _chosen(self, step: int | None) -> tuple[int, dict[str, Any]]:
        if step is None:
            step = self.newest()
        else:
            self.wait()
            if step not in self.steps():
                known = ", ".join(map(str, self.steps())) or "none"
                raise CheckpointError(f"no checkpoint of step {step} in {self.folder}: {known}")
            if wrong := faults(self.folder / str(step)):
                raise CheckpointError(f"{self.folder / str(step)}: {'; '.join(wrong)}")
        return step, self.about(step)

    def _replicas(
        self, about: dict[str, Any], program: Program, step: int, replica: int | None
    ) -> list[str]:
        """The items to read."""
        count = about["replicas"]
        items = items_of(count)
        if replica is not None:
            if not 0 <= replica < count:
                raise CheckpointError(f"replica {replica} does not exist: there are {count}")
            return [items[replica]]
        if count != program.replicas:
            raise CheckpointError(
                f"the checkpoint {self.folder / str(step)} has {count} replicas, the program "
                f"{program.replicas}; `replica=` takes one of them"
            )
        return items

    def _arrays(self, step: int, item: str, due: Shapes) -> dict[str, Any]:
        like = {
            path: jax.ShapeDtypeStruct(shape, np.dtype(dtype))
            for path, (shape, dtype) in due.items()
        }
        full = {path: leaf for path, leaf in like.items() if leaf.size}
        numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        args = ocp.args.PyTreeRestore(
            item=full, restore_args=dict.fromkeys(full, numpy), partial_restore=True
        )
        read = self._read(step, ocp.args.Composite(**{item: args}))[item]
        empty = {p: np.zeros(leaf.shape, leaf.dtype) for p, leaf in like.items() if not leaf.size}
        return {**read, **empty}

    def _read(self, step: int, args: Any) -> Any:
        try:
            with self._manager() as manager:
                return manager.restore(step, args=args)
        except Exception as error:
            raise CheckpointError(f"{self.folder / str(step)} cannot be read: {error}") from error


def items_of(replicas: int) -> list[str]:
    """What the states of so many replicas are called in a checkpoint."""
    return ["state"] if replicas == 1 else [f"state_{k}" for k in range(replicas)]


def told(about: Mapping[str, Any]) -> Shapes:
    """The shapes that a checkpoint says it has."""
    return {path: (tuple(shape), dtype) for path, (shape, dtype) in about["arrays"].items()}


def _parameters(shapes: Shapes, wanted: tuple[str, ...] | None) -> Shapes:
    return {
        path: entry
        for path, entry in shapes.items()
        if path.startswith(PARAMS)
        and (wanted is None or any(matches(path.removeprefix(PARAMS), w) for w in wanted))
    }
