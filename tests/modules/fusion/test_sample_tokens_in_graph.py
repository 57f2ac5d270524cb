"""A masked autoencoder of two modalities, declared: visible tokens, a trunk, a decoder for each."""

from contextlib import closing

import numpy as np
import pytest

import fusekit
from fusekit.errors import ConfigError
from fusekit.train.evaluate import evaluate
from fusekit.train.loop import fit
from fusekit.train.splits import open_splits
from tests.support.compilations import compilations
from tests.support.meshes import check_cube

TEXT = """
version: 1
modalities:
  image: {type: image, shape: [8, 8, 3]}
  depth: {type: image, shape: [8, 8, 1], optional: true}
  image_cut: {type: mask_patches, of: image, patch: [4, 4], rate: 0}
  depth_cut: {type: mask_patches, of: depth, patch: [2, 2], rate: 0}
encoders:
  image_tokens: {type: patches, input: batch.image, patch: [4, 4], width: 8}
  depth_tokens: {type: patches, input: batch.depth, patch: [2, 2], width: 8}
  trunk: {type: transformer, input: seen, depth: 1, heads: 2}
  image_asked: {type: queries, input: batch.image, count: 4, width: 8}
  depth_asked: {type: queries, input: batch.depth, count: 16, width: 8}
  image_decoder: {type: transformer, input: image_asked, depth: 1, heads: 2}
  depth_decoder: {type: transformer, input: depth_asked, depth: 1, heads: 2}
fusion:
  seen: {type: sample_tokens, inputs: [image_tokens, depth_tokens], tokens: 6, targets: 8}
  image_reads: {type: cross_attention, inputs: [trunk], into: image_decoder@.., heads: 2}
  depth_reads: {type: cross_attention, inputs: [trunk], into: depth_decoder@.., heads: 2}
heads:
  image_out: {type: token_regressor, input: image_decoder, width: 48}
  depth_out: {type: token_regressor, input: depth_decoder, width: 4}
losses:
  image:
    type: reconstruction
    prediction: image_out
    target: batch.image_cut.patches
    where: seen.hidden.image
  depth:
    type: reconstruction
    prediction: depth_out
    target: batch.depth_cut.patches
    where: seen.wanted.depth
  align: {type: late_interaction, inputs: [image_tokens, depth_tokens], weight: 0.1}
metrics:
  found: {type: recall, inputs: [image_tokens, depth_tokens], at: [3]}
data:
  scenes:
    type: scenes
    side: 8
    sizes: {train: 32, validation: 8, test: 8}
    missing: {depth: {rate: 0.3, splits: [train]}}
train: {batch: 8, steps: 12, learning_rate: 0.01, seed: 1}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    made = tmp_path_factory.mktemp("config") / "multimae.yaml"
    made.write_text(TEXT)
    return made


@pytest.mark.slow
def test_it_trains(path):
    """The step is compiled once, whatever is absent and drawn; evaluation is repeatable."""
    experiment = fusekit.load(path)
    program, splits = fusekit.compile(experiment), open_splits(experiment)
    before = evaluate(program, program.init(), splits["validation"])
    with closing(splits["train"]) as batches, compilations() as seen:
        fitted = fit(program, program.init(), batches, steps=12, progress=False)
    assert len(seen) == 1
    after, again = (evaluate(program, fitted.state, splits["validation"]) for _ in range(2))
    assert after == again
    assert all(np.isfinite(value) for value in after.values())
    for name in ("losses.image", "losses.depth"):
        assert after[name] < before[name]


@pytest.mark.slow
def test_a_mesh_gives_the_loss_and_gradients_of_one_device(path):
    experiment = fusekit.load(path)
    with closing(open_splits(experiment)["train"]) as batches:
        batch = next(batches)
    check_cube(experiment, batch.streams)


def test_a_misspelt_modality_is_told(path):
    path = path.with_name("wrong.yaml")
    path.write_text(TEXT.replace("seen.hidden.image", "seen.hidden.imge"))
    with pytest.raises(ConfigError, match=r"seen\.hidden\.imge has no port imge") as caught:
        fusekit.resolve(fusekit.load(path))
    assert "image" in str(caught.value)
