"""How processes of a Ray cluster find each other."""

from fusekit.hosts.place import COORDINATOR, PROCESS, PROCESSES
from fusekit_tpu.ray_head import VARIABLES, address, process

ADDRESS, COUNT, NUMBER = VARIABLES


def test_the_variables_are_those_that_are_read():
    for name, known in zip(VARIABLES, (COORDINATOR, PROCESSES, PROCESS), strict=True):
        assert name in known


def test_a_process_gets_what_fusekit_train_reads():
    told = f'test "${ADDRESS} ${COUNT} ${NUMBER}" = "h:7 4 2" && exit 5'
    assert process("h:7", 4, 2, ["sh", "-c", told]) == 5
    assert process("h:7", 4, 3, ["sh", "-c", told]) == 1


def test_an_address_has_a_port():
    host, _, port = address().rpartition(":")
    assert host
    assert 1024 <= int(port) < 65536
