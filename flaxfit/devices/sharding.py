"""The placement of the arrays of a run: on one device, or over a mesh of devices of one or several processes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flaxfit.devices.distributed import ALONE, Team
from flaxfit.state import by_path

Shard = Mapping[str, PartitionSpec] | Callable[[tuple[int, ...], Mesh], PartitionSpec]
"""A mapping from regular expressions on the path of a parameter to `PartitionSpec`s; or a function (shape, mesh) -> `PartitionSpec`."""


@functools.cache
def fsdp(min_size: int = 2**14) -> Callable[[tuple[int, ...], Mesh], PartitionSpec]:
    """Returns a rule for `fit(shard=...)` that spreads large parameters over the devices ("fully sharded data parallel").

    Each large parameter is split along its longest axis that can be divided evenly over the first axis of the mesh.

    Args:
      min_size: parameters with fewer entries than this are kept whole on each device.

    Returns:
      A function from (shape, mesh) to a `jax.sharding.PartitionSpec`.

    Example:
      >>> mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
      >>> fsdp(100)((8, 32), mesh), fsdp(1000)((8, 32), mesh)
      (P(None, 'data'), P())
    """

    def rule(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        ways = mesh.devices.shape[0]
        axes = [axis for axis in range(len(shape)) if shape[axis] % ways == 0]
        if not axes or np.prod(shape) < min_size:
            return PartitionSpec()
        longest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * longest, mesh.axis_names[0])

    return rule


@dataclass(frozen=True)
class Placement:
    """The placement of a run on its devices."""

    mesh: Mesh | None = None  # the examples of each step are spread along its first axis; None means one device
    # How parameters and the optimizer's state of each are spread over the mesh. None means whole on each device.
    shard: tuple[tuple[str, PartitionSpec], ...] | Callable[[tuple[int, ...], Mesh], PartitionSpec] | None = None

    @classmethod
    def over(cls, mesh: Any, shard: Any) -> Placement:
        """Checks the arguments of `fit(mesh=..., shard=...)` and returns their placement.

        Raises:
          TypeError, ValueError: they cannot work.
        """
        if mesh is None:
            if shard is not None:
                raise ValueError("fit(shard=...) spreads parameters over a mesh: pass mesh=jax.sharding.Mesh(jax.devices(), ('data',)).")
            return cls()
        if not isinstance(mesh, Mesh):
            raise TypeError(f"fit(mesh=...) must be a jax.sharding.Mesh, such as Mesh(jax.devices(), ('data',)), got {mesh!r}.")
        owners = [device.process_index for device in mesh.devices.flat]
        processes = sorted(set(owners))
        if processes != [jax.process_index()]:
            local = len(owners) // jax.process_count()
            if owners != [process for process in range(jax.process_count()) for _ in range(local)]:
                raise ValueError(
                    f"the mesh must have the devices of this process, or equally many of each of the {jax.process_count()} processes "
                    f"in their order, as in Mesh(jax.devices(), ('data',)). Its devices belong to the processes {owners}."
                )
        if isinstance(shard, Mapping):
            if not all(isinstance(spec, PartitionSpec) for spec in shard.values()):
                raise TypeError(f"fit(shard=...) must map regular expressions to jax.sharding.PartitionSpec, got {dict(shard)!r}.")
            shard = tuple(shard.items())
        elif shard is not None and not callable(shard):
            raise TypeError(
                f"fit(shard=...) must be flaxfit.sharding.fsdp(), or map regular expressions to jax.sharding.PartitionSpec, got {shard!r}."
            )
        rule: Any = shard
        return cls(Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names)), rule)

    @property
    def platform(self) -> str:
        """The platform of the devices, such as "cpu"."""
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    @property
    def team(self) -> Team:
        """The processes that the devices belong to."""
        return Team(1 if self.mesh is None else len({device.process_index for device in self.mesh.devices.flat}))

    def everywhere(self, tree: Any) -> Any:
        """Places `tree` whole on each device. All processes pass the same tree."""
        if self.mesh is None:
            return jax.device_put(tree)
        whole = self._named()
        if self.team.size == 1:
            return jax.device_put(tree, whole)
        return jax.tree.map(lambda leaf: place(host(leaf), jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)), tree)

    def rows(self, tree: Any) -> Any:
        """Joins the rows of all processes to one array. The devices of a process hold all rows of that process."""
        if self.mesh is None or self.team.size == 1:
            return self.everywhere(tree)
        mesh = Mesh(self.mesh.devices.reshape(self.team.size, -1), ("processes", "devices"))
        split = NamedSharding(mesh, PartitionSpec("processes"))
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(split, np.asarray(leaf)), tree)

    def batch(self, tree: Any) -> Any:
        """Spreads the rows of a step over the devices, inside a program. Rows that cannot be divided evenly are whole on each device."""
        if self.mesh is None:
            return tree
        first, ways = self.mesh.axis_names[0], self.mesh.devices.shape[0]
        split, whole = self._named(first), self._named()
        return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, whole if leaf.shape[0] % ways else split), tree)

    def shardings(self, tree: Any, params: Any) -> Any:
        """Returns the sharding of each leaf of a state. A leaf with the name and shape of a parameter is sharded like that parameter."""
        if self.mesh is None:
            return None
        specs = self._specs(params)
        shardings = []
        for path, leaf in by_path(tree).items():
            parts = path.split("/")
            names = ("/".join(parts[first:]) for first in range(len(parts)))
            shape, spec = next((specs[name] for name in names if name in specs), (None, None))
            shardings.append(self._named(*spec) if spec is not None and shape == leaf.shape else self._named())
        return jax.tree.unflatten(jax.tree.structure(tree), shardings)

    def kept(self, tree: Any, params: Any) -> Any:
        """Constrains a state to its `shardings`, inside a program."""
        return tree if self.mesh is None else lax.with_sharding_constraint(tree, self.shardings(tree, params))

    def out(self, state: Any, *others: Any) -> Any:
        """Returns the shardings of the results of a program, for `jax.jit`: the state of a run, and others whole on each device."""
        if self.mesh is None:
            return None
        state = self.shardings(state, state.train.params)
        return (state, *jax.tree.map(lambda _: self._named(), others)) if others else state

    def like(self, state: Any) -> Any:
        """Returns the state of a run as shapes with their shardings."""
        if self.mesh is None:
            return state
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, self.out(state))

    def writers(self, like: Any) -> Team:
        """Returns the processes that save a state of this structure: all if it is spread over them, or else the first one alone."""
        spread = self.team.size > 1 and not all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(like))
        return self.team if spread else ALONE

    def on_host(self, tree: Any, keep: bool = True) -> Any:
        """Gathers everything in the memory of each process, if there are several. All of them call it.

        Args:
          tree: arrays on the devices.
          keep: whether this process keeps them. If not, what it returns is of no use.
        """
        return tree if self.team.size == 1 else gather(jax.tree.map(_local, tree), keep)

    def parts_on_host(self, tree: Any) -> Any:
        """Moves what each process has whole to its memory, if there are several. Arrays that are spread over them stay where they are."""
        return tree if self.team.size == 1 else jax.tree.map(_local, tree)

    def _named(self, *spec: Any) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def _specs(self, params: Any) -> dict[str, tuple[tuple[int, ...], PartitionSpec]]:
        """Returns path of a parameter -> its shape and its partition."""
        shapes = {path: leaf.shape for path, leaf in by_path(params).items()}
        assert self.mesh is not None
        if self.shard is None:
            return {}
        if callable(self.shard):
            return {path: (shape, self.shard(shape, self.mesh)) for path, shape in shapes.items()}
        specs = {}
        for pattern, spec in reversed(self.shard):  # so that the first pattern that matches decides
            found = [path for path in shapes if re.search(pattern, path)]
            if not found:
                raise ValueError(f"fit(shard=...): {pattern!r} matches no parameter. The parameters are: {', '.join(shapes)}")
            specs |= {path: (shapes[path], spec) for path in found}
        for path, (shape, spec) in specs.items():
            try:
                if len(spec) > len(shape):
                    raise ValueError("the parameter has fewer axes")
                self._named(*spec).shard_shape(shape)
            except ValueError as error:
                what = f"{path} of shape {shape} cannot be spread as {spec} over the mesh {dict(self.mesh.shape)}"
                raise ValueError(f"fit(shard=...): {what}: {error}") from error
        return specs


ONE_DEVICE = Placement()


def is_key(leaf: Any) -> bool:
    """Whether the entries of an array are JAX keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def raw(leaf: Any) -> Any:
    """Returns the words of keys, and other arrays as they are."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def host(leaf: Any) -> np.ndarray:
    """Returns the numbers of an array, or the words of keys, in the memory of the host."""
    return np.asarray(raw(leaf))


def arrays_of(tree: Any) -> dict[str, np.ndarray]:
    """Copies the numbers of a tree to the memory of the host, by path."""
    return {jax.tree_util.keystr(path): np.array(host(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def place(array: np.ndarray, like: Any) -> Any:
    """Places `array`, as `host` returned it, with the type and the sharding of `like`."""
    if isinstance(like.sharding, NamedSharding):
        data = jax.make_array_from_callback(array.shape, like.sharding, lambda index: np.array(array[index]))
    else:
        data = jax.device_put(array, None if is_key(like) else like.sharding)
    if not is_key(like):
        return data
    with jax.transfer_guard("allow"):  # of an empty key, which alone tells what kind it is
        kind = jax.random.key_impl(jnp.empty((), like.dtype))
    return jax.random.wrap_key_data(data, impl=kind)


def gather(tree: Any, keep: bool = True) -> Any:
    """Gathers arrays that are spread over several processes in the memory of each one. All processes must call it.

    `flaxfit.evaluate` and `flaxfit.predict` do this by themselves.

    Args:
      tree: a state, such as `result.best`.
      keep: whether this process keeps the arrays. If not, it needs memory for one at a time, and the result has None in their places.

    Returns:
      The tree with NumPy arrays in the places of those. Others remain as they are.

    Example:
      >>> gather({"bias": np.zeros(2)})
      {'bias': array([0., 0.])}
    """

    def gathered(leaf: Any) -> Any:
        if not _is_spread(leaf):
            return leaf
        from jax.experimental import multihost_utils

        array = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(array) if keep else None

    return jax.tree.map(gathered, tree)


def _is_spread(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _local(leaf: Any) -> Any:
    if _is_spread(leaf):
        return leaf
    array = host(leaf)
    return place(array, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)) if is_key(leaf) else array
