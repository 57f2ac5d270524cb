"""Chips: what one of them can do, as its maker says.

Rates are in bytes a second, in one direction. A figure that no public page gives is None.

Sources: [gcp] is the architecture page of the generation, docs.cloud.google.com/tpu/docs/<page>;
[book] the table in chapter 2 of "How to scale your model", jax-ml.github.io/scaling-book/tpus;
[compiler] what libtpu 0.0.42.1 said when a program was made too large for it; [nvidia] the data
sheets of H100 SXM and H200 SXM as others repeat them (NVIDIA's own could not be read), with dense
figures, which are half of those with sparsity; [mlperf] what NVIDIA says of its systems in
mlcommons/inference_results_v4.1; [measured] what ours reached on such a card in November 2026: the
product of two matrices of 8192 in bfloat16, and a copy (bytes read and written).

The link rates of [book] are nine tenths of what [gcp] advertises (half the bidirectional rate of a
chip, over its links): 45 for 50 GB/s, 90 for 100 GB/s.
"""

from dataclasses import dataclass
from typing import Literal

GB = 10**9
GIB = 2**30
GBIT = 10**9 / 8


@dataclass(frozen=True)
class Chip:
    """One accelerator chip and how such chips are put together.

    Args:
      name: as in `--topology`.
      platform: what JAX calls it.
      kind: what JAX calls one of its devices.
      flops: bfloat16 operations a second, dense, at best.
      hbm: bytes of memory.
      hbm_rate: bytes a second between it and the cores.
      usable: bytes that the compiler grants a program on one device.
      cores: that compute; a TPU's TensorCores.
      devices: that JAX shows of one chip.
      chips_per_host: chips of one machine where a slice spans several.
      links: to neighbouring chips of the slice.
      link_rate: of one link.
      torus: the largest slice.
      host_rate: of a machine to other slices or machines.
      clock: cycles a second by which the compiler's cycle counts become time.
      reached_flops, reached_rate: of `flops` and `hbm_rate` what was reached; `None`: not measured.
    """

    name: str
    platform: Literal["tpu", "cuda"]
    kind: str
    flops: float
    hbm: int
    hbm_rate: float
    usable: int | None
    cores: int
    devices: int
    chips_per_host: int
    links: int | None
    link_rate: float | None
    torus: tuple[int, ...] | None
    host_rate: float | None
    clock: float | None
    reached_flops: float | None = None
    reached_rate: float | None = None

    @property
    def ridge(self) -> float:
        """Operations a byte from which on a kernel is bound by compute."""
        return self.flops / self.hbm_rate

    @property
    def ici_rate(self) -> float | None:
        """Of all links of a chip together; for a GPU, of NVLink."""
        if self.links is None or self.link_rate is None:
            return None
        return self.links * self.link_rate


_ALL = (
    Chip(
        name="v4",
        platform="tpu",
        kind="TPU v4",
        flops=275e12,  # [gcp] v4
        hbm=32 * GIB,  # [gcp] v4
        hbm_rate=1200 * GB,  # [gcp] v4
        usable=None,  # [compiler] takes each core for a device, which is not how v4 runs
        cores=2,  # [gcp] v4
        devices=1,
        chips_per_host=4,  # [book] a host is 2x2x1
        links=6,  # [gcp] v4: neighbours in three dimensions
        link_rate=45 * GB,  # [book]
        torus=(16, 16, 16),  # [book]; [gcp] v4: 4096 chips
        host_rate=None,
        clock=None,
    ),
    Chip(
        name="v5e",
        platform="tpu",
        kind="TPU v5 lite",
        flops=197e12,  # [gcp] v5e
        hbm=16 * GIB,  # [gcp] v5e
        hbm_rate=819 * GB,  # [gcp] v5e
        usable=int(15.75 * GIB),  # [compiler]
        cores=1,  # [gcp] v5e
        devices=1,
        chips_per_host=4,  # xpk: ct5lp-hightpu-4t; a board has 8 chips and two such machines
        links=4,  # [gcp] v5e: ICI ports
        link_rate=45 * GB,  # [book]
        torus=(16, 16),  # [gcp] v5e: 256 chips
        host_rate=100 * GBIT,  # [gcp] v5e: 2 x 100 Gbit/s for the 8 chips of two machines
        clock=1.5e9,  # fits the peak: 4 units of 128 x 128
    ),
    Chip(
        name="v5p",
        platform="tpu",
        kind="TPU v5",
        flops=459e12,  # [gcp] v5p
        hbm=96 * GIB,  # [gcp] v5p: physical; 95 GiB are advertised
        hbm_rate=2765 * GB,  # [gcp] v5p
        usable=int(95.74 * GIB),  # [compiler]
        cores=2,  # [gcp] v5p
        devices=1,
        chips_per_host=4,  # xpk: ct5p-hightpu-4t
        links=6,  # [book]
        link_rate=90 * GB,  # [book]
        torus=(16, 16, 24),  # [gcp] v5p: the largest job has 6144 chips
        host_rate=200 * GBIT,  # [gcp] v5p: 50 Gbit/s a chip
        clock=1.75e9,  # fits the peak: 8 units of 128 x 128
    ),
    Chip(
        name="v6e",
        platform="tpu",
        kind="TPU v6 lite",
        flops=918e12,  # [gcp] v6e
        hbm=32 * GIB,  # [gcp] v6e
        hbm_rate=1638 * GB,  # [gcp] tpu7x, column v6e
        usable=int(31.25 * GIB),  # [compiler]
        cores=1,  # [gcp] v6e
        devices=1,
        chips_per_host=4,  # [gcp] v6e: ct6e-standard-4t where there are several
        links=4,  # [gcp] v6e: ICI ports
        link_rate=90 * GB,  # [book]
        torus=(16, 16),  # [gcp] v6e: 256 chips
        host_rate=400 * GBIT,  # [gcp] tpu7x, column v6e: 100 Gbit/s a chip
        clock=1.75e9,  # fits the peak: 4 units of 256 x 256
    ),
    Chip(
        name="7x",
        platform="tpu",
        kind="TPU7x",
        flops=2307e12,  # [gcp] tpu7x
        hbm=192 * GIB,  # [gcp] tpu7x
        hbm_rate=7380 * GB,  # [gcp] tpu7x
        usable=int(94.75 * GIB),  # [compiler], of one of the two devices
        cores=2,  # [gcp] tpu7x
        devices=2,  # [gcp] tpu7x: each half of the chip is a device
        chips_per_host=4,  # xpk: tpu7x-standard-4t
        links=6,  # [gcp] tpu7x: shaped like v5p
        link_rate=100 * GB,  # [gcp] tpu7x: 1200 GB/s a chip in both directions; as advertised
        torus=(16, 24, 24),  # [gcp] tpu7x: 9216 chips
        host_rate=400 * GBIT,  # [gcp] tpu7x: 100 Gbit/s a chip
        clock=None,
    ),
    Chip(
        name="h100",
        platform="cuda",
        kind="NVIDIA H100",
        flops=989e12,  # [nvidia]
        hbm=80 * GB,  # [nvidia]
        hbm_rate=3350 * GB,  # [nvidia]
        usable=None,
        cores=132,  # [nvidia]: streaming multiprocessors
        devices=1,
        chips_per_host=8,  # xpk: a3-highgpu-8g
        links=18,  # [mlperf]: NVLink 4
        link_rate=25 * GB,  # [mlperf]: 900 GB/s a GPU in both directions
        torus=None,
        host_rate=None,
        clock=None,
        reached_flops=798e12,  # [measured]
        reached_rate=3000 * GB,  # [measured]
    ),
    Chip(
        name="h200",
        platform="cuda",
        kind="NVIDIA H200",
        flops=989e12,  # [nvidia]
        hbm=141 * GB,  # [mlperf]
        hbm_rate=4800 * GB,  # [nvidia]
        usable=None,
        cores=132,  # [nvidia]: streaming multiprocessors
        devices=1,
        chips_per_host=8,  # xpk: a3-ultragpu-8g
        links=18,  # [mlperf]: NVLink 4
        link_rate=25 * GB,  # [mlperf]: 900 GB/s a GPU in both directions
        torus=None,
        host_rate=None,
        clock=None,
        reached_flops=790e12,  # [measured]
        reached_rate=4300 * GB,  # [measured]
    ),
)

CAPABILITY = "9.0"
"""Of H100 and H200, for whom it is compiled."""

CHIPS = {chip.name: chip for chip in _ALL}
"""Every chip by its name in `--topology`."""
