"""The file format, byte by byte, and files that are none."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fusekit.errors import ExportError
from fusekit.export.safetensors import load, save


def test_a_file_by_hand(tmp_path: Path):
    """One array of two numbers: 8 bytes of length, the header, the numbers."""
    save(tmp_path / "x", {"a.b": np.array([1.0, -2.0], np.float32)})
    header = b'{"a.b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    assert len(header) == 56
    numbers = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    assert (tmp_path / "x").read_bytes() == b"\x38" + b"\0" * 7 + header + numbers


def test_every_dtype_and_shape_comes_back(tmp_path: Path):
    given = {
        "flags": np.array([True, False, True]),
        "half": np.arange(3).astype(ml_dtypes.bfloat16),
        "codes": np.arange(6, dtype=np.int32).reshape(2, 3),
        "none": np.zeros((0, 4), np.float32),
        "one": np.float64(2.5).reshape(()),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    save(tmp_path / "x", given)
    found = load(tmp_path / "x")
    assert set(found) == set(given)
    for name, array in given.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.aligned


def test_what_is_no_such_file_is_told(tmp_path: Path):
    file = tmp_path / "x"
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

    def failing(header: object, content: bytes = b"\0" * 8, length: int | None = None) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(text) if length is None else length
        file.write_bytes(size.to_bytes(8, "little") + text + content)
        with pytest.raises(ExportError, match="is no safetensors file"):
            load(file)

    failing({"a": entry}, length=10**9)
    failing({"a": entry}, content=b"\0" * 7)
    failing({"a": {**entry, "shape": [3]}})
    failing({"a": {**entry, "dtype": "PICKLE"}})
    failing({"a": {**entry, "data_offsets": [8, 0]}})
    failing({"a": {**entry, "data_offsets": [-8, 0]}})
    failing(["a"])
    failing(b"{")
    file.write_bytes(b"\0")
    with pytest.raises(ExportError, match="is no safetensors file"):
        load(file)
