"""The shapes that come again and again, as types. They are checked in tests only (jaxtyping's pytest plugin)."""

from __future__ import annotations

import numpy as np
from jax import Array
from jaxtyping import Float, Int, Num, PRNGKeyArray, Shaped, UInt

Outputs = Num[Array | np.ndarray, "rows *outputs"]  # what a model gives for each row
Targets = Shaped[Array | np.ndarray, "rows *targets"]  # what it should have given: numbers, class numbers or booleans
Rows = Float[Array | np.ndarray, "rows"]  # one number a row
Weights = Float[Array | np.ndarray, "rows *positions"]  # a number for each row, or for each of its positions
Scalar = Float[Array, ""]  # one number
Batch = Num[Array | np.ndarray, "rows *axes"]  # what a network takes
Hidden = Float[Array, "*shape"]  # what a layer takes and gives
Logits = Float[Array, "rows outputs"]  # what a network gives
Key = PRNGKeyArray  # a typed JAX key
Step = Int[Array, ""] | int  # a position in a run
RoundKeys = UInt[Array | np.ndarray, "rounds 2"]  # the key words of an epoch's order
Positions = Int[Array | np.ndarray, "*shape"] | UInt[Array | np.ndarray, "*shape"]  # places in an epoch, or the rows there
