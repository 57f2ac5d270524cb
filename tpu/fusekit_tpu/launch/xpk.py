"""`--target xpk`: one command of xpk, and the image that it runs."""

from fusekit_tpu.launch.base import HOME, START, Target, within
from fusekit_tpu.launch.container import image_files
from fusekit_tpu.launch.job import Job
from fusekit_tpu.launch.script import STRICT, command, comment, script

FILE = "xpk.sh"
GPUS = {"h100": "h100-80gb-8", "h200": "h200-141gb-8"}


class Xpk(Target):
    """xpk mounts no files of ours, so config and script lie in the image.

    It restarts a job after exit codes from 127 on, among them that of a preempted one, and gives
    up after 2, which is for the user to mend. Storage is attached to the cluster beforehand.
    """

    name = "xpk"
    storages = ("path",)
    needs = ("image", "cluster")
    takes = ("zone", "project", "spot")

    def files(self, job: Job) -> dict[str, str]:
        create = command(
            ["xpk", "workload", "create"],
            ["--cluster", job.place.cluster or ""],
            *([["--project", job.place.project]] if job.place.project else []),
            *([["--zone", job.place.zone]] if job.place.zone else []),
            ["--workload", job.name],
            *_devices(job),
            ["--docker-image", job.image or ""],
            ["--max-restarts", str(job.restarts)],
            *([["--spot"]] if job.place.spot else []),
            ["--command", f"bash {HOME}/{START}"],
        )
        return {
            FILE: script(
                comment(f"Runs the image {job.image} on {job.topology}; its runs lie in"),
                comment(f"{job.runs.path}, where xpk storage attach must have mounted something."),
                STRICT,
                create,
            ),
            **image_files(job),
        }

    def submit(self, job: Job, folder: str) -> str:
        return f"bash {within(folder, FILE)}"


def _devices(job: Job) -> list[list[str]]:
    topology = job.topology
    if topology.chip.platform == "cuda":
        return [["--device-type", GPUS[topology.chip.name]], ["--num-nodes", str(topology.hosts)]]
    # a number of cores fits several shapes of three dimensions
    kind = topology.accelerator_type
    if len(topology.shape) == 3:
        kind = f"{kind.rpartition('-')[0]}-{topology.shape_text}"
    return [["--tpu-type", kind], ["--num-slices", str(topology.slices)]]
