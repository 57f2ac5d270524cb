"""How one process of several finds the others."""

import pytest

from fusekit.errors import FusekitError
from fusekit_tpu.ray_head import address, process
from fusekit_tpu.worker import VARIABLES, joining

ADDRESS, COUNT, NUMBER = VARIABLES


def test_nothing_is_said_where_jax_finds_out_by_itself():
    assert joining({"PATH": "/bin", ADDRESS: ""}) == {}


def test_the_variables_become_arguments():
    assert joining({ADDRESS: "a:1", COUNT: "4", NUMBER: "3"}) == {
        "coordinator_address": "a:1",
        "num_processes": 4,
        "process_id": 3,
    }


def test_all_or_none():
    with pytest.raises(FusekitError) as refused:
        joining({ADDRESS: "a:1", NUMBER: "3"})
    assert str(refused.value) == f"{ADDRESS}, {NUMBER} is set, but not {COUNT}"


def test_numbers():
    with pytest.raises(FusekitError, match="JAX_PROCESS_ID is 'x': a number is due"):
        joining({ADDRESS: "a:1", COUNT: "4", NUMBER: "x"})


def test_ray_gives_a_process_what_the_worker_reads():
    told = f'test "${ADDRESS} ${COUNT} ${NUMBER}" = "h:7 4 2" && exit 5'
    assert process("h:7", 4, 2, ["sh", "-c", told]) == 5
    assert process("h:7", 4, 3, ["sh", "-c", told]) == 1


def test_an_address_has_a_port():
    host, _, port = address().rpartition(":")
    assert host
    assert 1024 <= int(port) < 65536
