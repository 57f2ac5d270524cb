"""Where runs lie: storage that every machine of a job sees."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from fusekit.errors import FusekitError

MOUNT = "/runs"
"""Where a bucket or claim is mounted: fusekit writes to file systems alone."""

Kind = Literal["bucket", "claim", "path"]
FORMS: dict[Kind, str] = {
    "bucket": "gs://BUCKET/FOLDER",
    "claim": "pvc://CLAIM/FOLDER",
    "path": "/FOLDER",
}


@dataclass(frozen=True)
class Storage:
    """Shared storage. `Storage.parse` checks what it is given.

    Args:
      kind: a bucket of Google Cloud Storage, a claim of Kubernetes, or a path that is there.
      name: of the bucket or claim; nothing for a path.
      folder: within the bucket or claim; for a path, all of it.
    """

    kind: Kind
    name: str
    folder: str

    @staticmethod
    def parse(text: str) -> "Storage":
        """Raises `FusekitError` for anything but `gs://…`, `pvc://…` or an absolute path."""
        schemes: dict[str, Kind] = {"gs://": "bucket", "pvc://": "claim"}
        for scheme, kind in schemes.items():
            if text.startswith(scheme):
                name, _, folder = text.removeprefix(scheme).partition("/")
                if name and ".." not in folder.split("/"):
                    return Storage(kind, name, folder.strip("/"))
        if text.startswith("/") and "://" not in text:
            return Storage("path", "", str(PurePosixPath(text)))
        forms = ", ".join(FORMS.values())
        raise FusekitError(
            f"--runs is no storage that is shared\n    found: {text}\n    expected: {forms}"
        )

    @property
    def path(self) -> str:
        """Of the folder of runs, as the job sees it."""
        if self.kind == "path":
            return self.folder
        return str(PurePosixPath(MOUNT) / self.folder)
