"""What one who sees no input would reach, by metrics of rows, positions and searches."""

from types import SimpleNamespace

import numpy as np
import pytest

from fusekit.api import load_graph
from fusekit.config.compose import shipped
from fusekit.graph import resolve
from fusekit.study.constant import constant_predictor
from tests.study import tiny


def known_rows(metric, rows=None, **values):
    count = len(next(iter(values.values())))
    rows = np.ones(count, bool) if rows is None else np.array(rows)
    return SimpleNamespace(columns={metric: SimpleNamespace(values=values, rows=rows)})


@pytest.mark.parametrize(("at", "due"), [([1], 1 / 6), ([1, 3], (1 / 6 + 3 / 6) / 2)])
def test_a_search_that_is_the_same_for_all_finds_each_once(at, due):
    recall = {"type": "recall", "inputs": ["left", "right"], "at": at}
    graph = resolve(tiny.experiment(metrics={"found": recall}))
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 7, 8))
    known = known_rows("found", rows=[False] + [True] * 6, left=left, right=right)
    found, columns = constant_predictor(graph.experiment, graph, "found", known)
    assert found == pytest.approx(due)
    assert columns is not None
    np.testing.assert_array_equal(columns.values["left"], np.tile(left[1], (7, 1)))


def test_positions_of_a_sequence_are_given_the_commonest_token():
    _, graph = load_graph(shipped() / "zoo" / "albef.yaml", TOKENS)
    captions = np.random.default_rng(0).integers(0, 13, (5, 6))
    known = known_rows("told", prediction=np.zeros((5, 6, 13)), target=captions)
    found, columns = constant_predictor(graph.experiment, graph, "told", known)
    assert columns is not None
    given = columns.values["prediction"].argmax(-1)
    assert (given == given[0, 0]).all()
    assert found == pytest.approx((captions == given[0, 0]).mean())


def test_where_some_positions_count_the_commonest_of_these_is_given():
    _, graph = load_graph(shipped() / "zoo" / "albef.yaml", TOKENS)
    captions = np.full((4, 6), 3)
    captions[:, 4:] = [[5, 5], [5, 5], [5, 7], [7, 5]]
    asked = np.zeros((4, 6), bool)
    asked[:, 4:] = True
    known = known_rows("told", prediction=np.zeros((4, 6, 13)), target=captions, where=asked)
    found, columns = constant_predictor(graph.experiment, graph, "told", known)
    assert columns is not None
    assert (columns.values["prediction"].argmax(-1) == 5).all()
    assert found == pytest.approx(6 / 8)


TOKENS = ["metrics.told={type: accuracy, prediction: masked.words, target: batch.text}"]
