"""Milliseconds of a layer's value and gradients inside a compiled loop: as JAX writes it, and in the form that flaxfit gives it.

"outside" is JAX's form in a program without a loop, where XLA lays convolutions out for its fast routines. The forms take turns.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

from flaxfit.cli import script

STEPS = 4


@dataclass(frozen=True)
class Config:
    """Options."""

    repeats: int = 7
    """How often each form is timed, taking turns."""
    layers: tuple[str, ...] = ()
    """Only layers whose name contains one of these words."""


def main(config: Config) -> None:
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import lax
    from rich.console import Console
    from rich.table import Table

    from flaxfit.task.convolutions import rewritten

    class Pool(nn.Module):
        window: int
        stride: int
        mean: bool = False

        @nn.compact
        def __call__(self, x):
            pool = nn.avg_pool if self.mean else nn.max_pool
            return pool(x * self.param("scale", nn.initializers.ones, ()), (self.window,) * 2, (self.stride,) * 2, "SAME")

    def forms(apply):
        def step(carry, _=None):
            gradients = jax.grad(lambda *args: jnp.square(apply(*args)).mean(), (0, 1))(*carry)
            return jax.tree.map(lambda a, g: a - 0.1 * g, carry, gradients), None

        return jax.jit(lambda carry: lax.scan(step, carry, None, length=STEPS)[0]), jax.jit(lambda carry: step(carry)[0])

    layers = {
        "3x3, 1 to 16 channels": (nn.Conv(16, (3, 3)), (64, 28, 28, 1)),
        "3x3, 16 to 32": (nn.Conv(32, (3, 3)), (64, 14, 14, 16)),
        "3x3, 32 to 64": (nn.Conv(64, (3, 3)), (64, 14, 14, 32)),
        "3x3 with stride 2, 16 to 32": (nn.Conv(32, (3, 3), strides=2), (64, 28, 28, 16)),
        "3x3 with dilation 2, 16 to 32": (nn.Conv(32, (3, 3), kernel_dilation=2), (64, 14, 14, 16)),
        "1x1, 64 to 128": (nn.Conv(128, (1, 1)), (64, 14, 14, 64)),
        "3x3 depthwise, 64": (nn.Conv(64, (3, 3), feature_group_count=64), (32, 14, 14, 64)),
        "3x3 in 4 groups, 64 to 64": (nn.Conv(64, (3, 3), feature_group_count=4), (32, 14, 14, 64)),
        "3x3 transposed with stride 2, 32 to 16": (nn.ConvTranspose(16, (3, 3), (2, 2)), (32, 14, 14, 32)),
        "1-D: 5, 32 to 64, length 128": (nn.Conv(64, (5,)), (64, 128, 32)),
        "3-D: 3x3x3, 8 to 16": (nn.Conv(16, (3, 3, 3)), (16, 12, 12, 12, 8)),
        "max pooling 2x2": (Pool(2, 2), (64, 28, 28, 16)),
        "max pooling 3x3 with stride 2": (Pool(3, 2), (64, 28, 28, 16)),
        "average pooling 2x2": (Pool(2, 2, mean=True), (64, 28, 28, 16)),
    }
    where = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}"
    table = Table(title=f"ms a step, medians of {config.repeats}, {where}")
    for column in ("layer", "as JAX writes it", "flaxfit", "outside", "as JAX writes it / flaxfit (median of ratios)"):
        table.add_column(column)
    for name, (module, shape) in layers.items():
        if config.layers and not any(word in name for word in config.layers):
            continue
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        carry = (module.init(jax.random.key(0), x), x)

        inside, outside = forms(module.apply)
        programs = {"jax": inside, "flaxfit": forms(lambda *args, apply=module.apply: rewritten(apply, *args))[0], "outside": outside}
        results = {form: jax.block_until_ready(program(carry)) for form, program in programs.items()}
        for a, b in zip(jax.tree.leaves(results["jax"]), jax.tree.leaves(results["flaxfit"]), strict=True):
            if not np.allclose(a, b, rtol=1e-3, atol=1e-5):
                raise SystemExit(f"refused: the forms of {name} do not compute the same")
        times: dict[str, list[float]] = {form: [] for form in programs}
        for _ in range(config.repeats):
            for form, program in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program(carry))
                times[form].append(1e3 * (time.perf_counter() - start) / (1 if form == "outside" else STEPS))
        ratio = statistics.median(a / b for a, b in zip(times["jax"], times["flaxfit"], strict=True))
        table.add_row(name, *(f"{statistics.median(times[form]):.2f}" for form in programs), f"{ratio:.1f}")
    Console(width=150).print(table)


if __name__ == "__main__":
    script(main, Config, __doc__)
