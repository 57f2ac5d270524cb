"""The shipped JSON Schema is what the registries say; made anew by `fusekit schema --output`."""

import json
import os
import subprocess
import sys
from pathlib import Path

SHIPPED = Path(__file__).parent.parent / "docs" / "schema" / "experiment.json"


def test_schema_is_current():
    done = subprocess.run(
        [sys.executable, "-m", "fusekit", "schema"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert json.loads(done.stdout) == json.loads(SHIPPED.read_text())
