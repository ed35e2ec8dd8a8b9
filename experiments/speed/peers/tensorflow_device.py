"""The device that TensorFlow computes on, for Keras on TensorFlow."""

from __future__ import annotations

import tensorflow as tf  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

GPUS = tf.config.list_physical_devices("GPU")


def device() -> str:
    """Returns the device's name."""
    return tf.config.experimental.get_device_details(GPUS[0])["device_name"] if GPUS else "cpu"


def device_memory() -> float | None:
    """Returns the most memory of an accelerator that was in use, in MB, or None on a CPU."""
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20 if GPUS else None


def products(precision: str) -> None:
    """Allows or forbids TF32 in products of matrices."""
    tf.config.experimental.enable_tensor_float_32_execution(precision != "float32")
