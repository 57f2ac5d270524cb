"""The laws for operators that edit stacks: tried in a small program around any stack with the hooks
that the operator needs."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.component import (
    Component,
    HeadSpec,
    LossSpec,
    LossValue,
    ModalitySpec,
    OperatorSpec,
    OptimizerSpec,
    ScheduleSpec,
    StackSpec,
)
from fusekit.config.reference import Ref, Reference, parse_place
from fusekit.config.registry import components
from fusekit.conformance.cases import KINDS, WIDTH, random_stream, varied
from fusekit.conformance.checks import fits_signature, named_axes, round_trip
from fusekit.conformance.laws import (
    NOISE,
    BrokenError,
    apart,
    dead,
    finite,
    quick,
    same,
    zero,
)
from fusekit.errors import ConfigError
from fusekit.graph.node import Key
from fusekit.objective import sums, total_loss
from fusekit.stream import Signature, Stream

STACKS = ("a", "b")
C = TypeVar("C", bound=Component)


class Probe(ModalitySpec):
    """An optional, padded sequence."""

    type: Literal["probe"] = "probe"

    def signature(self) -> Signature:
        return dict(varied(KINDS["sequence"]))["missing"]


class Readout(HeadSpec):
    """A fixed random projection of the mean."""

    type: Literal["probe"] = "probe"

    def infer(self, inputs: Any) -> Signature:
        return Signature((), optional=inputs["input"].optional)

    def build(self, inputs: Any, *, rngs: nnx.Rngs) -> nnx.Module:
        return Projection()


class Projection(nnx.Module):
    def __call__(self, streams: Any, *, context: Any) -> Stream:
        given = streams["input"]
        fixed = np.random.default_rng(0).normal(size=given.width).astype("float32")
        return Stream(given.values @ fixed, presence=given.presence)


class Sum(LossSpec):
    """The sum of what it reads."""

    type: Literal["probe"] = "probe"
    input: Ref

    def build(self, inputs: Any, *, rngs: nnx.Rngs) -> nnx.Module:
        return Summed()


class Summed(nnx.Module):
    def __call__(self, streams: Any, *, rows: Any, context: Any) -> LossValue:
        values = streams["input"].values
        return LossValue(jnp.where(rows, values.reshape(len(rows), -1).sum(1), 0.0), rows * 1.0)


class Fixed(OptimizerSpec):
    type: Literal["probe"] = "probe"

    def build(self, learning_rate: Any) -> Any:
        import optax

        return optax.sgd(learning_rate)


class Flat(ScheduleSpec):
    type: Literal["probe"] = "probe"

    def build(self, steps: int) -> Any:
        return lambda step: 1.0


class OperatorTrial:
    """An operator at every layer of one stack, or of two in lockstep, of the least number that it
    accepts."""

    def __init__(self, component: type[OperatorSpec], settings: dict[str, Any]):
        self.component, self.settings = component, settings
        self.graph = self._graph()

    def _graph(self) -> Any:
        from fusekit.config.spec import Experiment
        from fusekit.graph import resolve

        last: ConfigError | None = None
        for count, taps in ((2, 0), (1, 0), (1, 1)):
            edited = STACKS[:count]
            others = STACKS[count : count + taps]
            try:
                return resolve(Experiment(**self._sections(edited, others)))
            except ConfigError as error:
                last = error
        raise last or ValueError("no stack fits")

    def _sections(self, edited: tuple[str, ...], others: tuple[str, ...]) -> dict[str, Any]:
        stack = self._stack()
        operator = self.component.model_validate(
            {
                **self.settings,
                "inputs": tuple(Reference(name) for name in others),
                "into": tuple(parse_place(f"{name}@..") for name in edited),
            }
        )
        names = (*edited, *others)
        ports = self.component.port_names
        return {
            "modalities": {name: Probe.model_validate({"optional": True}) for name in names},
            "encoders": dict.fromkeys(names, stack),
            "fusion": {"it": operator},
            "heads": {f"h{name}": _reads(Readout, f"{name}.mean") for name in names},
            "losses": {
                **{f"l{name}": _reads(Sum, f"h{name}") for name in names},
                **{f"p{port}": _reads(Sum, f"it.{port}") for port in ports},
            },
            "train": {"optimizer": Fixed(), "schedule": Flat(), "steps": 10},
        }

    def _stack(self) -> StackSpec:
        """Any registered stack with the hooks that are needed."""
        for component in components("encoder").values():
            if not issubclass(component, StackSpec) or not component.hooks >= self.component.needs:
                continue
            for settings in component.examples():
                spec = component.model_validate(settings)
                try:
                    start = spec.infer_start({"input": KINDS["sequence"]})
                except Exception:
                    continue
                if spec.layers() > 1 and start.width == WIDTH:
                    return spec
        raise ValueError(f"no registered stack has the hooks {sorted(self.component.needs)}")

    @cached_property
    def program(self) -> Any:
        from fusekit.program import Program

        return Program(self.graph, layers="unroll")

    def batch(self, seed: int, *, garbage: float = 0.0, present: float = 0.6) -> dict[str, Stream]:
        rng = np.random.default_rng(seed)
        return {
            name: random_stream(
                dict(varied(KINDS["sequence"]))["missing"], rng, garbage=garbage, present=present
            )
            for name in self.graph.inputs
        }

    @cached_property
    def _both(self) -> Any:
        program = self.program

        def objective(params: Any, variables: Any, batch: Any, key: Any) -> Any:
            context = program.context("train", key)
            values, _ = program.model.apply(params, variables, batch, context=context)
            heads = {name: values[Key("out", name)] for name in self.graph.heads}
            valid = jnp.asarray(batch["valid"].values)
            found, _ = sums(program.model, values, params, variables, valid, context)
            return total_loss(program.model, found), heads

        return quick(jax.value_and_grad(objective, has_aux=True))

    def __call__(self, batch: dict[str, Stream], params: Any = None, key: int = 3) -> Any:
        """((loss, heads), gradients), in training."""
        state = self.state
        params = state.params if params is None else params
        given = self.program.batch(batch)
        return self._both(params, state.variables, given, jax.random.key(key))

    @cached_property
    def state(self) -> Any:
        return self.program.init(0)

    @cached_property
    def evaluated(self) -> Any:
        """The compiled evaluation: every stream of the graph, by the text of its key."""
        program, state = self.program, self.state

        def values(batch: Any) -> Any:
            context = program.context("evaluate", None)
            found, _ = program.model.apply(state.params, state.variables, batch, context=context)
            return {
                str(key): getattr(value, "stream", value)
                for key, value in found.items()
                if key in self.graph.signatures
            }

        return quick(values)


def _reads(component: type[C], reference: str) -> C:
    return component.model_validate({"input": reference})


def check_operator(
    component: type[OperatorSpec], *, thorough: bool = True
) -> Iterator[tuple[str, str]]:
    """The (law, reason) pairs that an operator breaks; if not `thorough`, in the first of its
    examples alone."""
    for settings in component.examples()[: None if thorough else 1]:
        try:
            trial = OperatorTrial(component, settings)
        except Exception as error:
            yield "builds", f"{settings or 'defaults'}: {error}"
            continue
        for law in LAWS:
            try:
                law(trial)
            except Exception as error:
                yield law.__name__.strip("_"), f"{type(error).__name__}: {error}"


def _infer(trial: OperatorTrial) -> None:
    """Streams and ports are what `infer_edit`, `infer_ports` and `port_names` say."""
    found = jax.eval_shape(trial.evaluated, trial.program.batch(trial.batch(1)))
    ports = set(trial.component.port_names)
    for key, declared in trial.graph.signatures.items():
        value: Any = found.get(str(key))
        if isinstance(declared, dict) and key.node == "it":
            given = set(declared) - {"out"}
            if given != ports or set(value or ()) - {"out"} != ports:
                raise BrokenError(
                    f"port_names are {sorted(ports)}, infer_ports gives {sorted(given)} and the "
                    f"module {sorted(set(value or ()) - {'out'})}"
                )
            for port in ports:
                fits_signature(f"{key.node}.{port}", declared[port], value[port])
        elif isinstance(declared, Signature) and isinstance(value, Stream):
            fits_signature(f"{key.kind} {key.node}", declared, value)


def _axes(trial: OperatorTrial) -> None:
    for unit, template in trial.program.model.templates.items():
        states = nnx.state(nnx.eval_shape(lambda t=template: t.build(nnx.Rngs(0))))
        named_axes(states, unit.path)


def _round_trip(trial: OperatorTrial) -> None:
    round_trip(trial.graph.nodes["it"].spec)


def _contents(trial: OperatorTrial) -> None:
    clean = trial(trial.batch(1))
    plain = trial.evaluated(trial.program.batch(trial.batch(1)))
    for garbage in (np.nan, np.inf, 1e30):
        batch = trial.batch(1, garbage=garbage)
        same(clean, trial(batch), f"{garbage} changes the result (train)")
        found = trial.evaluated(trial.program.batch(batch))
        same(plain, found, f"{garbage} changes the result (evaluate)")


def _all_absent(trial: OperatorTrial) -> None:
    found, gradients = trial(trial.batch(2, garbage=np.nan, present=0.0))
    finite((found, gradients), "a result with all inputs absent")
    zero(gradients, "with all inputs absent")


def _independence(trial: OperatorTrial) -> None:
    if trial.component.couples != "none":
        return
    one, two = trial.batch(1), trial.batch(2)
    mixed = {
        name: jax.tree.map(lambda a, b: np.concatenate([a[:1], b[1:]]), one[name], two[name])
        for name in one
    }
    first = jax.tree.map(lambda leaf: leaf[:1], trial(one)[0][1])
    second = jax.tree.map(lambda leaf: leaf[:1], trial(mixed)[0][1])
    same(first, second, "another sample changes the result")


def _reachable(trial: OperatorTrial) -> None:
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype("float32"), trial.state.params
    )
    unreached: set[str] | None = None
    for seed in range(8):
        grads = trial(trial.batch(seed + 10), params)[1]
        flat = trial.program.parameters(trial.state.with_(params=grads))
        found = {name for name in dead(flat, NOISE) if name.startswith("it.")}
        unreached = found if unreached is None else unreached & found
        if not unreached:
            return
    raise AssertionError(f"no gradient reaches {', '.join(sorted(unreached or ()))}")


def _randomness(trial: OperatorTrial) -> None:
    """What differs between training and evaluation is of the step's key."""
    if trial.component.couples != "none":
        return
    batch = trial.batch(1)
    plain = trial.evaluated(trial.program.batch(batch))
    heads = {
        name: plain[str(read.key)]
        for name in trial.graph.heads
        for read in trial.graph.outputs_of(name)
    }
    (_, one), _ = trial(batch)
    (_, other), _ = trial(batch, key=4)
    if apart(heads, one) > 1e-3 and apart(one, other) == 0.0:
        raise BrokenError("training differs from evaluation, but not by the context's key")


def _scan(trial: OperatorTrial) -> None:
    from fusekit.program import Program

    scanned = Program(trial.graph, layers="scan")
    state = scanned.restored(trial.program.flat(trial.state))
    batch = scanned.batch(trial.batch(1))
    context = scanned.context("train", jax.random.key(3))
    loss = quick(lambda p, v, b: scanned.loss(p, v, b, context)[0])(
        state.params, state.variables, batch
    )
    plain = trial(trial.batch(1))[0][0]
    if abs(float(loss) - float(plain)) > 1e-4 * max(1.0, abs(float(plain))):
        raise AssertionError(f"scanned {float(loss)} but unrolled {float(plain)}")


LAWS = (
    _infer,
    _axes,
    _round_trip,
    _contents,
    _all_absent,
    _independence,
    _randomness,
    _reachable,
    _scan,
)
