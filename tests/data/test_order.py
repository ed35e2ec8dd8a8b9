from __future__ import annotations

import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flaxfit.data.order import drawn, round_keys, shuffled
from flaxfit.rng import bits, fold_in


def orders(rows, epochs, seed=0):
    """Many epochs' orders, shape (epochs, rows), from the device, where they are computed at once."""

    @jax.jit
    def both(epoch):
        keys = round_keys(jax.random.key(seed), epoch, rows)
        return keys, shuffled(jnp.arange(rows), keys, rows)

    keys, found = map(np.asarray, jax.vmap(both)(jnp.arange(epochs)))
    for epoch in range(0, epochs, -(-epochs // 20)):
        assert np.array_equal(found[epoch], shuffled(np.arange(rows), keys[epoch], rows))
    return found


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 10_000))
def test_every_row_comes_once_the_same_on_device_and_host(rows, seed, epoch):
    keys = round_keys(jax.random.key(seed), epoch, rows)
    host = shuffled(np.arange(rows), np.asarray(keys), rows)
    assert np.array_equal(np.sort(host), np.arange(rows))
    part = np.arange(rows)[rows // 3 :: 2]
    assert np.array_equal(jax.jit(shuffled, static_argnums=2)(jnp.asarray(part), keys, rows), host[part])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), number=st.integers(0, 2**32 - 1), shape=st.sampled_from([(), (7,), (8, 2), (24, 2)]))
def test_keys_and_words_are_those_of_jax(seed, number, shape):
    key = jax.random.key(seed)
    assert fold_in(key, number) == jax.random.fold_in(key, number)
    assert jax.jit(fold_in)(key, jnp.uint32(number)) == jax.random.fold_in(key, number)
    assert (bits(key, shape) == jax.random.bits(key, shape, jnp.uint32)).all()


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_other_kinds_of_keys_and_words_are_those_of_jax(kind):
    key = jax.random.key(3, impl=kind)
    assert fold_in(key, 5) == jax.random.fold_in(key, 5)
    assert (bits(key, (4, 2)) == jax.random.bits(key, (4, 2), jnp.uint32)).all()


def test_words_without_partitioning_are_those_of_jax():
    with jax.threefry_partitionable(False):
        assert (bits(jax.random.key(3), (4, 2)) == jax.random.bits(jax.random.key(3), (4, 2), jnp.uint32)).all()


def test_epochs_and_seeds_have_orders_of_their_own():
    assert len({tuple(order) for order in orders(50, 20)} | {tuple(order) for order in orders(50, 20, seed=1)}) == 40


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 6])
def test_all_permutations_of_a_few_rows_are_equally_likely(rows):
    count = 20 * math.factorial(rows)
    seen = Counter(map(tuple, orders(rows, count).tolist()))
    observed = [seen[order] for order in itertools.permutations(range(rows))]
    assert stats.chisquare(observed).pvalue > 1e-4


@pytest.mark.parametrize("rows", [9, 13, 17, 40, 100, 208])
def test_rows_and_neighbors_are_uniform_over_positions(rows):
    count = 4000
    seen = orders(rows, count)
    at, after = np.zeros((rows, rows)), np.zeros((rows, rows))
    np.add.at(at, (np.broadcast_to(np.arange(rows), seen.shape), seen), 1)
    np.add.at(after, (seen[:, :-1], seen[:, 1:]), 1)
    pairs = after[~np.eye(rows, dtype=bool)]
    for counts, free in ((at.ravel(), (rows - 1) ** 2), (pairs, rows * (rows - 1) - 1)):
        expected = counts.sum() / counts.size
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert stats.chi2.sf(statistic, free) > 1e-4


def test_the_first_batch_of_a_large_set_is_a_fair_sample():
    seen = np.stack([shuffled(np.arange(500), np.asarray(round_keys(jax.random.key(1), e, 10_000)), 10_000) for e in range(200)])
    assert stats.kstest(seen.ravel() / 10_000, "uniform").pvalue > 1e-4
    assert stats.chisquare(np.bincount(seen.ravel() % 20, minlength=20)).pvalue > 1e-4
    overlap = [len(np.intersect1d(a, b)) for a, b in itertools.pairwise(seen)]
    assert np.mean(overlap) == pytest.approx(25, abs=4 * 4.9 / np.sqrt(len(overlap)))  # hypergeometric


def test_no_sort_on_the_device():
    text = jax.jit(lambda keys: shuffled(jnp.arange(97), keys, 997)).lower(round_keys(jax.random.key(0), 0, 997)).as_text()
    assert "sort" not in text


def test_draws_with_replacement_are_uniform_and_keyed_by_step():
    rows = np.concatenate([drawn(jax.random.key(0), step, 100, 20) for step in range(100)])
    assert stats.chisquare(np.bincount(rows, minlength=20)).pvalue > 1e-4
    assert np.array_equal(rows[:100], drawn(jax.random.key(0), 0, 100, 20))
    assert not np.array_equal(rows[:100], rows[100:200])
