"""`--target queued-resources`: a request for TPU machines, and what each does when it starts."""

import shlex
from textwrap import indent

from fusekit.status import MEND
from fusekit_tpu.launch.base import CONFIG, HOME, START, LaunchError, Target, within
from fusekit_tpu.launch.job import Job
from fusekit_tpu.launch.script import STRICT, command, comment, script, start
from fusekit_tpu.launch.storage import MOUNT

CREATE, STARTUP = "create.sh", "startup.sh"
RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
"""Images of the machines: docs.cloud.google.com/tpu/docs/runtimes. 7x comes by GKE alone."""
END = "END_OF_FILE"


class QueuedResources(Target):
    """Each machine mounts the bucket and runs the image until it succeeds.

    If the machines are taken away, the request has to be made anew: the job goes on from its
    newest checkpoint.
    """

    name = "queued-resources"
    platforms = ("tpu",)
    storages = ("bucket",)
    needs = ("image", "zone")
    takes = ("project", "spot")

    def check(self, job: Job) -> None:
        super().check(job)
        if job.topology.chip.name not in RUNTIMES:
            raise LaunchError(f"target {self.name} has no {job.topology.chip.name}: see gke")

    def files(self, job: Job) -> dict[str, str]:
        return {CREATE: self._create(job), STARTUP: self._startup(job)}

    def submit(self, job: Job, folder: str) -> str:
        return f"bash {within(folder, CREATE)}"

    def _create(self, job: Job) -> str:
        topology, place = job.topology, job.place
        several = topology.slices > 1
        create = command(
            ["gcloud", "compute", "tpus", "queued-resources", "create", job.name],
            *([["--project", place.project]] if place.project else []),
            ["--zone", place.zone or ""],
            *_kind(job),
            ["--runtime-version", RUNTIMES[topology.chip.name]],
            *(
                [["--node-count", str(topology.slices)], ["--node-prefix", job.name]]
                if several
                else [["--node-id", job.name]]
            ),
            *([["--spot"]] if place.spot else []),
            ["--metadata-from-file", f"startup-script={STARTUP}"],
        )
        return script(
            comment(f"Asks for {topology} and trains {job.name} on it."),
            STRICT,
            'cd "$(dirname "$0")"',
            create,
        )

    def _startup(self, job: Job) -> str:
        home = f"/opt{HOME}"
        registry = (job.image or "").partition("/")[0]
        run = command(
            ["docker", "run", "--rm", "--privileged", "--net=host", "--init"],
            ["-v", f"{home}:{HOME}:ro"],
            ["-v", f"{MOUNT}:{MOUNT}"],
            [job.image or "", "bash", f"{HOME}/{START}"],
        )
        return script(
            comment("Runs on every machine when it starts, as root."),
            STRICT,
            _written(f"{home}/{CONFIG}", job.config),
            _written(f"{home}/{START}", start(job)),
            self._mount(job),
            [f"gcloud auth configure-docker {shlex.quote(registry)} --quiet"]
            if registry.endswith(".pkg.dev")
            else [],
            f"for _ in $(seq 0 {job.restarts}); do",
            "  status=0",
            f"{indent(run, '  ')} || status=$?",
            f'  if [ "$status" -eq 0 ] || [ "$status" -eq {MEND} ]; then exit "$status"; fi',
            "done",
            'exit "$status"',
        )

    def _mount(self, job: Job) -> list[str]:
        source = "https://packages.cloud.google.com/apt"
        return [
            "if ! command -v gcsfuse > /dev/null; then",
            f"  curl -fsS {source}/doc/apt-key.gpg -o /usr/share/keyrings/gcsfuse.asc",
            f'  echo "deb [signed-by=/usr/share/keyrings/gcsfuse.asc] {source}'
            ' gcsfuse-$(lsb_release -cs) main" > /etc/apt/sources.list.d/gcsfuse.list',
            "  apt-get update -q && apt-get install -y -q gcsfuse",
            "fi",
            f"mkdir -p {MOUNT}",
            f"mountpoint -q {MOUNT} || gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0"
            f" -o allow_other {shlex.quote(job.runs.name)} {MOUNT}",
        ]


def _kind(job: Job) -> list[list[str]]:
    """A number of cores fits several shapes of three dimensions, so there the shape is named."""
    topology = job.topology
    if len(topology.shape) == 3:
        return [["--type", topology.chip.name], ["--topology", topology.shape_text]]
    return [["--accelerator-type", topology.accelerator_type]]


def _written(path: str, text: str) -> list[str]:
    """Lines that write a text to a file as it is."""
    folder = path.rpartition("/")[0]
    end = END
    while end in text.splitlines():
        end += "_"
    return [f"mkdir -p {folder}", f"cat > {path} <<'{end}'", text.rstrip("\n"), end]
