"""An annotate stage over hosts writes what one host does, once."""

import numpy as np
import pytest

from fusekit.config import loads
from fusekit.data.annotations import Annotations
from fusekit.train.experiment import train
from tests.hosts.group import Group, succeeded
from tests.train.test_annotate import CONFIG


def kept(folder):
    files = sorted(folder.glob("*/stages/mark/annotations/made/*.npz"))
    return {file.stem: Annotations.read(file) for file in files}


@pytest.mark.slow
def test_two_hosts_write_what_one_does(tmp_path):
    train(loads(CONFIG).experiment, run_root=tmp_path, name="alone", progress=False)
    (tmp_path / "marked.yaml").write_text(CONFIG + "mesh: {data: -1}\n", "utf-8")
    command = ("-m", "fusekit", "train", "marked.yaml", "--runs", ".", "--name", "both")
    with Group(tmp_path, *command, hosts=2) as group:
        succeeded(group.wait())
    one, both = kept(tmp_path / "alone"), kept(tmp_path / "both")
    assert sorted(one) == sorted(both) == ["guess", "score"]
    for name, due in one.items():
        np.testing.assert_array_equal(both[name].rows, due.rows)
        np.testing.assert_allclose(both[name].values, due.values, rtol=1e-5, atol=1e-6)
