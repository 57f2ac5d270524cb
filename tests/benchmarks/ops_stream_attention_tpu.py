"""Stream attention compiled for a TPU that is not there: what the compiler estimates.

    python -m tests.benchmarks.ops_stream_attention_tpu [--case 0] [--topology v5e:2x2]

Nothing runs. See `estimates`. `naive` has the softmax written out in float32 and scores rounded to
bfloat16; `xla` is the portable form. Tokens are in the order in which a model's products leave
them. The last line is JSON.
"""

import argparse
import json
from functools import partial
from typing import Any

from tests.benchmarks.estimates import priced

# isort: split
import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from fusekit.plan.compilers import devices
from fusekit_modules.ops.stream_attention import cases, floors, tpu, xla
from fusekit_modules.ops.stream_attention.form import Form, Queries, Source, form_of
from fusekit_tpu.topology import Topology

HOWS = ("naive", "xla", "tpu")


def naive(form: Form, queries: list[Queries], sources: list[Source]) -> list[Any]:
    """Masks aside, as nothing is absent."""
    outs = []
    for stream, read in zip(queries, form.reads, strict=True):
        batch, _, width = stream.values.shape
        key = jnp.concatenate([sources[n].key for n in read], axis=1)
        value = jnp.concatenate([sources[n].value for n in read], axis=1)
        query, key, value = (
            array.reshape(batch, -1, form.heads, width // form.heads)
            for array in (stream.values, key, value)
        )
        scores = form.scale * jnp.einsum("bqhd,bkhd->bhqk", query, key)
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(value.dtype)
        outs.append(jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(stream.values.shape))
    return outs


def forward(how: str, form: Form, queries: Any, sources: Any, grads: Any) -> Any:
    if how == "naive":
        return naive(form, queries, sources)
    module: Any = {"xla": xla, "tpu": tpu}[how]
    return [out for out, _ in module.forward(form, queries, sources, logs=False)]


def both(how: str, form: Form, queries: Any, sources: Any, grads: Any) -> Any:
    if how == "naive":
        found, back = jax.vjp(partial(naive, form), queries, sources)
        return found, back(grads)
    module: Any = {"xla": xla, "tpu": tpu}[how]
    results = module.forward(form, queries, sources)
    return [out for out, _ in results], module.backward(form, queries, sources, results, grads)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", type=int, default=0, help="of cases.TIMED")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--hows", nargs="*", default=list(HOWS))
    chosen = parser.parse_args()
    topology, case = Topology.parse(chosen.topology), cases.TIMED[chosen.case]
    chip, where = topology.chip, SingleDeviceSharding(devices(topology)[0])

    def placed(array: Any) -> Any:
        at = Format(Layout((0, 1, 2)), where) if array.ndim == 3 else where
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=at)

    queries, sources = jax.tree.map(
        placed, jax.eval_shape(lambda: cases.arrays(case, jnp.bfloat16))
    )
    form = form_of(queries, sources, heads=case.heads, scale=None, reads=case.reads)
    steps = case.batch * case.heads // tpu.together(form, queries[0].values.shape[2])
    given = (queries, sources, [q.values for q in queries])
    report: dict[str, Any] = {"benchmark": "ops_stream_attention_tpu", "topology": str(topology)}
    report["case"] = case.name
    least = floors.forward(form, queries, sources).seconds(chip.flops, chip.hbm_rate)
    of_both = least + floors.backward(form, queries, sources).seconds(chip.flops, chip.hbm_rate)
    for name, call, floor in (("forward", forward, least), ("both", both, of_both)):
        report[f"{name} floor_ms"] = round(1e3 * floor, 3)
        for how in chosen.hows:
            found = priced(partial(call, how, form), given, chip, lambda _: steps)
            report[f"{name} {how}"] = found
            print(f"{name} {how}: {found}", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
