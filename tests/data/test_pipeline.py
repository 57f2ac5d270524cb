import numpy as np
import pytest

from fusekit.data.pipeline import Pipeline
from fusekit.errors import DataError


def make(fakes, *, sources=None, modalities=None, **options):
    settings = {"batch": 4, "seed": 0, "split": "train", "training": True} | options
    modalities = modalities or {
        "x": fakes.Vector(),
        "z": fakes.Vector(optional=True),
        "label": fakes.Label(),
    }
    return Pipeline(sources or {"n": fakes.Numbers()}, modalities, **settings)


def take(pipeline, count):
    batches = [next(pipeline) for _ in range(count)]
    pipeline.close()
    return batches


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.index, b.index)
        assert a.ids == b.ids
        assert a.streams.keys() == b.streams.keys()
        for name, stream in a.streams.items():
            other = b.streams[name]
            for leaf in ("values", "mask", "presence"):
                left, right = getattr(stream, leaf), getattr(other, leaf)
                assert (left is None) == (right is None)
                if left is not None:
                    np.testing.assert_array_equal(left, right)
                    assert left.dtype == right.dtype


def test_contents_belong_to_the_index(fakes):
    for batch in take(make(fakes), 20):
        i = batch.index.astype(np.float32)
        np.testing.assert_array_equal(batch.streams["x"].values, np.stack([i, i + 0.25, 2 * i], 1))
        np.testing.assert_array_equal(batch.streams["label"].values, batch.index % 10)
        np.testing.assert_array_equal(batch.streams["z"].presence, batch.index % 3 > 0)
        assert not batch.streams["z"].values[batch.index % 3 == 0].any()
        assert batch.valid.all()
        assert batch.ids is None


def test_the_same_seed_gives_the_same_batches(fakes):
    assert_equal(take(make(fakes), 20), take(make(fakes, threads=0), 20))
    other = take(make(fakes, seed=1), 1)[0]
    assert other.index.tolist() != take(make(fakes), 1)[0].index.tolist()


def test_rows_one_by_one_give_the_same_batches(fakes):
    slow = make(fakes, sources={"n": fakes.Numbers(slow=True)})
    assert_equal(take(make(fakes), 10), take(slow, 10))


def test_epochs(fakes):
    pipeline = make(fakes)
    assert pipeline.rows == 30
    assert len(pipeline) == 7  # 30 rows, batches of 4: 2 rows are left out of each epoch
    epochs = [np.concatenate([b.index for b in take(pipeline, 7)]) for _ in range(1)]
    pipeline = make(fakes)
    epochs = [np.concatenate([next(pipeline).index for _ in range(7)]) for _ in range(20)]
    pipeline.close()
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 28
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert len(set(np.concatenate(epochs).tolist())) == 30


def test_evaluation_fills_up_the_last_batch(fakes):
    pipeline = make(fakes, split="test", training=False, sources={"n": fakes.Numbers(named=True)})
    assert (pipeline.rows, len(pipeline)) == (10, 3)
    for _ in range(2):
        batches = list(pipeline)
        index = np.concatenate([b.index for b in batches])
        assert index.tolist() == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39, -1, -1]
        assert np.concatenate([b.valid for b in batches]).tolist() == [True] * 10 + [False] * 2
        assert batches[2].ids == ["n35", "n39", "", ""]
        np.testing.assert_array_equal(batches[2].streams["x"].values[2:, 0], [3, 3])


@pytest.mark.parametrize("steps", [0, 3, 7, 11])
def test_a_resumed_run_sees_the_same(fakes, steps):
    whole = make(fakes, sources={"n": missing_source(fakes)})
    for _ in range(steps):
        next(whole)
    state = whole.state()
    assert state["step"] == steps
    rest = take(whole, 12)
    again = make(fakes, sources={"n": missing_source(fakes)})
    next(again)
    again.restore({name: np.int64(value) for name, value in state.items()})
    assert again.state() == state
    assert_equal(rest, take(again, 12))


def missing_source(fakes):
    return fakes.Numbers(missing={"z": {"rate": 0.5, "each_epoch": True}})


def test_a_state_of_other_data_is_refused(fakes):
    state = make(fakes).state()
    with pytest.raises(
        DataError, match="state is of a pipeline with batch 4; this one has batch 5"
    ):
        make(fakes, batch=5).restore(state)


@pytest.mark.parametrize("training", [True, False])
def test_two_hosts_see_what_one_sees(fakes, training):
    def batches(host, hosts):
        pipeline = make(
            fakes, batch=6, training=training, host=host, hosts=hosts, threads=0,
            sources={"n": missing_source(fakes)},
        )  # fmt: skip
        steps = iter(pipeline)
        return [next(steps) for _ in range(len(pipeline))]

    for one, even, odd in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        for part, host in ((even, 0), (odd, 1)):
            assert part.index.tolist() == one.index[host::2].tolist()
            for name in ("x", "z", "valid"):
                whole, share = one.streams[name], part.streams[name]
                np.testing.assert_array_equal(share.values, whole.values[host::2])
                if share.presence is not None:
                    np.testing.assert_array_equal(share.presence, whole.presence[host::2])


def test_a_run_can_go_on_with_more_hosts(fakes):
    single = make(fakes)
    for _ in range(5):
        next(single)
    pair = [make(fakes, host=host, hosts=2) for host in range(2)]
    for part in pair:
        part.restore(single.state())
    index = sorted(np.concatenate([take(part, 1)[0].index for part in pair]).tolist())
    assert index == sorted(take(single, 1)[0].index.tolist())


def test_sources_are_pooled(fakes):
    sources = {"a": fakes.Numbers(), "b": fakes.Numbers(count=20, start=100, named=True)}
    pipeline = make(fakes, sources=sources, batch=5)
    assert (pipeline.rows, len(pipeline)) == (45, 9)
    batches = take(pipeline, 9)
    index = np.concatenate([b.index for b in batches])
    first = np.concatenate([b.streams["x"].values[:, 0] for b in batches])
    assert len(set(index.tolist())) == 45
    assert sorted(index) == [r for r in range(60) if (r - 40 * (r >= 40)) % 4 < 3]
    np.testing.assert_array_equal(first, np.where(index < 40, index, index + 60))
    ids = [name for b in batches for name in b.ids or []]
    assert ids == [f"a:{i}" if i < 40 else f"n{i + 60}" for i in index]


def test_a_source_may_lack_a_split(fakes):
    late = fakes.Numbers(split={"type": "holdout", "fractions": {"train": 1.0}})
    sources = {"a": fakes.Numbers(), "late": late}
    pipeline = make(fakes, sources=sources, split="test", training=False)
    assert pipeline.rows == 10
    with pytest.raises(DataError, match="source late: no rows to test: the splits are train"):
        make(fakes, sources={"late": late}, split="test", training=False)


def test_weights(fakes):
    sources = {
        "a": fakes.Numbers(weight=3.0),
        "b": fakes.Numbers(count=20, start=100, weight=1.0),
    }
    batches = take(make(fakes, sources=sources, batch=8), 100)
    index = np.stack([b.index for b in batches])
    np.testing.assert_array_equal((index < 40).sum(1), 6)
    for rows, kept in ((index[index < 40], 30), (index[index >= 40], 15)):
        for epoch in range(len(rows) // kept):
            assert len(set(rows[epoch * kept : (epoch + 1) * kept].tolist())) == kept
        assert rows[:kept].tolist() != rows[kept : 2 * kept].tolist()
    assert_equal(batches, take(make(fakes, sources=sources, batch=8), 100))


def test_some_weights(fakes):
    sources = {"a": fakes.Numbers(weight=3.0), "b": fakes.Numbers()}
    with pytest.raises(DataError, match="give every source a weight, or none: b has none"):
        make(fakes, sources=sources)


def test_provides(fakes):
    modalities = {"pair": fakes.Vector(), "cls": fakes.Label()}
    provides = {"pair": "x", "cls": "label"}
    pipeline = make(
        fakes, sources={"n": fakes.Numbers(provides=provides)}, modalities=modalities, threads=0
    )
    batch = next(pipeline)
    np.testing.assert_array_equal(batch.streams["pair"].values[:, 0], batch.index)
    np.testing.assert_array_equal(batch.streams["cls"].values, batch.index % 10)


def test_a_column_that_is_nowhere_is_absent(fakes):
    modalities = {"x": fakes.Vector(), "sound": fakes.Vector(optional=True)}
    for slow in (False, True):
        pipeline = make(
            fakes, sources={"n": fakes.Numbers(slow=slow)}, modalities=modalities, threads=0
        )
        assert not next(pipeline).streams["sound"].presence.any()


def test_standardised_by_training_rows(fakes):
    train = np.array([i for i in range(40) if i % 4 < 3])
    for slow in (False, True):
        source = fakes.Numbers(slow=slow, standardise=("x", "z"))
        pipeline = make(fakes, sources={"n": source}, split="test", training=False, threads=0)
        for batch in pipeline:
            x = (batch.index - train.mean()) / train.std()
            valid = batch.valid
            np.testing.assert_allclose(
                batch.streams["x"].values[valid], np.stack([x] * 3, 1)[valid], rtol=1e-6
            )
            there = train[train % 3 > 0]
            z = (batch.index - there.mean()) / there.std()
            rows = valid & batch.streams["z"].presence
            assert not batch.streams["z"].values[~batch.streams["z"].presence].any()
            np.testing.assert_allclose(batch.streams["z"].values[rows, 1], z[rows], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 31}, "a batch of 31 cannot be filled: there are 30 rows to train"),
        ({"batch": 4, "hosts": 3}, "a batch of 4 cannot be shared by 3 hosts"),
        ({"modalities": "valid"}, "cannot be called 'valid'"),
        ({"modalities": "y"}, "source n has no column 'y' for modality y, which is not optional"),
        ({"provides": {"x": "xx"}}, "no column 'xx', .* as x: its columns are .* mean x"),
        ({"modalities": "z"}, "row 0 of source n has no z, which is not optional"),
    ],
)
def test_errors(fakes, options, message):
    if "modalities" in options:
        options = options | {"modalities": {options["modalities"]: fakes.Vector()}}
    sources = {"n": fakes.Numbers(provides=options.pop("provides", {}), count=40)}
    with pytest.raises(DataError, match=message):
        list(make(fakes, sources=sources, **({"training": options.get("batch", 0) > 0} | options)))


def test_transforms_are_seeded_by_row_and_epoch(fakes):
    from fusekit.component import TransformSpec

    class Jitter(TransformSpec):
        type: str = "jitter"

        def apply(self, row, rng):
            return {**row, "x": row["x"] + rng.random()}

    def shift(batch):
        return batch.streams["x"].values[:, 0] - batch.index

    def jittered(**options):
        source = fakes.Numbers().model_copy(update={"transforms": {"j": Jitter(**options)}})
        return {"n": source}

    a = make(fakes, sources=jittered(), threads=0)
    epochs = [{}, {}]
    for epoch in epochs:
        for _ in range(7):
            batch = next(a)
            epoch.update(zip(batch.index.tolist(), shift(batch).tolist(), strict=True))
    assert len(set(epochs[0].values())) == 28
    both = epochs[0].keys() & epochs[1].keys()
    assert all(abs(epochs[0][row] - epochs[1][row]) > 1e-6 for row in both)
    wide = make(fakes, sources=jittered(), batch=10, threads=0)
    for _ in range(3):
        batch = next(wide)
        for row, found in zip(batch.index.tolist(), shift(batch).tolist(), strict=True):
            if row in epochs[0]:
                assert found == pytest.approx(epochs[0][row], abs=1e-5)
    still = make(fakes, sources=jittered(), training=False, threads=0)
    assert all((shift(b)[b.valid] == 0).all() for b in still)
    always = make(fakes, sources=jittered(when="always"), training=False, threads=0)
    assert all((shift(b)[b.valid] != 0).all() for b in always)


def test_collated_once_or_by_row_is_the_same(fakes):
    from fusekit.component import TransformSpec

    class Shift(TransformSpec):
        type: str = "shift"
        knows: bool = True

        def touches(self):
            return ("x",) if self.knows else None

        def apply(self, row, rng):
            return {**row, "x": row["x"] + rng.random()} if "x" in row else row

    def batches(slow, knows):
        missing = {m: {"rate": 0.4, "each_epoch": True} for m in ("x", "z", "label")}
        source = fakes.Numbers(slow=slow, missing=missing, standardise=("z",))
        source = source.model_copy(update={"transforms": {"s": Shift(knows=knows)}})
        modalities = {
            "x": fakes.Vector(optional=True),
            "z": fakes.Vector(optional=True),
            "label": fakes.Label(optional=True),
        }
        return take(make(fakes, sources={"n": source}, modalities=modalities), 20)

    first = batches(slow=False, knows=True)
    assert_equal(first, batches(slow=False, knows=False))
    assert_equal(first, batches(slow=True, knows=True))
    for batch in first:
        for name in ("x", "z", "label"):
            stream = batch.streams[name]
            assert not stream.values[~stream.presence].any()


def test_what_is_not_read_may_lack_its_column(fakes):
    source = fakes.Numbers(provides={"answer": "no_such_column"})
    batch = next(make(fakes, sources={"n": source}, modalities={"x": fakes.Vector()}))
    assert batch.streams["x"].values.shape[1:] == (3,)
    with pytest.raises(DataError, match="no column 'no_such_column'"):
        make(fakes, sources={"n": source}, modalities={"answer": fakes.Label()})


@pytest.mark.parametrize("threads", [0, 1])
def test_an_error_in_a_row_says_which(fakes, threads):
    class Broken(fakes.SlowRows):
        def __getitem__(self, row):
            raise DataError("these bytes are no png")

    class Source(fakes.Numbers):
        def rows(self, modalities):
            return Broken(super().rows(modalities))

    pipeline = make(fakes, sources={"n": Source(named=True)}, threads=threads, training=False)
    with pytest.raises(DataError, match="no png") as caught:
        next(iter(pipeline))
    assert caught.value.__notes__[0] == "in row 0 of source n (n0)"
