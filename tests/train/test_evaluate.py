import contextlib

import numpy as np
import pytest

from fusekit.errors import DataError
from fusekit.train.evaluate import evaluate, gather
from tests.train import tiny


@pytest.fixture(scope="module")
def split():
    with contextlib.closing(tiny.pipeline("validation")) as opened:
        yield opened


def by_hand(program, state, split):
    """Cross entropy and accuracy row by row in float64, from predictions of whole batches."""
    costs, right = [], []
    for batch in split:
        logits = np.asarray(program.predict(state, batch.streams)["out"].values, np.float64)
        label = np.asarray(batch.streams["label"].values)
        log_sum = np.log(np.exp(logits).sum(1))
        cost = log_sum - logits[np.arange(len(label)), label]
        costs += list(cost[batch.valid])
        right += list((logits.argmax(1) == label)[batch.valid])
    return np.asarray(costs), np.asarray(right)


def test_agrees_with_a_hand_made_sum_over_seven_rows(program, split):
    """The last batch of four is filled up with a row that does not count."""
    state = program.init()
    sizes = [(batch.size, int(batch.valid.sum())) for batch in split]
    assert sizes == [(4, 4), (4, 3)]
    costs, right = by_hand(program, state, split)
    assert len(costs) == 7
    found = evaluate(program, state, split)
    assert list(found) == ["loss", "losses.fit", "losses.sure", "accuracy", "gap"]
    assert found["losses.fit"] == pytest.approx(costs.mean(), rel=1e-6)
    assert found["loss"] == pytest.approx(1.25 * costs.mean(), rel=1e-6)
    assert found["accuracy"] == pytest.approx(right.mean(), abs=1e-12)
    assert found == evaluate(program, state, split)


def test_gathers_columns_for_resampling(program, split):
    state = program.init()
    found = gather(program, state, split)
    _, right = by_hand(program, state, split)
    columns = found.columns["accuracy"]
    assert columns.values["prediction"].dtype == np.float64
    assert columns.values["prediction"].shape == (7, 3)
    assert columns.rows.tolist() == [True] * 7
    assert len(found.index) == len(set(found.index.tolist())) == 7
    draw = np.array([0, 0, 3, 6, 6, 6, 1])
    assert found.metric(program.graph, "accuracy", draw) == pytest.approx(right[draw].mean())


def test_filling_rows_change_nothing(program, split):
    state = program.init()
    batches = []
    for batch in split:
        streams = dict(batch.streams)
        sound = streams["sound"]
        values = np.array(sound.values)
        values[~batch.valid] = np.nan
        streams["sound"] = sound.with_(values=values)
        batches.append(streams)
    assert evaluate(program, state, batches) == evaluate(program, state, split)


def test_each_replica_is_evaluated(program, turns, split):
    state = turns.init()
    found = evaluate(turns, state, split)
    alone = [evaluate(program, turns.replica(state, k), split) for k in range(2)]
    assert found == alone
    assert found[0] != found[1]


def test_nothing_to_evaluate_is_an_error(program):
    with pytest.raises(DataError, match="no batch to evaluate"):
        evaluate(program, program.init(), [])
