"""Scenes: the columns agree with each other, and what can be learnt from what is as stated."""

import numpy as np
import pytest

from fusekit.errors import DataError
from fusekit_modules.modalities.category_map import CategoryMapSpec
from fusekit_modules.sources import scenes
from fusekit_modules.sources.scenes import Scenes, ScenesSpec

SPEC = ScenesSpec(sizes={"train": 300, "test": 100}, noise=1e-6)
MADE = {name: make() for name, make in Scenes(SPEC).columns().items()}


def test_captions_say_what_images_show():
    caption, image = MADE["caption"].reshape(-1, 2, 3), MADE["image"]
    for row in range(40):
        shown = {tuple(c) for c in np.round(image[row].reshape(-1, 3), 2) if c.max() > 0.05}
        told = {tuple(np.round(scenes.COLOUR[c - 1], 2)) for c in caption[row, :, 0]}
        assert shown == told
        places = caption[row, :, 2] - scenes.PLACE_0
        half = SPEC.side // 2
        for place in range(4):
            top, left = np.asarray(divmod(place, 2)) * half
            cell = image[row, top : top + half, left : left + half]
            assert (cell.max() > 0.05) == (place in places)


def test_answers_are_the_colours_asked_for():
    caption, question = MADE["caption"].reshape(-1, 2, 3), MADE["question"]
    for row in range(300):
        (which,) = np.flatnonzero(caption[row, :, 1] == question[row, 1])
        assert caption[row, which, 0] - 1 == MADE["answer"][row]


def test_the_question_alone_gives_one_in_four():
    shares = [
        np.bincount(MADE["answer"][MADE["question"][:, 1] == shape], minlength=4).max()
        / (MADE["question"][:, 1] == shape).sum()
        for shape in np.unique(MADE["question"][:, 1])
    ]
    assert max(shares) < 0.42


def test_other_columns_follow_the_scene():
    caption = MADE["caption"].reshape(-1, 2, 3)
    regions, sound = MADE["regions"], MADE["sound"]
    np.testing.assert_array_equal(regions[:, :, :3].argmax(2), caption[:, :, 1] - scenes.SHAPE_0)
    np.testing.assert_array_equal(regions[:, :, 3:7].argmax(2), caption[:, :, 0] - 1)
    np.testing.assert_array_equal(sound[:, [0, -1]].argmax(2) // 2, caption[:, :, 0] - 1)
    np.testing.assert_array_equal(MADE["first"] // 3, caption[:, 0, 0] - 1)
    np.testing.assert_array_equal(MADE["first"] % 3, caption[:, 0, 1] - scenes.SHAPE_0)
    lit = MADE["depth"][..., 0] > 0.25
    np.testing.assert_array_equal(lit, MADE["classes"] > 0)
    np.testing.assert_array_equal(MADE["image"].max(-1) > 0.05, MADE["classes"] > 0)


def test_the_wanted_image_differs_in_the_colour_that_the_change_names():
    for row in range(40):
        shape, colour = MADE["change"][row] - [scenes.SHAPE_0, 1]
        where = np.abs(MADE["wanted"][row] - MADE["image"][row]).max(-1) > 0.01
        np.testing.assert_array_equal(where, MADE["classes"][row] == shape + 1)
        np.testing.assert_allclose(
            MADE["wanted"][row][where], np.tile(scenes.COLOUR[colour], (where.sum(), 1)), atol=1e-4
        )


def test_the_first_shape_moves_whither_the_action_says():
    clip, action = MADE["clip"], MADE["action"]
    assert clip.shape[1:] == (4, 16, 16, 3)
    axis, sign = np.divmod(action, 2)
    masks = [Scenes(SPEC).masks(row)[0] for row in range(20)]
    for row, mask in enumerate(masks):
        moved = np.roll(mask, 2 * (1 - 2 * sign[row]), axis=axis[row])
        assert (clip[row, 1][moved].max(-1) > 0.05).all()


def test_rows_are_those_of_the_splits_and_of_the_seed():
    again = {n: make() for n, make in Scenes(SPEC).columns().items()}
    for name, column in MADE.items():
        np.testing.assert_array_equal(column, again[name])
    other = Scenes(SPEC.model_copy(update={"seed": 1})).caption()
    assert np.any(other != MADE["caption"])
    from fusekit_modules.modalities.tokens import TokensSpec

    modalities = {"caption": TokensSpec(vocab=scenes.VOCAB, length=6)}
    assert len(SPEC.open("train", modalities)) == 300
    assert len(SPEC.open("test", modalities)) == 100


def test_maps_of_classes_are_checked():
    spec = CategoryMapSpec(shape=(2, 2), classes=3)
    values, mask = spec.collate([np.asarray([[0, 1], [2, 0]])])
    assert values.shape == (1, 2, 2)
    assert mask is None
    for bad in ([[0, 3], [0, 0]], [[0, 1]], [[0.5, 0], [0, 0]]):
        with pytest.raises(DataError):
            spec.collate([bad])
