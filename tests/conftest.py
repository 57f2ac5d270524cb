"""Eight fake CPU devices for meshes, and one compilation cache for the whole run, shared by its
processes; nothing here reaches the network or a GPU."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
WANTED = ["--xla_force_host_platform_device_count=8"]
# compilation is most of what tests do: these, and no optimisations, take two thirds off it
WANTED += ["--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib").startswith("0.10."):  # later ones end a process that says this
    WANTED += ["--xla_cpu_use_fusion_emitters=false"]
flags = os.environ.get("XLA_FLAGS", "")
flags = " ".join([flags, *(f for f in WANTED if f.split("=")[0] not in flags)])
os.environ["XLA_FLAGS"] = flags.strip()

CACHE = os.environ.get("FUSEKIT_TEST_CACHE", "")
if not CACHE:
    CACHE = os.environ["FUSEKIT_TEST_CACHE"] = tempfile.mkdtemp(prefix="fusekit-jax-cache-")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# a twentieth of the time went into looking through what tests left
gc.set_threshold(100_000, 50, 100)
