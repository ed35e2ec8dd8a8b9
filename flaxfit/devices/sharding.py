"""Where a run's arrays lie: on one device, or over a mesh of them, of one process or several."""

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

from flaxfit.devices.distributed import Team
from flaxfit.state import paths

Shard = Mapping[str, PartitionSpec] | Callable[[tuple[int, ...], Mesh], PartitionSpec]
"""Regular expression on a parameter's path -> how it is spread over the mesh; or (shape, mesh) -> the same, such as `fsdp`."""


@functools.cache
def fsdp(min_size: int = 2**14) -> Callable[[tuple[int, ...], Mesh], PartitionSpec]:
    """A rule for `fit(shard=...)`: large parameters are spread over the mesh's first axis, along their longest axis that divides by it.

    Args:
      min_size: smaller ones, by number of entries, lie whole on each device.

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
    """How a run lies on its devices.

    Attributes:
      mesh: over which each step's rows are spread, along its first axis; None: one device.
      shard: how parameters are, and with them what the optimizer keeps of each; None: whole on each device.
    """

    mesh: Mesh | None = None
    shard: tuple[tuple[str, PartitionSpec], ...] | Callable[[tuple[int, ...], Mesh], PartitionSpec] | None = None

    @classmethod
    def over(cls, mesh: Any, shard: Any) -> Placement:
        """The placement of `fit(mesh=, shard=)`, checked.

        Raises:
          TypeError, ValueError: what cannot work.
        """
        if mesh is None:
            if shard is not None:
                raise ValueError("fit(shard=...) spreads parameters over a mesh: give mesh=jax.sharding.Mesh(jax.devices(), ('data',)).")
            return cls()
        if not isinstance(mesh, Mesh):
            raise TypeError(f"fit(mesh=...) must be a jax.sharding.Mesh, such as Mesh(jax.devices(), ('data',)), got {mesh!r}.")
        owners = [device.process_index for device in mesh.devices.flat]
        processes = sorted(set(owners))
        if processes != [jax.process_index()]:
            local = len(owners) // jax.process_count()
            if owners != [process for process in range(jax.process_count()) for _ in range(local)]:
                raise ValueError(
                    f"the mesh's devices must be those of this process, or equally many of each of the {jax.process_count()} processes, in "
                    f"their order, as in Mesh(jax.devices(), ('data',)); they are of the processes {owners}."
                )
        if isinstance(shard, Mapping):
            if not all(isinstance(spec, PartitionSpec) for spec in shard.values()):
                raise TypeError(f"fit(shard=...) maps regular expressions to jax.sharding.PartitionSpec, got {dict(shard)!r}.")
            shard = tuple(shard.items())
        elif shard is not None and not callable(shard):
            raise TypeError(
                f"fit(shard=...) must be flaxfit.devices.sharding.fsdp() or map regular expressions to PartitionSpecs, got {shard!r}."
            )
        rule: Any = shard
        return cls(Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names)), rule)

    @property
    def team(self) -> Team:
        """The processes whose devices these are."""
        return Team(1 if self.mesh is None else len({device.process_index for device in self.mesh.devices.flat}))

    def everywhere(self, tree: Any) -> Any:
        """`tree` whole on each device; all processes have the same."""
        if self.mesh is None:
            return jax.device_put(tree)
        whole = self._named()
        if self.team.size == 1:
            return jax.device_put(tree, whole)
        return jax.tree.map(lambda leaf: place(host(leaf), jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)), tree)

    def rows(self, tree: Any) -> Any:
        """Each process's rows as one array of all, in the order of the processes; on the devices of a process all of its own."""
        if self.mesh is None or self.team.size == 1:
            return self.everywhere(tree)
        mesh = Mesh(self.mesh.devices.reshape(self.team.size, -1), ("processes", "devices"))
        split = NamedSharding(mesh, PartitionSpec("processes"))
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(split, np.asarray(leaf)), tree)

    def batch(self, tree: Any) -> Any:
        """A step's rows, inside of a program, spread over the devices; whole on each where they do not divide."""
        if self.mesh is None:
            return tree
        first, ways = self.mesh.axis_names[0], self.mesh.devices.shape[0]
        split, whole = self._named(first), self._named()
        return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, whole if leaf.shape[0] % ways else split), tree)

    def shardings(self, tree: Any, params: Any) -> Any:
        """The sharding of each leaf of a state: the parameters' for those of their name and shape, else whole on each device."""
        if self.mesh is None:
            return None
        specs = self._specs(params)
        shardings = []
        for path, leaf in zip(paths(tree), jax.tree.leaves(tree), strict=True):
            parts = path.split("/")
            names = ("/".join(parts[first:]) for first in range(len(parts)))
            shape, spec = next((specs[name] for name in names if name in specs), (None, None))
            shardings.append(self._named(*spec) if spec is not None and shape == leaf.shape else self._named())
        return jax.tree.unflatten(jax.tree.structure(tree), shardings)

    def kept(self, tree: Any, params: Any) -> Any:
        """A state, inside of a program, as `shardings` says."""
        return tree if self.mesh is None else lax.with_sharding_constraint(tree, self.shardings(tree, params))

    def out(self, state: Any, *others: Any) -> Any:
        """What a program's results shall be, for `jax.jit`: a run's state, and other things whole on each device."""
        if self.mesh is None:
            return None
        state = self.shardings(state, state.train.params)
        return (state, *jax.tree.map(lambda _: self._named(), others)) if others else state

    def like(self, state: Any) -> Any:
        """A run's state as shapes, with their shardings."""
        if self.mesh is None:
            return state
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, self.out(state))

    def on_host(self, tree: Any) -> Any:
        """Of several processes: everything in each one's memory. Of one: as it is. All call it."""
        return tree if self.team.size == 1 else jax.tree.map(_gathered, tree)

    def _named(self, *spec: Any) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def _specs(self, params: Any) -> dict[str, tuple[tuple[int, ...], PartitionSpec]]:
        """Path of a parameter -> its shape and how it is spread."""
        shapes = {path: leaf.shape for path, leaf in zip(paths(params), jax.tree.leaves(params), strict=True)}
        assert self.mesh is not None
        if self.shard is None:
            return {}
        if callable(self.shard):
            return {path: (shape, self.shard(shape, self.mesh)) for path, shape in shapes.items()}
        specs = {}
        for pattern, spec in reversed(self.shard):  # the first that matches
            found = [path for path in shapes if re.search(pattern, path)]
            if not found:
                raise ValueError(f"fit(shard=...): {pattern!r} matches no parameter. There are: {', '.join(shapes)}")
            specs |= {path: (shapes[path], spec) for path in found}
        for path, (shape, spec) in specs.items():
            try:
                if len(spec) > len(shape):
                    raise ValueError("it has fewer axes")
                self._named(*spec).shard_shape(shape)
            except ValueError as error:
                what = f"{path} of shape {shape} cannot be spread as {spec} over the mesh {dict(self.mesh.shape)}"
                raise ValueError(f"fit(shard=...): {what}: {error}") from error
        return specs


ONE_DEVICE = Placement()


def is_key(leaf: Any) -> bool:
    """Whether an array's entries are JAX keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def raw(leaf: Any) -> Any:
    """The words of keys; other arrays as they are."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def host(leaf: Any) -> np.ndarray:
    """An array's numbers, or keys' words, in memory."""
    return np.asarray(raw(leaf))


def arrays_of(tree: Any) -> dict[str, np.ndarray]:
    """The numbers of a tree by path, copied to memory."""
    return {jax.tree_util.keystr(path): np.array(host(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def place(array: np.ndarray, like: Any) -> Any:
    """`array`, as `host` gave it, of the kind that `like` is and where it is."""
    if isinstance(like.sharding, NamedSharding):
        data = jax.make_array_from_callback(array.shape, like.sharding, lambda index: np.array(array[index]))
    else:
        data = jax.device_put(array, None if is_key(like) else like.sharding)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(jnp.empty((), like.dtype))) if is_key(like) else data


def _gathered(leaf: Any) -> Any:
    from jax.experimental import multihost_utils

    words = raw(leaf)
    array = np.asarray(words if words.is_fully_replicated else multihost_utils.process_allgather(words, tiled=True))
    return place(array, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)) if is_key(leaf) else array
