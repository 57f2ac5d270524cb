"""Rows of plain data into a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusekit.cli.options import UsageError, write


def save(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Writes `.parquet` or `.jsonl`. Raises `UsageError` if the file cannot be written."""
    if output.suffix == ".jsonl":
        write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), output)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    try:
        pq.write_table(table, output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror or error}") from error
