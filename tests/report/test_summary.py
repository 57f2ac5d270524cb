"""What a summary says of a config, against hand counts."""

from pathlib import Path

import jax
import numpy as np
import pytest

from fusekit.config import load
from fusekit.graph import Graph, resolve
from fusekit.model import FusionModel
from fusekit.report import text
from fusekit.report.parameters import Count
from fusekit.report.summary import Edge, Entry, Summary, Touch, summarise


def entry(summary: Summary, key: str) -> Entry:
    return next(e for e in summary.entries if e.key == key)


def test_counts_of_parameters_by_hand(tiny: Graph) -> None:
    summary = summarise(tiny)
    assert entry(summary, "left").count == Count(4 * 8 + 8, 40, 0)
    assert entry(summary, "right").count.parameters == 3 * 8 + 8
    assert entry(summary, "class").count.parameters == 16 * 2 + 2
    assert summary.count == Count(106, 106, 0)
    assert summary.counts() == "3 modalities, 4 nodes, 0 layers, 106 parameters"
    assert summary.flops is None


def test_counts_agree_with_the_parameters_that_a_model_makes(crossed: Graph) -> None:
    model = FusionModel(crossed, scan=2)
    sizes = dict.fromkeys(("image", "text", "trunk", "shared", "class"), 0)
    for name, group in model.groups.items():
        node = name.split(".")[0]
        if node in sizes:
            sizes[node] += sum(
                int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(group.abstract()[0])
            )
    summary = summarise(crossed)
    assert {name: entry(summary, name).count.parameters for name in sizes} == sizes


def test_frozen_and_partly_frozen(crossed: Graph) -> None:
    summary = summarise(crossed)
    assert entry(summary, "image").state == "frozen"
    assert entry(summary, "text").state == "partly frozen"
    assert entry(summary, "trunk").state == ""
    text_count = entry(summary, "text").count
    layer = text_count.trainable
    assert layer > 0
    assert text_count.parameters > 3 * layer  # two more layers, the embeddings and the last norm


def test_touches_and_edges(crossed: Graph) -> None:
    summary = summarise(crossed)
    at_image = Touch("shared", "image", (1, 2, 3))
    at_text = Touch("shared", "text", (0, 1, 2))
    assert entry(summary, "shared").touches == (at_image, at_text)
    assert entry(summary, "image").touches == (at_image,)
    assert entry(summary, "early").reads == (
        Edge("image", "image@0", "image@0", (0,), ()),
        Edge("text", "text", "text", (), ()),
    )
    assert entry(summary, "image_z").reads == (
        Edge("image", "input", "image.readout", (), ("readout",)),
    )
    assert entry(summary, "losses.align").note == "weight 0.5"


def test_text(tiny: Graph) -> None:
    lines = text.render(summarise(tiny, title="tiny")).splitlines()
    assert lines[0] == "tiny: 3 modalities, 4 nodes, 0 layers, 106 parameters"
    assert "├─ left      features       vector 4" in lines
    assert "└─ joint     concat         vector 16" in lines
    assert "   └ reads left, right" in lines
    assert "   └ reads class as prediction, batch.label as target" in lines
    assert lines[-1] == "train  adamw, 12 steps of 8 rows, float32"


@pytest.mark.parametrize("wanted", ["edited by shared at 1..3", "edits text at 0..2", "frozen"])
def test_text_of_operators(crossed: Graph, wanted: str) -> None:
    assert wanted in text.render(summarise(crossed, flops=True))


def test_layers_that_nothing_reads_are_not_counted() -> None:
    early = Path(__file__).parents[2] / "configs/examples/digits/early.yaml"
    summary = summarise(resolve(load(early).experiment))
    image = entry(summary, "image")
    assert (image.depth, image.declared, image.layers) == (0, 2, "0 of 2 layers")
    assert ", 0 layers, " in summary.counts()
    assert "vit, 0 of 2 layers" in text.render(summary)
    read = load(early, ["fusion.joint.inputs=[image@0, audio@1]"])
    summary = summarise(resolve(read.experiment))
    assert entry(summary, "image").layers == "1 of 2 layers"
    assert entry(summary, "audio").layers == "2 layers"
