"""Train steps of MBT-B and CLIP-B on one GPU, against PyTorch written by hand.

    XLA_PYTHON_CLIENT_PREALLOCATE=false python tests/benchmarks/gpu_steps.py [--only mbt,clip]

Equal models and batches: bfloat16 compute over float32 parameters, AdamW, random data that lies on
the device. PyTorch runs eagerly and compiled, both with its own fused attention and optimiser.
Medians; compilation is not counted but told. Rates are model FLOPs (nothing is computed again) over
the time, as a share of what a product of 8192 x 8192 matrices reaches. The last line is JSON.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F
from measuring import load, random_batch, report
from torch import Tensor, nn
from torch_block import Layer

import fusekit
import fusekit_modules  # noqa: F401 - registers the components
from fusekit.config import loads
from fusekit.plan.analytic import traced_step

TINY = {"width": 32, "text": 32, "heads": 2, "depth": 2, "at": 1, "rows": 4, "words": 50}
BASE = {"width": 768, "text": 512, "heads": 12, "depth": 12, "at": 8, "rows": 64, "words": 49408}
ROWS = {"mbt": 1, "clip": 8}
"""Rows of a step, by those of the size."""

TRAIN = """
data: {{made: {{type: synthetic}}}}
train: {{batch: {rows}, steps: 1000, compute: bfloat16, learning_rate: 0.0001}}
mesh: {{layers: {layers}, kernel: {kernel}}}
"""
MBT = """
version: 1
modalities:
  image: {{type: image, shape: [224, 224, 3]}}
  audio: {{type: spectrogram, shape: [800, 128]}}
  label: {{type: label, classes: 527}}
encoders:
  image: {{type: vit, patch: [16, 16], depth: {depth}, width: {width}, heads: {heads}, readout: 1}}
  audio: {{type: vit, patch: [16, 16], depth: {depth}, width: {width}, heads: {heads}, readout: 1}}
fusion:
  bottleneck: {{type: bottleneck, into: [image@{at}.., audio@{at}..], tokens: 4}}
  joint: {{type: concat, inputs: [image.readout, audio.readout]}}
heads:
  label: {{type: classifier, input: joint, classes: 527}}
losses:
  label: {{type: cross_entropy, prediction: label, target: batch.label}}
"""
CLIP = """
version: 1
modalities:
  image: {{type: image, shape: [224, 224, 3]}}
  caption: {{type: tokens, vocab: {words}, length: 77, padded: false}}
encoders:
  image: {{type: vit, patch: [32, 32], depth: {depth}, width: {width}, heads: {heads}, readout: 1}}
  caption: {{type: transformer, depth: {depth}, width: {text}, heads: 8, attend: causal}}
heads:
  image_z: {{type: projection, input: image.readout, width: 512}}
  text_z: {{type: projection, input: caption.last, width: 512}}
losses:
  align: {{type: info_nce, inputs: [image_z, text_z]}}
"""
CONFIGS = {"mbt": MBT, "clip": CLIP}


class Causal(Layer):
    """The block, no token reading a later one."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        a = self.first(x)
        q, k, v = self.split(self.query(a)), self.split(self.key(a)), self.split(self.value(a))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(self.activation(self.up(self.second(x))))


class Vit(nn.Module):
    """Patches, a readout token, positions and blocks."""

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int, heads: int, depth: int):
        super().__init__()
        self.patch = nn.Conv2d(shape[0], width, patch, patch)
        count = (shape[1] // patch) * (shape[2] // patch)
        self.readout = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, count, width))
        self.blocks = nn.ModuleList([Layer(width, heads, F.gelu) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def tokens(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.places
        return torch.cat([x, self.readout.expand(len(x), -1, -1)], 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, -1]


class Mbt(nn.Module):
    """Nagrani et al. 2021: bottleneck tokens averaged after each of the last layers."""

    def __init__(self, size: dict[str, int]):
        super().__init__()
        width, more = size["width"], (size["width"], size["heads"], size["depth"])
        self.image, self.audio = Vit((3, 224, 224), 16, *more), Vit((1, 800, 128), 16, *more)
        self.at, self.bottleneck = size["at"], nn.Parameter(0.02 * torch.randn(1, 4, width))
        self.head = nn.Linear(2 * width, 527)

    def forward(self, image: Tensor, audio: Tensor, label: Tensor) -> Tensor:
        x, y = self.image.tokens(image), self.audio.tokens(audio)
        z = self.bottleneck.expand(len(x), -1, -1)
        for k, (one, other) in enumerate(zip(self.image.blocks, self.audio.blocks, strict=True)):
            if k < self.at:
                x, y = one(x), other(y)
                continue
            x, y = one(torch.cat([x, z], 1)), other(torch.cat([y, z], 1))
            z = (x[:, -4:] + y[:, -4:]) / 2
            x, y = x[:, :-4], y[:, :-4]
        joint = torch.cat([self.image.norm(x)[:, -1], self.audio.norm(y)[:, -1]], 1)
        return F.cross_entropy(self.head(joint).float(), label)


class Clip(nn.Module):
    """Radford et al. 2021; text is read out at its last token."""

    def __init__(self, size: dict[str, int]):
        super().__init__()
        self.image = Vit((3, 224, 224), 32, size["width"], size["heads"], size["depth"])
        self.embed = nn.Embedding(size["words"], size["text"])
        self.places = nn.Parameter(0.02 * torch.randn(1, 77, size["text"]))
        blocks = [Causal(size["text"], 8, F.gelu) for _ in range(size["depth"])]
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(size["text"], eps=1e-6)
        self.image_z = nn.Linear(size["width"], 512, bias=False)
        self.text_z = nn.Linear(size["text"], 512, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.66))

    def forward(self, image: Tensor, caption: Tensor) -> Tensor:
        y = self.embed(caption) + self.places
        for block in self.blocks:
            y = block(y)
        a = F.normalize(self.image_z(self.image(image)).float(), dim=1)
        b = F.normalize(self.text_z(self.norm(y)[:, -1]).float(), dim=1)
        scores = self.scale.exp() * a @ b.T
        same = torch.arange(len(a), device=a.device)
        return (F.cross_entropy(scores, same) + F.cross_entropy(scores.T, same)) / 2


PEERS: dict[str, type[nn.Module]] = {"mbt": Mbt, "clip": Clip}


def timed(step: Callable[[], Any], wait: Callable[[Any], Any], times: int) -> float:
    """Seconds of a step: the median of means over short runs, which the device never waits in."""
    for _ in range(3):
        wait(step())
    found: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times - 1):
            step()
        wait(step())
        found.append((time.perf_counter() - began) / times)
    return statistics.median(found)


def ours(name: str, size: dict[str, int], how: str, times: int) -> dict[str, Any]:
    """Our step: seconds, bytes at the peak, FLOPs, parameters."""
    rows = size["rows"] * ROWS[name]
    layers, kernel = how.split()
    text = (CONFIGS[name] + TRAIN).format(**{**size, "rows": rows}, layers=layers, kernel=kernel)
    graph = fusekit.resolve(loads(text).experiment)
    program = fusekit.compile(graph)
    state = program.init(0)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    given = jax.device_put(program._given(random_batch(program, rows)))  # pyright: ignore[reportPrivateUsage]
    began = time.perf_counter()
    step = program.compiled_step.lower(state, given).compile()
    compiled = time.perf_counter() - began
    held = [state]

    def once() -> Any:
        held[0], metrics = step(held[0], given)
        return metrics["loss"]

    seconds = timed(once, jax.block_until_ready, times)
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "ms": seconds * 1e3,
        "compile_s": compiled,
        "peak_gib": step.memory_analysis().peak_memory_in_bytes / 2**30,
        "process_peak_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
        "flops": traced_step(graph, rows).flops,
        "parameters": count,
        "loss": float(once()),
    }


def theirs(name: str, size: dict[str, int], compiled: bool, times: int) -> dict[str, Any]:
    """PyTorch's step: seconds, bytes at the peak, parameters."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = size["rows"] * ROWS[name]
    torch.manual_seed(0)
    model = PEERS[name](size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    image = torch.randn(rows, 3, 224, 224, device=device)
    if name == "mbt":
        sound = torch.randn(rows, 1, 800, 128, device=device)
        given = (image, sound, torch.randint(527, (rows,), device=device))
    else:
        given = (image, torch.randint(size["words"], (rows, 77), device=device))
    run: Any = torch.compile(model) if compiled else model

    def once() -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            loss = run(*given)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    began = time.perf_counter()
    once()
    wait()
    first = time.perf_counter() - began
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(once, lambda _: wait(), times)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    count = sum(p.numel() for p in model.parameters())
    del model, optimizer
    if device == "cuda":
        torch.cuda.empty_cache()
    return {"ms": seconds * 1e3, "compile_s": first, "peak_gib": peak, "parameters": count}


def ceiling(side: int) -> float:
    """FLOP/s of a product of two bfloat16 matrices of random numbers."""
    a, b = (jax.random.normal(jax.random.key(k), (side, side), jnp.bfloat16) for k in (0, 1))
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / timed(lambda: product(a, b), jax.block_until_ready, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="mbt,clip")
    parser.add_argument("--tiny", action="store_true", help="to try the script itself")
    parser.add_argument("--ours", default="unroll auto,unroll xla,scan auto")
    parser.add_argument("--times", type=int, default=10)
    given = parser.parse_args()
    before, size = load(), TINY if given.tiny else BASE
    most = ceiling(256 if given.tiny else 8192)
    found: dict[str, Any] = {"ceiling_tflops": most / 1e12}
    torch.set_float32_matmul_precision("high")
    for name in given.only.split(","):
        runs: dict[str, Callable[[], dict[str, Any]]] = {
            f"fusekit, {how}": lambda how=how, name=name: ours(name, size, how, given.times)
            for how in given.ours.split(",")
        }
        runs["torch, eager"] = lambda name=name: theirs(name, size, False, given.times)
        runs["torch, compiled"] = lambda name=name: theirs(name, size, True, given.times)
        flops = 0.0
        for title, run in runs.items():
            one: dict[str, Any]
            try:
                one = run()
            except Exception as error:
                one = {"error": f"{type(error).__name__}: {error}"[:500]}
            flops = one.get("flops", flops)
            if "ms" in one:
                one["of_ceiling"] = flops / (one["ms"] / 1e3) / most
            found[f"{name}: {title}"] = one
            print(name, title, one, flush=True)
    raise SystemExit(report("gpu_steps", found, failures=[], before=before))


if __name__ == "__main__":
    main()
