"""Every target: what it renders is valid by the models of others, and says what it should."""

import shlex

import pytest
from ruamel.yaml import YAML

from fusekit.errors import FusekitError
from fusekit_tpu.launch import TARGETS, LaunchError, Place, Storage
from fusekit_tpu.launch.documents import dumped
from fusekit_tpu.launch.script import start
from tests.tpu.jobs import CONFIG, JOBS, bash, job

EVERY = [
    pytest.param(target, each, id=f"{target}-{each.topology}-{each.runs.kind}")
    for target, jobs in JOBS.items()
    for each in jobs
]
OF_KUBERNETES = [p for p in EVERY if p.values[0] in ("gke", "ray")]


def read(text):
    """Documents, as Kubernetes would read them."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = "1.1"  # pyright: ignore[reportAttributeAccessIssue]
    return list(yaml.load_all(text))


def files(target, each):
    TARGETS[target].check(each)
    return TARGETS[target].files(each)


def test_there_are_jobs_for_every_target():
    assert set(JOBS) == set(TARGETS)


@pytest.mark.parametrize(("target", "each"), EVERY)
def test_scripts_are_bash_and_nothing_is_left_open(target, each):
    for name, text in files(target, each).items():
        assert text.endswith("\n")
        assert "None" not in text
        if name.endswith((".sh", ".sbatch")):
            bash(text, "-n")
        if name.endswith(".yaml") and name != "config.yaml":
            for document in read(text):
                for part in document.get("data", {}).values():
                    assert part in (CONFIG, start(each))


@pytest.mark.parametrize(("target", "each"), EVERY)
def test_the_submission_names_a_file_that_is_there(target, each):
    told = TARGETS[target].submit(each, "a/b")
    assert any(name in told for name in files(target, each))
    assert "a/b" in told


def same(model, document):
    """A model takes a document as it is: no field is unknown to it, and none of another type."""
    assert model.from_dict(document).to_dict() == document


@pytest.mark.parametrize(("target", "each"), OF_KUBERNETES)
def test_kubernetes_takes_the_documents(target, each):
    models = pytest.importorskip("kubeflow_trainer_api.models")
    (text,) = files(target, each).values()
    config_map, work = read(text)
    same(models.IoK8sApiCoreV1ConfigMap, config_map)
    assert config_map["metadata"]["name"] == "digits-files"
    if target == "gke":
        same(models.JobsetV1alpha2JobSet, work)
        return
    cluster = work["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        same(models.IoK8sApiCoreV1PodTemplateSpec, group["template"])


def test_the_models_refuse_what_is_wrong():
    models = pytest.importorskip("kubeflow_trainer_api.models")
    _, jobset = read(files("gke", job())["jobset.yaml"])
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["hostNet"] = True
    with pytest.raises(AssertionError):
        same(models.JobsetV1alpha2JobSet, jobset)


def parts(each):
    """Spec of the JobSet, of its one Job, and of the pod."""
    spec = read(files("gke", each)["jobset.yaml"])[1]["spec"]
    one = spec["replicatedJobs"][0]["template"]["spec"]
    return spec, one, one["template"]["spec"]


def test_gke_has_a_job_a_slice_and_a_pod_a_machine():
    spec, one, pod = parts(job(slices=2))
    assert spec["replicatedJobs"][0]["replicas"] == 2
    assert (one["parallelism"], one["completions"]) == (64, 64)
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": "4"}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    assert pod["hostNetwork"] is True
    assert "hostNetwork" not in parts(job())[2]


def test_gke_begins_again_save_for_what_the_user_has_to_mend():
    spec, one, pod = parts(job())
    assert spec["failurePolicy"]["maxRestarts"] == 7
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (policy,) = one["podFailurePolicy"]["rules"]
    assert policy["onExitCodes"]["values"] == [2]
    assert policy["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert (one["backoffLimit"], pod["restartPolicy"]) == (0, "Never")


def test_machines_of_gpus_are_told_where_the_first_is():
    main = parts(job("h200:8x4"))[2]["containers"][0]
    told = {entry["name"]: entry.get("value") for entry in main["env"]}
    assert told == {
        "JAX_COORDINATOR_ADDRESS": "digits-slice-0-0.digits:8476",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": None,
    }
    assert "env" not in parts(job("h200:8"))[2]["containers"][0]
    assert "env" not in parts(job())[2]["containers"][0]


def test_a_bucket_is_mounted_where_the_command_looks():
    _, one, pod = parts(job(slices=2))
    assert one["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    volume = next(v for v in pod["volumes"] if v["name"] == "runs")
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "bucket"
    assert volume["csi"]["volumeAttributes"]["hostNetworkPodKSA"] == "true"
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert "--runs /runs/some" in start(job())
    assert mounts["runs"] == "/runs"
    assert mounts["files"] == "/fusekit"


def after(text, head):
    """The words of the command that begins so."""
    whole = text.replace("\\\n", " ")
    return shlex.split(next(line for line in whole.splitlines() if line.startswith(head)))


def test_xpk():
    text = files("xpk", JOBS["xpk"][0])["xpk.sh"]
    assert after(text, "xpk") == shlex.split(
        "xpk workload create --cluster c --project p --zone z --workload digits"
        " --tpu-type v5litepod-256 --num-slices 2 --docker-image registry/fusekit:1"
        " --max-restarts 7 --command 'bash /fusekit/start.sh'"
    )
    cube = after(files("xpk", JOBS["xpk"][1])["xpk.sh"], "xpk")
    assert cube[cube.index("--tpu-type") + 1] == "v5p-4x4x8"
    gpus = after(files("xpk", JOBS["xpk"][2])["xpk.sh"], "xpk")
    assert gpus[gpus.index("--device-type") + 1] == "h200-141gb-8"
    assert gpus[gpus.index("--num-nodes") + 1] == "4"


def test_queued_resources():
    made = files("queued-resources", JOBS["queued-resources"][1])
    assert after(made["create.sh"], "gcloud") == shlex.split(
        "gcloud compute tpus queued-resources create digits --project p --zone z"
        " --accelerator-type v5litepod-256 --runtime-version v2-alpha-tpuv5-lite"
        " --node-count 2 --node-prefix digits --spot"
        " --metadata-from-file startup-script=startup.sh"
    )
    assert "gcloud auth configure-docker eu-docker.pkg.dev --quiet" in made["startup.sh"]
    cube = after(files("queued-resources", JOBS["queued-resources"][2])["create.sh"], "gcloud")
    assert cube[cube.index("--type") : cube.index("--runtime-version")] == [
        *("--type", "v5p", "--topology", "4x4x8")
    ]


def test_a_machine_begins_again_until_it_succeeds_or_the_user_has_to_mend(tmp_path):
    """The loop of the startup script, with a `docker` that fails so and so."""
    text = files("queued-resources", job(place=Place(zone="z")))["startup.sh"]
    loop = "set -euo pipefail\n" + text[text.index("for _ in") :]
    for statuses, due, tries in (("1 143 0", 0, 3), ("2", 2, 1), ("1 " * 9, 1, 8)):
        count = tmp_path / "count"
        count.write_text("")
        fake = (
            f"statuses=({statuses})\n"
            f"docker() {{ n=$(wc -c < {count}); printf x >> {count}; return ${{statuses[$n]}}; }}\n"
        )
        done = bash(fake + loop, check=False)
        assert (done.returncode, len(count.read_text())) == (due, tries), statuses


def test_what_a_machine_writes_is_what_was_rendered(tmp_path):
    """The config and the script survive the startup script byte by byte."""
    each = job(place=Place(zone="z"))
    text = files("queued-resources", each)["startup.sh"]
    writing = text[text.index("mkdir") : text.index("if ! command")]
    bash(writing.replace("/opt/fusekit", str(tmp_path)))
    assert (tmp_path / "config.yaml").read_text() == CONFIG
    assert (tmp_path / "start.sh").read_text() == start(each)


def test_slurm_has_a_process_a_gpu():
    each = JOBS["slurm"][0]
    text = files("slurm", each)["job.sbatch"]
    for line in ("nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "signal=TERM@120", "requeue"):
        assert f"#SBATCH --{line}\n" in text


def test_slurm_asks_again_only_for_what_may_pass():
    text = files("slurm", JOBS["slurm"][0])["job.sbatch"]
    for status, restarts, due in ((0, 0, ""), (2, 0, ""), (143, 0, "requeue 5\n"), (143, 7, "")):
        fake = (
            f'srun() {{ return {status}; }}\nscontrol() {{ echo "$@"; }}\n'
            f"SLURM_SUBMIT_DIR=/x SLURM_JOB_ID=5 SLURM_RESTART_COUNT={restarts}\n"
        )
        done = bash(fake + text, check=False)
        assert (done.returncode, done.stdout) == (status, due)


def test_ray_has_a_worker_a_machine():
    spec = read(files("ray", JOBS["ray"][0])["rayjob.yaml"])[1]["spec"]
    assert spec["entrypoint"] == "python -m fusekit_tpu.ray_head 4 8 bash /fusekit/start.sh"
    assert spec["backoffLimit"] == 7
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (4, 4, 4)
    worker = group["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"] == {"nvidia.com/gpu": "8"}


def test_a_containerfile_installs_what_drives_the_chip():
    tpu, gpu = (files("container", each)["Containerfile"] for each in JOBS["container"])
    assert "jax[tpu]==" in tpu
    assert "jax[cuda12]==" in gpu
    assert "COPY config.yaml start.sh /fusekit/\n" in tpu


ZONE = Place(zone="z")
REFUSED = [
    ("slurm", job(runs="/r", image=None), "target slurm has GPUs only, not v5e:16x16"),
    ("queued-resources", job("h200:8"), "target queued-resources has TPUs only, not h200:8"),
    ("queued-resources", job("7x:2x2x1", place=ZONE), "target queued-resources has no 7x: see gke"),
    ("ray", job(), "target ray has GPUs only, not v5e:16x16"),
    ("gke", job(runs="/r"), "target gke takes --runs gs://BUCKET/FOLDER or pvc://CLAIM/FOLDER"),
    ("gke", job(image=None), "target gke needs --image"),
    ("gke", job(place=Place(zone="z")), "target gke takes no --zone"),
    ("xpk", job(runs="/r"), "target xpk needs --cluster"),
    ("queued-resources", job(), "target queued-resources needs --zone"),
    ("slurm", job("h200:8", runs="/r"), "target slurm takes no --image"),
]


@pytest.mark.parametrize(("target", "each", "message"), REFUSED)
def test_refusals(target, each, message):
    with pytest.raises(LaunchError) as refused:
        TARGETS[target].check(each)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("text", "kind", "name", "path"),
    [
        ("gs://bucket/a/b/", "bucket", "bucket", "/runs/a/b"),
        ("gs://bucket", "bucket", "bucket", "/runs"),
        ("pvc://claim/a", "claim", "claim", "/runs/a"),
        ("/mnt/a/", "path", "", "/mnt/a"),
    ],
)
def test_storage(text, kind, name, path):
    storage = Storage.parse(text)
    assert (storage.kind, storage.name, storage.path) == (kind, name, path)


@pytest.mark.parametrize("text", ["runs", "gs://", "s3://bucket", "gs://b/../c", "pvc:///a", ""])
def test_what_is_no_shared_storage(text):
    with pytest.raises(FusekitError) as refused:
        Storage.parse(text)
    assert str(refused.value) == (
        f"--runs is no storage that is shared\n    found: {text}\n"
        "    expected: gs://BUCKET/FOLDER, pvc://CLAIM/FOLDER, /FOLDER"
    )


def test_yaml_keeps_what_another_reader_would_take_for_something_else():
    document = {
        "text": ["no", "on", "1", "1e3", "0x1f", "null", "~", "", "a: b", "# c", "x", "12:30:45"],
        "lines": {"a": "one\n  two\n\nthree\n", "b": "one\ntwo", "c": "tab\tand\n 'quotes' \"\n"},
        "numbers": [0, 1.5, True, None],
    }
    assert read(dumped([document, {"second": "y"}])) == [document, {"second": "y"}]
