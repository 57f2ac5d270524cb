"""`--target slurm`: a batch script for a cluster of GPUs, one process a GPU."""

from fusekit.status import MEND
from fusekit_tpu.launch.base import CONFIG, START, Target
from fusekit_tpu.launch.job import Job
from fusekit_tpu.launch.script import STRICT, comment, script, start

FILE = "job.sbatch"
WARNING = 120
"""Seconds before the time limit at which Slurm sends SIGTERM: to write a checkpoint."""


class Slurm(Target):
    """fusekit is expected to be installed where the job runs, as where it is submitted.

    Slurm itself puts a job back in its queue after a preemption or a lost machine; the script does
    so where the time limit stopped it.
    """

    name = "slurm"
    platforms = ("cuda",)
    storages = ("path",)
    local = True

    def files(self, job: Job) -> dict[str, str]:
        gpus = job.topology.chips_per_host
        directives = {
            "job-name": job.name,
            "nodes": job.topology.hosts,
            "ntasks-per-node": gpus,
            "gpus-per-node": gpus,
            "output": f"{job.name}-%j.out",
            "open-mode": "append",
            "signal": f"TERM@{WARNING}",
        }
        text = script(
            [f"#SBATCH --{name}={value}" for name, value in directives.items()],
            "#SBATCH --requeue",
            comment(f"Trains {job.name} on {job.topology}; submit it from its own folder."),
            STRICT,
            "status=0",
            f'srun bash "$SLURM_SUBMIT_DIR/{START}" || status=$?',
            f'if [ "$status" -ne 0 ] && [ "$status" -ne {MEND} ]; then',
            f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {job.restarts} ]; then',
            '    scontrol requeue "$SLURM_JOB_ID"',
            "  fi",
            "fi",
            'exit "$status"',
        )
        return {FILE: text, CONFIG: job.config, START: start(job)}

    def submit(self, job: Job, folder: str) -> str:
        return f"(cd {folder} && sbatch {FILE})"
