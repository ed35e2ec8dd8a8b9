"""How many billions of operations a second this machine computes in products of matrices: the limit for dense networks.

The best of JAX and NumPy, and of several sizes, on square matrices of 32-bit numbers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_device import device, device_memory
from serve import Round, Run

PACKAGES = ("jax", "jaxlib", "numpy")
__all__ = ["PACKAGES", "build", "device", "device_memory"]


def build(work: Any, arrays: Mapping[str, np.ndarray]) -> Run:
    """Returns a function that measures once. The seconds of its rounds are those of 10^9 operations."""
    cpu = jax.default_backend() == "cpu"
    sizes, programs = ((512, 1024, 2048) if cpu else (2048, 4096, 8192)), [jax.jit(jnp.dot), *([np.dot] if cpu else [])]
    dtype = jnp.bfloat16 if work.precision == "bf16" else jnp.float32

    def run(seed: int, epochs: int) -> Round:
        best = np.inf
        for size in sizes:
            host = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
            for program in programs:
                matrix = host if program is np.dot else jnp.asarray(host, dtype)
                for _ in range(4):
                    start = time.perf_counter()
                    jax.block_until_ready(program(matrix, matrix))
                    best = min(best, (time.perf_counter() - start) / (2 * size**3 / 1e9))
        return Round(best, 0.0, 0.0)

    return run
