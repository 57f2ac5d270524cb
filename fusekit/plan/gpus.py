"""What XLA's GPU compiler must be told of a GPU that is not here.

The form is XLA's `GpuTargetConfigProto` as text, which its flag `--xla_gpu_target_config_filename`
takes too. Limits of a block and of a multiprocessor are those of compute capability 9.0 in NVIDIA's
CUDA programming guide; the rest is of the chip.
"""

from fusekit_tpu.chips import Chip

PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
"""Either brings the compiler; neither needs a GPU or CUDA to compile."""
KIB = 2**10
HOPPER = {
    "threads_per_warp": 32,
    "threads_per_block_limit": 1024,
    "threads_per_core_limit": 2048,
    "shared_memory_per_block": 48 * KIB,
    "shared_memory_per_block_optin": 227 * KIB,
    "shared_memory_per_core": 228 * KIB,
    "registers_per_block_limit": 64 * KIB,
    "registers_per_core_limit": 64 * KIB,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "fpus_per_core": 128,
    "l2_cache_size": 50 * KIB * KIB,
    "clock_rate_ghz": 1.98,
}
"""H100 and H200: compute capability 9.0, SXM."""


def target_config(chip: Chip) -> str:
    """A GPU for the compiler, as the text of a `GpuTargetConfigProto`."""
    of_chip = {
        "core_count": chip.cores,
        "memory_bandwidth": int(chip.hbm_rate),
        "device_memory_size": chip.hbm,
    }
    limits = "\n".join(f"  {name}: {value}" for name, value in {**HOPPER, **of_chip}.items())
    return (
        f"gpu_device_info {{\n  cuda_compute_capability {{ major: 9 }}\n{limits}\n}}\n"
        'platform_name: "CUDA"\n'
        "runtime_version { major: 12 minor: 8 }\n"
        "dnn_version_info { major: 9 minor: 7 }\n"
        f'device_description_str: "NVIDIA {chip.name.upper()}"\n'
    )
