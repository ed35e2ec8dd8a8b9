"""Studies of simulated data, each of which tells whether a public comparison finds a difference between two settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

import flaxfit as ff
from flaxfit.report.statistics import Comparison, compare, delong, family, mcnemar

FEATURES = 3  # of each of the two settings
NOISE = 2.0  # standard deviation of the target around the sum of the features
HELD_OUT = 0.3
A, B = {"features": "first"}, {"features": "second"}

Draw = Callable[[np.random.Generator, float], bool]
"""(generator, true difference) -> whether a study of new data finds one."""


def decided(found: Comparison) -> bool:
    """Whether a comparison says that one is better."""
    return found.verdict in ("better", "worse")


def folded(learner: str, rows: int, folds: int = 0, hold_outs: int = 0, seeds: int = 1) -> Draw:
    """Both settings in cross-validation, by `CrossValidation.compare`."""
    import optax

    from flaxfit.train.job import Split

    count = folds or hold_outs
    held_out = rows // folds if folds else int(rows * HELD_OUT)
    split = Split(rows - held_out, held_out, True)
    task = ff.Task(ff.nn.MLP((), 1), ff.losses.mse, optax.sgd(0.1))
    members: Any = [
        ff.Member(setting, seed, task, fold, programs=None, split=split)  # pyright: ignore[reportArgumentType]
        for setting in (A, B)
        for fold in range(count)
        for seed in range(seeds)
    ]
    results: Any = [SimpleNamespace(history=ff.History({"loss": [0.0], "mse": [0.0]}))] * len(members)
    runs = ff.CrossValidation(ff.Study(members, results, "mse", 0.0), {}, [], "last", ff.Dataset([[0.0]], [0.0]), [])

    def draw(rng: np.random.Generator, effect: float) -> bool:
        tests = np.zeros((count, rows), bool)
        if folds:
            tests[rng.permutation(np.arange(rows) % folds), np.arange(rows)] = True
        else:
            tests[np.arange(count)[:, None], np.argsort(rng.random((count, rows)), 1)[:, :held_out]] = True
        return decided(replace(runs, scores={"mse": errors(learner, rng, tests, seeds, effect).ravel()}).compare(A, B))

    return draw


def one_split(learner: str, rows: int, seeds: int) -> Draw:
    """Seeds alone: without an effect both settings have the same features, so that they are equal on these very rows."""

    def draw(rng: np.random.Generator, effect: float) -> bool:
        test = np.arange(rows)[None] < rows * HELD_OUT
        scores = errors(learner, rng, test, 2 * seeds, effect)[:, 0]
        pair = (scores[0, :seeds], scores[1, :seeds]) if effect else (scores[0, :seeds], scores[0, seeds:])
        return decided(compare(*pair))

    return draw


def errors(learner: str, rng: np.random.Generator, tests: np.ndarray, seeds: int, effect: float) -> np.ndarray:
    """Mean squared errors on the rows of each test set, shape (settings, splits, seeds). A seed is the 90% of the training rows it sees."""
    rows = tests.shape[1]
    x = rng.normal(size=(rows, 2 * FEATURES))
    y = x @ np.repeat([1 - effect, 1.0], FEATURES) + NOISE * rng.normal(size=rows)
    chance = rng.random((len(tests), seeds, rows)) + 2 * tests[:, None]
    seen = np.argsort(np.argsort(chance, -1), -1) < ((0.9 if seeds > 1 else 1.0) * (~tests).sum(1)).astype(int)[:, None, None]
    found = []
    for part in (x[:, :FEATURES], x[:, FEATURES:]):
        if learner == "least squares":
            design = np.concatenate([np.ones((rows, 1)), part], 1)
            square = np.einsum("ri,ksr,rj->ksij", design, seen, design)
            weights = np.linalg.solve(square, np.einsum("ri,ksr,r->ksi", design, seen, y)[..., None])[..., 0]
            predicted = weights @ design.T
        else:
            distance = ((part[:, None] - part) ** 2).sum(-1)
            predicted = y[np.where(seen[:, :, None], distance, np.inf).argmin(-1)]
        found.append(np.average((predicted - y) ** 2, axis=-1, weights=np.broadcast_to(tests[:, None], predicted.shape)))
    return np.array(found)


def accuracies(seeds: int) -> Draw:
    """Runs of equal accuracy 0.9 on 100 rows: so coarse that all differences may be equal."""

    def draw(rng: np.random.Generator, effect: float) -> bool:
        return decided(compare(rng.binomial(100, 0.9, seeds) / 100, rng.binomial(100, 0.9 - effect, seeds) / 100))

    return draw


def unshared(seeds: int) -> Draw:
    """Unequal spreads, no common seeds."""

    def draw(rng: np.random.Generator, effect: float) -> bool:
        return decided(compare(rng.normal(0, 1, seeds), rng.normal(effect, 2, seeds), method="unpaired"))

    return draw


def crossed(seeds: int, rows: int, shared: bool = True) -> Draw:
    """Luck of the seed, luck of the row, and their interaction, in about equal parts of the mean's variance."""

    def draw(rng: np.random.Generator, effect: float) -> bool:
        row = rng.standard_t(5, (1, rows))
        a, b = (
            rng.normal(0, (seeds / rows) ** 0.5, (seeds, 1)) + rng.normal(0, 1, (seeds, rows)) + sign * row + shift
            for sign, shift in ((-0.5, 0.0), (0.5, effect))
        )
        return decided(compare(a, b, method="paired" if shared else "unpaired"))

    return draw


def single_models(rows: int) -> Draw:
    """Two models that are right on 80% of the rows, half of the time on the same."""

    def draw(rng: np.random.Generator, effect: float) -> bool:
        same, right = rng.random(rows) < 0.5, rng.random(rows) < 0.8
        a, b = (np.where(same, right, rng.random(rows) < share) for share in (0.8, 0.8 - 2 * effect))
        return decided(mcnemar(a, b))

    return draw


def single_areas(rows: int) -> Draw:
    """Two models whose logits of the two classes are 1.5 standard deviations apart."""

    def draw(rng: np.random.Generator, effect: float) -> bool:
        y, common = np.arange(rows) % 2, rng.normal(size=rows)
        a, b = (apart * y + common + rng.normal(size=rows) for apart in (1.5, 1.5 - effect))
        return decided(delong(y, a, b))

    return draw


def several(settings: int, seeds: int) -> Draw:
    """A family: any verdict is an error."""

    def draw(rng: np.random.Generator, effect: float) -> bool:
        baseline, *others = rng.normal(0, 1, (settings + 1, seeds))
        others[0] += effect
        return any(map(decided, family([compare(baseline, other) for other in others])))

    return draw


def equivalent(seeds: int) -> Draw:
    """A true difference of exactly the margin, which is not equivalence."""

    def draw(rng: np.random.Generator, _: float) -> bool:
        return compare(rng.normal(0, 0.5, seeds), rng.normal(1, 0.5, seeds), margin=1.0).p_equivalent < 0.05

    return draw
