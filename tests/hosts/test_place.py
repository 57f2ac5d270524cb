"""Where a process stands: what is said goes first, and one process is left alone."""

import socket

import pytest

from fusekit.hosts import schedulers
from fusekit.hosts.place import HostsError, Place, find

SLURM = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "PMIX_NAMESPACE": "prterun-a-1@1",
}
ALL = {"FUSEKIT_COORDINATOR": "a:90", "FUSEKIT_PROCESSES": "3", "FUSEKIT_PROCESS": "2"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"FUSEKIT_PROCESSES": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},
        {**MPI, "OMPI_COMM_WORLD_SIZE": "1"},
        {"JOB_COMPLETION_INDEX": "2"},
        {**SLURM, "FUSEKIT_PROCESSES": "1"},
    ],
)
def test_one_process_is_left_alone(environ):
    assert find(environ=environ) is None


def test_the_environment_says_all():
    assert find(environ=ALL) == Place(("a", 90), 3, 2)


def test_what_is_given_goes_before_the_environment():
    assert find("b:91", 5, 4, environ=ALL) == Place(("b", 91), 5, 4)
    assert find(process=0, environ=ALL) == Place(("a", 90), 3, 0)


def test_the_variables_of_jax_go_after_our_own():
    own = {"JAX_COORDINATOR_ADDRESS": "c:92", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert find(environ=own) == Place(("c", 92), 2, 1)
    assert find(environ=own | ALL) == Place(("a", 90), 3, 2)
    with pytest.raises(HostsError, match="JAX_PROCESS_ID=x is no whole number"):
        find(environ=own | {"JAX_PROCESS_ID": "x"})


def test_addresses_of_the_sixth_version():
    assert find("[::1]:90", 2, 0, environ={}) == Place(("::1", 90), 2, 0)


def test_a_step_of_slurm():
    place = find(environ=SLURM)
    assert place is not None
    assert (place.processes, place.process, place.device) == (4, 3, 1)
    assert place.coordinator == ("gpu07", schedulers.port_of("71.0"))
    assert schedulers.port_of("71.0") != schedulers.port_of("72.0")


def test_slurm_where_the_coordinator_is_given():
    place = find("login:90", environ=SLURM)
    assert place is not None
    assert (place.coordinator, place.process) == (("login", 90), 3)


@pytest.mark.parametrize(("seen", "device"), [("0", None), ("0,1", 1), (None, 1)])
def test_the_gpu_of_a_process_that_shares_its_machine(seen, device):
    place = find(environ=SLURM | ({} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}))
    assert place is not None
    assert place.device == device
    alone = find(environ={**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x4)"})
    assert alone is not None
    assert alone.device is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("n[003-007,12],x", "n003"),
        ("n[7]", "n7"),
        ("r1-[02,09]-ib,z", "r1-02-ib"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert schedulers.first_node(nodes) == first


def test_open_mpi_on_one_machine():
    place = find(environ=MPI)
    assert place is not None
    assert place.coordinator[0] == "127.0.0.1"
    assert (place.processes, place.process, place.device) == (2, 1, 1)


def test_open_mpi_on_several_machines():
    spread = {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    uri = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
    place = find(environ=spread | uri)
    assert place is not None
    assert place.coordinator[0] == "10.96.0.1"
    with pytest.raises(HostsError, match="Open MPI does not say all: give --coordinator"):
        find(environ=spread)


def test_a_pod_of_an_indexed_job(monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda: "run-workers-0-3.run.ns.svc.cluster.local")
    place = find(environ={"JOB_COMPLETION_INDEX": "3", "FUSEKIT_PROCESSES": "4"})
    coordinator = ("run-workers-0-0.run.ns.svc.cluster.local", schedulers.PORT)
    assert place == Place(coordinator, 4, 3)


def test_a_pod_without_a_service(monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda: "run-3")
    with pytest.raises(HostsError, match="Kubernetes does not say all: give --coordinator"):
        find(environ={"JOB_COMPLETION_INDEX": "3", "FUSEKIT_PROCESSES": "4"})


class Pod:
    """As JAX describes one: the second slice of two with two workers each."""

    count = 4

    @staticmethod
    def is_env_present():
        return True

    @classmethod
    def get_process_count(cls):
        return cls.count

    @staticmethod
    def get_process_id():
        return 2

    @staticmethod
    def get_coordinator_address(timeout, port):
        return f"slice-0-worker-0:{port}"


@pytest.fixture
def pod(monkeypatch):
    from jax._src.clusters import cloud_tpu_cluster

    monkeypatch.setattr(cloud_tpu_cluster, "GkeTpuCluster", Pod)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    return monkeypatch


def test_a_tpu_pod_as_jax_finds_it(pod):
    assert find() == Place(("slice-0-worker-0", schedulers.PORT), 4, 2)
    pod.setenv("JAX_PLATFORMS", "cpu")
    assert find() is None


def test_a_tpu_of_one_machine(pod):
    pod.setattr(Pod, "count", 1)
    assert find() is None


def test_a_tpu_that_does_not_say(pod):
    def present():
        raise ConnectionError("metadata.google.internal does not answer")

    pod.setattr(Pod, "is_env_present", present)
    with pytest.raises(HostsError, match="JAX cannot find the hosts of this TPU: ConnectionError"):
        find()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"FUSEKIT_PROCESSES": "2"}, "give --coordinator HOST:PORT and --process K"),
        ({"FUSEKIT_COORDINATOR": "a:90"}, "give --processes N and --process K"),
        (ALL | {"FUSEKIT_PROCESS": "3"}, "process 3 of 3 cannot be"),
        (ALL | {"FUSEKIT_COORDINATOR": "a"}, "'a' is no HOST:PORT"),
        (ALL | {"FUSEKIT_COORDINATOR": "a:b"}, "'a:b' is no HOST:PORT"),
        (ALL | {"FUSEKIT_COORDINATOR": "a:65535"}, "'a:65535' is no HOST:PORT"),
        (ALL | {"FUSEKIT_PROCESSES": "two"}, "FUSEKIT_PROCESSES=two is no whole number"),
        (ALL | {"FUSEKIT_HOSTS_WAIT": "soon"}, "FUSEKIT_HOSTS_WAIT=soon is no number of seconds"),
        (ALL | {"FUSEKIT_HOSTS_SILENCE": "0"}, "FUSEKIT_HOSTS_SILENCE=0 is no number of seconds"),
    ],
)
def test_what_cannot_be_is_an_error(given, message):
    with pytest.raises(HostsError) as caught:
        find(environ=given)
    assert message in str(caught.value)
