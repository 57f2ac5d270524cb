"""Writes docs/reference/components.md from the registry: python tools/make_reference.py"""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference" / "components.md"

if __name__ == "__main__":
    from fusekit.report.reference import markdown

    TARGET.write_text(markdown(), encoding="utf-8")
    print(f"wrote {TARGET.name}")
