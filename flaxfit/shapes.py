"""The shapes that come again and again, as types. They are checked in tests only (jaxtyping's pytest plugin)."""

from __future__ import annotations

import numpy as np
from jax import Array
from jaxtyping import Float, Int, Num, PRNGKeyArray, Shaped, UInt

Outputs = Num[Array | np.ndarray, "rows *outputs"]
"""What a model gives for each row."""

Targets = Shaped[Array | np.ndarray, "rows *targets"]
"""What it should have given: numbers, class numbers or booleans."""

Rows = Float[Array | np.ndarray, "rows"]
"""One number a row."""

Weights = Float[Array | np.ndarray, "rows *positions"]
"""A number for each row, or for each of its positions."""

Scalar = Float[Array, ""]
"""One number."""

Batch = Num[Array | np.ndarray, "rows *axes"]
"""What a network takes."""

Hidden = Float[Array, "*shape"]
"""What a layer takes and gives."""

Logits = Float[Array, "rows outputs"]
"""What a network gives."""

Key = PRNGKeyArray
"""A typed JAX key."""

Step = Int[Array, ""] | int
"""A position in a run."""

RoundKeys = UInt[Array | np.ndarray, "rounds 2"]
"""The key words of an epoch's order."""

Positions = Int[Array | np.ndarray, "*shape"] | UInt[Array | np.ndarray, "*shape"]
"""Places in an epoch, or the rows there."""
