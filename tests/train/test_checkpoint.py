import jax
import numpy as np
import pytest

from fusekit.errors import CheckpointError
from fusekit.layout import Layout
from fusekit.train.checkpoint import Checkpoints, DamagedWarning
from fusekit.train.digest import MANIFEST, faults, files, seal
from tests.train import tiny


@pytest.fixture(scope="module")
def saved(program, tmp_path_factory):
    """A folder with checkpoints of steps 1 and 2, and the flat states that they hold."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder)
    state, flats = program.init(), {}
    for batch in tiny.batches(2):
        state, _ = program.step(state, batch)
        step = checkpoints.save(program, state, data={"step": 7}, extra={"note": [1.5, None]})
        flats[step] = tiny.flat(program, state)
    checkpoints.close()
    return folder, flats


@pytest.fixture
def copied(saved, tmp_path):
    import shutil

    shutil.copytree(saved[0], tmp_path / "c")
    return tmp_path / "c", saved[1]


def test_round_trip_is_exact(program, saved):
    folder, flats = saved
    checkpoints = Checkpoints(folder)
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.verify() == {1: [], 2: []}
    for step in (1, 2):
        restored = checkpoints.restore(program, step=step)
        assert tiny.same(tiny.flat(program, restored.state), flats[step])
        assert restored[1:] == ({"step": 7}, step, {"note": [1.5, None]})
    places = [leaf.sharding for leaf in jax.tree.leaves(restored.state)]
    assert places == jax.tree.leaves(program.states.shardings)


def test_training_does_not_change_what_is_being_written(program, tmp_path):
    """The thread writes a copy: the step that follows gets the state's memory."""
    checkpoints = Checkpoints(tmp_path)
    state = program.init()
    batches = tiny.batches(6)
    for batch in batches:
        expected = tiny.flat(program, state)
        step = checkpoints.save(program, state)
        state, _ = program.step(state, batch)
        found = checkpoints.restore(program, step=step).state
        assert tiny.same(tiny.flat(program, found), expected)
    checkpoints.close()
    assert checkpoints.steps() == [4, 5]


def flip(file, where=0.5):
    content = bytearray(file.read_bytes())
    content[int(len(content) * where)] ^= 4
    file.write_bytes(content)


def test_a_flipped_bit_in_any_file_is_noticed(program, copied):
    folder, _ = copied
    for file in [*files(folder / "2"), folder / "2" / MANIFEST]:
        before = file.read_bytes()
        flip(file)
        assert faults(folder / "2"), file
        with pytest.warns(DamagedWarning, match="step 2: "):
            assert Checkpoints(folder).newest() == 1
        file.write_bytes(before)
    assert Checkpoints(folder).newest() == 2


def test_falls_back_to_the_newest_good_step(program, copied):
    folder, flats = copied
    largest = max(files(folder / "2"), key=lambda file: file.stat().st_size)
    flip(largest)
    with pytest.warns(DamagedWarning, match=r"step 1 in .*\n  step 2: .*has changed since"):
        restored = Checkpoints(folder).restore(program)
    assert restored.step == 1
    assert tiny.same(tiny.flat(program, restored.state), flats[1])
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        Checkpoints(folder).restore(program, step=2)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), r"has \d+ bytes, not \d+"),
        (lambda file: file.unlink(), "is missing"),
        (lambda file: (file.parents[1] / MANIFEST).unlink(), "has no digests.json"),
        (lambda file: (file.parents[1] / MANIFEST).write_text('{"files": 3}'), "cannot be read"),
    ],
)
def test_other_damage_falls_back_too(program, copied, damage, said):
    folder, _ = copied
    damage(folder / "2" / "state" / "manifest.ocdbt")
    with pytest.warns(DamagedWarning, match=said):
        assert Checkpoints(folder).restore(program).step == 1


def test_nothing_good_is_an_error_that_names_every_step(program, copied):
    folder, _ = copied
    for step in (1, 2):
        flip(folder / str(step) / "state" / "_METADATA")
    with pytest.raises(CheckpointError, match=r"(?s)step 2: .*_METADATA.*step 1: .*_METADATA"):
        Checkpoints(folder).restore(program)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        Checkpoints(folder / "none").restore(program)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 9.*: 1, 2"):
        Checkpoints(folder).restore(program, step=9)


def test_a_damaged_checkpoint_of_the_same_step_is_moved_aside(program, copied):
    folder, _ = copied
    checkpoints = Checkpoints(folder)
    state = checkpoints.restore(program, step=2).state
    flip(folder / "2" / "about" / "metadata")
    checkpoints.save(program, state)
    checkpoints.close()
    assert checkpoints.verify() == {1: [], 2: []}
    assert (folder / "damaged-2-0").is_dir()
    checkpoints.set_aside_after(1)
    assert checkpoints.steps() == [1]
    assert (folder / "damaged-2-1").is_dir()


def test_misfits_are_reported_all_at_once(program, saved):
    folder, _ = saved
    other = tiny.program(
        tiny.experiment(
            encoders={
                "sound": {"type": "transformer", "width": 6, "depth": 2, "heads": 2},
                "tables": {"type": "mlp", "input": "batch.table", "width": 4},
            },
            fusion={"joint": {"type": "concat", "inputs": ["sound.mean", "tables"]}},
        )
    )
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(folder).restore(other)
    text = str(caught.value)
    assert "params.tables.layers.0.kernel: is missing" in text
    assert "did you mean: params.table.layers.0.kernel" in text
    assert "params.table.layers.1.bias: is there, but the program has no such path" in text
    assert "params.out." in text
    assert "found: float32[8, 3]\n    expected: float32[10, 3]" in text


def test_a_warm_start_takes_parameters_alone(program, saved):
    folder, flats = saved
    fresh = tiny.flat(program, program.init(seed=11))
    state = Checkpoints(folder).parameters_only(program, program.init(seed=11))
    found = tiny.flat(program, state)
    for path, array in found.items():
        expected = flats[2] if path.startswith("params.") else fresh
        np.testing.assert_array_equal(array, expected[path], err_msg=path)
    some = Checkpoints(folder).parameters_only(program, program.init(seed=11), paths=["table"])
    for path, array in tiny.flat(program, some).items():
        expected = flats[2] if path.startswith("params.table.") else fresh
        np.testing.assert_array_equal(array, expected[path], err_msg=path)
    with pytest.raises(CheckpointError, match="no parameter is called tabel"):
        Checkpoints(folder).parameters_only(program, program.init(), paths=["tabel"])


def test_scanned_and_unrolled_layers_share_checkpoints(saved):
    """A checkpoint written by unrolled layers, restored into scanned ones and back."""
    folder, flats = saved
    scanned, unrolled = tiny.program(layers="scan"), tiny.program(layers="unroll")
    assert any(group.stacked for group in scanned.model.groups.values())
    state = Checkpoints(folder).restore(scanned).state
    assert tiny.same(tiny.flat(scanned, state), flats[2])
    checkpoints = Checkpoints(folder / "scanned", wait=True)
    checkpoints.save(scanned, state)
    back = checkpoints.restore(unrolled).state
    assert tiny.same(tiny.flat(unrolled, back), flats[2])


@pytest.mark.slow
def test_replicas_may_run_in_another_way_or_be_cut_out(program, turns, tmp_path):
    together = tiny.program(replicas=2, mode="vmap")
    state = turns.init()
    each = [tiny.flat(turns, turns.replica(state, k)) for k in range(2)]
    assert not tiny.same(*each)
    checkpoints = Checkpoints(tmp_path, wait=True)
    checkpoints.save(turns, state)
    for other in (turns, together):
        restored = checkpoints.restore(other).state
        for k in range(2):
            assert tiny.same(tiny.flat(other, other.replica(restored, k)), each[k])
    assert tiny.same(tiny.flat(program, checkpoints.restore(program, replica=1).state), each[1])
    with pytest.raises(CheckpointError, match="has 2 replicas, the program 1"):
        checkpoints.restore(program)
    with pytest.raises(CheckpointError, match="replica 2 does not exist"):
        checkpoints.restore(program, replica=2)


@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices")
def test_any_mesh_shares_checkpoints(program, saved, tmp_path):
    folder, _ = saved
    layout = Layout.of({"data": 2, "fsdp": 2}, devices=jax.devices()[:4])
    spread = tiny.program(layout=layout)
    state = Checkpoints(folder).restore(spread).state
    assert len(state.params["sound"]["proj"]["kernel"].sharding.device_set) == 4
    state, _ = spread.step(state, tiny.batches(1)[0])
    expected = tiny.flat(spread, state)
    checkpoints = Checkpoints(tmp_path, wait=True)
    assert checkpoints.save(spread, state) == 3
    assert tiny.same(tiny.flat(program, checkpoints.restore(program).state), expected)


def test_a_failed_write_is_not_silent(program, tmp_path):
    (tmp_path / "taken").write_text("a file")
    checkpoints = Checkpoints(tmp_path / "taken")
    checkpoints.save(program, program.init())
    with pytest.raises(CheckpointError, match="step 0 could not be written"):
        checkpoints.close()


def test_what_a_killed_save_leaves_does_no_harm(program, copied):
    folder, _ = copied
    left = folder / "3.orbax-checkpoint-tmp"
    left.mkdir()
    (left / "half").write_text("x")
    checkpoints = Checkpoints(folder, wait=True)
    assert checkpoints.newest() == 2
    state, _ = program.step(checkpoints.restore(program).state, tiny.batches(1)[0])
    assert checkpoints.save(program, state) == 3
    assert not left.exists()
    assert checkpoints.verify() == {2: [], 3: []}


def test_digests_are_blake2b(tmp_path):
    import hashlib
    import json

    (tmp_path / "a").write_bytes(b"abc")
    seal(tmp_path)
    told = json.loads((tmp_path / MANIFEST).read_text())["files"]["a"]
    assert told == {"size": 3, "blake2b": hashlib.blake2b(b"abc", digest_size=32).hexdigest()}
