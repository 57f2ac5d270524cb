from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import Count, ModalitySpec, Positive, SourceSpec, register
from fusekit.data.rows import ArrayRows, Rows

SHAPES, COLOURS, PLACES, MOVES = 3, 4, 4, 4
COLOUR = np.asarray([[1, 0.1, 0.1], [0.1, 0.9, 0.1], [0.2, 0.3, 1], [0.9, 0.8, 0.1]], np.float32)
COLOUR_0, SHAPE_0, PLACE_0 = 1, 1 + COLOURS, 1 + COLOURS + SHAPES
ASK = PLACE_0 + PLACES
VOCAB = ASK + 1
"""Codes: 0 pads, then colours, shapes, places, and the word that asks for a colour."""

SPLITS = ("train", "validation", "test")
FRAMES, TONES, STEPS = 8, 8, 4


@register
class ScenesSpec(SourceSpec):
    """Two coloured shapes of different form on a two by two grid, seen, told, heard and asked for.

    Made by rule from `seed`, so that what can be learnt is known: every column but `question` and
    `action` follows from the scene up to noise, `answer` from the question and any of the columns
    that show colours, and from neither alone (the question alone gives one in four; a column alone
    at best one in two).

    Columns (`s` is `side`): `image [s, s, 3]`, `depth [s, s, 1]` (near shapes are high) and
    `classes [s, s]` (0 nothing, 1..3 the shape); `caption [6]`, colour, shape and place of each
    shape in reading order; `question [2]` asks for the colour of a shape and `answer` 0..3 is it;
    `regions [2, 11]`, shape, colour and box, noisy; `sound [8, 8]`, a tone for each colour;
    `clip [4, s, s, 3]`, the first shape moving, and `action` 0..3, whither; `change [2]`, a shape
    and its new colour, and `wanted [s, s, 3]`, the image so changed; `first`, colour and shape of
    the first shape as one of 12. Codes of text are below 13.
    """

    type: Literal["scenes"] = "scenes"
    sizes: dict[Literal["train", "validation", "test"], Count] = Field(
        default={"train": 512, "validation": 64, "test": 128}, description="rows of each split"
    )
    side: Count = Field(16, ge=8, multiple_of=4, description="height and width of images")
    noise: Positive = Field(0.1, description="deviation of the noise on all numbers")
    seed: int = Field(0, ge=0, description="of scenes and noise")

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        wanted = {self.provides.get(name, name) for name in modalities}
        scenes = Scenes(self)
        made = {name: make() for name, make in scenes.columns().items() if name in wanted}
        counts = [self.sizes.get(split, 0) for split in SPLITS]
        return ArrayRows(
            made or {"answer": scenes.answer()}, given=np.repeat(np.asarray(SPLITS), counts)
        )


class Scenes:
    """What the rows show, as integers; columns are made from it.

    Args:
      spec: sizes, noise and seed.
    """

    def __init__(self, spec: ScenesSpec):
        self.spec = spec
        count = sum(spec.sizes.values())
        rng = np.random.default_rng([spec.seed, 0])
        self.shape = np.argsort(rng.random((count, SHAPES)), axis=1)[:, :2]
        self.colour = rng.integers(COLOURS, size=(count, 2))
        self.place = np.sort(np.argsort(rng.random((count, PLACES)), axis=1)[:, :2], axis=1)
        self.near = rng.integers(2, size=(count, 2))
        self.asked = rng.integers(2, size=count)
        self.move = rng.integers(MOVES, size=count)
        self.changed = rng.integers(2, size=count)
        self.new = (self._of(self.colour, self.changed) + rng.integers(1, COLOURS, count)) % COLOURS

    def columns(self) -> dict[str, Any]:
        """How each column is made, by name."""
        return {
            "image": lambda: self._noisy(self.pixels(self.colour), 1),
            "depth": lambda: self._noisy(self.depth(), 2),
            "classes": self.classes,
            "caption": self.caption,
            "question": lambda: self._pair(np.full(len(self.asked), ASK), self._asked_shape()),
            "answer": self.answer,
            "regions": lambda: self._noisy(self.regions(), 3),
            "sound": lambda: self._noisy(self.sound(), 4),
            "clip": lambda: self._noisy(self.clip(), 5),
            "action": lambda: self.move.astype(np.int32),
            "change": lambda: self._pair(
                SHAPE_0 + self._of(self.shape, self.changed), COLOUR_0 + self.new
            ),
            "wanted": lambda: self._noisy(self.pixels(self._recoloured()), 6),
            "first": lambda: (self.colour[:, 0] * SHAPES + self.shape[:, 0]).astype(np.int32),
        }

    @staticmethod
    def _of(pair: NDArray[Any], which: NDArray[Any]) -> NDArray[Any]:
        return np.take_along_axis(pair, which[:, None], axis=1)[:, 0]

    @staticmethod
    def _pair(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.int32]:
        return np.stack([one, other], axis=1).astype(np.int32)

    def _noisy(self, values: NDArray[Any], column: int) -> NDArray[np.float32]:
        rng = np.random.default_rng([self.spec.seed, column])
        return (values + self.spec.noise * rng.standard_normal(values.shape)).astype(np.float32)

    def _asked_shape(self) -> NDArray[Any]:
        return SHAPE_0 + self._of(self.shape, self.asked)

    def _recoloured(self) -> NDArray[Any]:
        chosen = np.arange(2) == self.changed[:, None]
        return np.where(chosen, self.new[:, None], self.colour)

    def answer(self) -> NDArray[np.int32]:
        """The colour of the shape that is asked for."""
        return self._of(self.colour, self.asked).astype(np.int32)

    def caption(self) -> NDArray[np.int32]:
        """Colour, shape, place, twice."""
        words = [COLOUR_0 + self.colour, SHAPE_0 + self.shape, PLACE_0 + self.place]
        return np.stack(words, axis=2).reshape(len(self.colour), 6).astype(np.int32)

    def masks(self, row: int, *, moved: int = 0) -> NDArray[np.bool_]:
        """`[2, s, s]`: where the two shapes of a row are; the first moved so many pixels."""
        size = self.spec.side
        cell = size // 2
        y, x = np.mgrid[:cell, :cell] - (cell - 1) / 2
        reach = np.maximum(np.abs(x), np.abs(y))
        forms = (
            reach < 0.35 * cell,
            (np.abs(x) < 0.15 * cell) | (np.abs(y) < 0.15 * cell),
            (np.hypot(x, y) < 0.45 * cell) & (np.hypot(x, y) > 0.2 * cell),
        )
        found = np.zeros((2, size, size), bool)
        for k in range(2):
            top, left = np.asarray(divmod(self.place[row, k], 2)) * cell
            found[k, top : top + cell, left : left + cell] = forms[self.shape[row, k]]
        axis, sign = divmod(int(self.move[row]), 2)
        found[0] = np.roll(found[0], moved * (1 - 2 * sign), axis=axis)
        return found

    def pixels(self, colour: NDArray[Any], *, moved: int = 0) -> NDArray[np.float32]:
        """`[n, s, s, 3]`: the shapes in these colours, the first in front."""
        size = self.spec.side
        image = np.zeros((len(colour), size, size, 3), np.float32)
        for row in range(len(colour)):
            masks = self.masks(row, moved=moved)
            for k in (1, 0):
                image[row][masks[k]] = COLOUR[colour[row, k]]
        return image

    def depth(self) -> NDArray[np.float32]:
        """`[n, s, s, 1]`: 1 for near shapes, 0.5 for far ones."""
        masks = np.stack([self.masks(row) for row in range(len(self.colour))])
        height = 0.5 + 0.5 * self.near
        return np.max(masks * height[:, :, None, None], axis=1)[..., None].astype(np.float32)

    def classes(self) -> NDArray[np.int32]:
        """`[n, s, s]`: the shape at each pixel, from 1; 0 for none."""
        masks = np.stack([self.masks(row) for row in range(len(self.colour))])
        return np.max(masks * (1 + self.shape[:, :, None, None]), axis=1).astype(np.int32)

    def regions(self) -> NDArray[np.float32]:
        """`[n, 2, 11]`: shape and colour one-hot, then the box: left, top, width, height."""
        top, left = np.divmod(self.place, 2)
        box = np.stack([left, top, np.ones_like(left), np.ones_like(left)], axis=2) / 2
        shape, colour = np.eye(SHAPES)[self.shape], np.eye(COLOURS)[self.colour]
        return np.concatenate([shape, colour, box], axis=2).astype(np.float32)

    def sound(self) -> NDArray[np.float32]:
        """`[n, 8, 8]`: frames by tones; the first half sounds the first colour."""
        tones = np.repeat(self.colour * 2, FRAMES // 2, axis=1)
        return np.eye(TONES, dtype=np.float32)[tones]

    def clip(self) -> NDArray[np.float32]:
        """`[n, 4, s, s, 3]`: the first shape moves by an eighth of the image a frame."""
        step = max(1, self.spec.side // 8)
        frames = [self.pixels(self.colour, moved=k * step) for k in range(STEPS)]
        return np.stack(frames, axis=1)
