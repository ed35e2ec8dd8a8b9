"""The device that JAX computes on, for the peers that use JAX."""

from __future__ import annotations

import jax


def device() -> str:
    """Returns the device's name."""
    return jax.devices()[0].device_kind


def device_memory() -> float | None:
    """Returns the most memory of an accelerator that was in use, in MB, or None on a CPU."""
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in statistics else None
