"""TPU kernels through the real compiler: no temporaries, and no more bundles than there were.

Compiled, never run. Bundles were counted with libtpu 0.0.42.1.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libtpu")

ROOT = Path(__file__).parents[2]
BUDGET = {"forward": 3817, "backward": 6131}
"""Of one program on v5e, for the bottleneck case: at 32 x 6 programs and 1.5 GHz, 0.49 ms and
0.78 ms by estimate."""


def made(generation, number, which):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.bundles", generation, str(number), which],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_forward_kernel_needs_no_temporaries():
    assert made("v5e", 0, "forward")["temporaries"] == 0


def test_both_kernels_keep_within_their_bundles():
    found = made("v5e", 0, "both")
    assert found["temporaries"] < 2**20  # logarithms of 640 tokens, 12 heads and 32 examples
    for name, budget in BUDGET.items():
        bundles = found["bundles"][f"stream_attention_{name}"]
        assert 0.5 * budget < bundles < 1.05 * budget


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["v5e", "v5p", "v6e"])
@pytest.mark.parametrize("number", range(6))
def test_kernels_compile_for_every_generation(generation, number):
    found = made(generation, number, "both")
    assert found["kernels"] == ["stream_attention_backward", "stream_attention_forward"]
    assert found["temporaries"] < 2 * 2**20  # logarithms, and masks as float32
