"""Eight fake CPU devices for meshes, and one compilation cache for the whole run, shared by its
processes; nothing here reaches the network or a GPU."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

CACHE = os.environ.get("FUSEKIT_TEST_CACHE", "")
if not CACHE:
    CACHE = os.environ["FUSEKIT_TEST_CACHE"] = tempfile.mkdtemp(prefix="fusekit-jax-cache-")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402 - after the variables above
import pytest  # noqa: E402


@pytest.fixture(scope="module")
def compiled_quickly():
    """For modules in which nearly all the time goes into compiling, and much of that into LLVM's
    optimisations."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
