"""The record of a run, and the check that a run in a directory is the same as the present one."""

from __future__ import annotations

import functools
import hashlib
import re
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxfit.data.dataset import Dataset
from flaxfit.devices.distributed import ALONE, Team
from flaxfit.programs.compiled import Programs
from flaxfit.rng import key_shape
from flaxfit.storage.directory import differences
from flaxfit.task import optimizers
from flaxfit.task.task import Task
from flaxfit.train.config import TrainConfig

Resume = Literal["auto", "never", "must", "force"]
_PACKAGES = ("flaxfit", "jax", "flax", "optax")


def described(task: Task, config: TrainConfig, seed: int, data: Mapping[str, Any], initial: Any = None) -> dict[str, Any]:
    """Returns the description of a run as plain values: arguments, task, and data as in `Job.recorded`."""
    about = {
        "model": plain(repr(task.network)),
        "loss": task.loss_name,
        "metrics": list(task.metrics),
        "penalty": task.penalty is not None,
    }
    if task.set_metrics:
        about["set_metrics"] = list(task.set_metrics)
    if task.ignore_label is not None:
        about["ignore_label"] = task.ignore_label
    arguments = {**config.record(), "seed": seed}
    if initial is not None:
        arguments["initial"] = _sum(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(initial))
    return {"arguments": arguments, "task": about, "data": dict(data)}


def program_record(programs: Programs, numbers: Mapping[str, Any], state: Any, row: Dataset, batch_size: int, whole: str) -> dict[str, str]:
    """A hash of what each part of a task computes, and of the whole compiled program.

    A learning rate or a penalty's strength that a closure hides is a constant in one of them.

    Args:
      programs: of the task.
      numbers: its traced hyperparameters.
      state: the shapes of a `TrainState`.
      row: a training row.
      batch_size: how many rows to trace, where the task does not take a single one.
      whole: the program's text.
    """

    def traced(rows: int) -> dict[str, str]:
        x, y = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), (row.x, row.y))
        key = key_shape()
        return programs.found("parts", functools.partial(_parts, programs.task), numbers, key, state, x, y)

    try:
        parts = traced(1)
    except Exception:  # batches are split into groups, say
        parts = traced(batch_size)
    return {**parts, "whole": _sum([whole.encode()])}


def check_same_run(old: Mapping[str, Any], new: Mapping[str, Any], where: Any, resume: Resume, what: str = "run") -> None:
    """Checks that a recorded run is the present one. Parts of the program that only one of the two records has are not compared.

    Args:
      old, new: as `described`, with "program" and "environment" where they are known.
      where: the place of the old one, for the message.
      resume: "force" accepts any difference.
      what: what to call it.

    Raises:
      ValueError: they differ. The message lists the differences in words.

    Warns:
      UserWarning: only the program differs, and so do the versions that made it.
    """
    ignored = ["arguments.epochs", "constant", "environment", "program", "run"]
    if "validation_batch_size" not in old["arguments"]:  # an older record, whose program tells
        ignored.append("arguments.validation_batch_size")
    old, rows = _completed(old), [about["data"]["train"].get("rows") for about in (old, new)]
    if None in rows:  # of several processes, which have some each: the checksum tells
        ignored.append("data.train.rows")
    if "arrays" not in old["data"]["train"] or "arrays" not in new["data"]["train"]:
        ignored += ["data.train.arrays", "data.validation.arrays"]
    changed = differences(old, new, ignored)
    was, now = (record.get("program") for record in (old, new))
    versions = [_versions(record) for record in (old, new)]
    parts: list[str] = []
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        parts = [name for name in now if was.get(name) != now[name]]
        named = [name for name in parts if name != "whole"]
        texts = [f"program: the {name} computes something else, such as with another constant" for name in named]
        parts = texts or ["program: the compiled program is another, in none of the task's parts"] * bool(parts)
    if resume == "force" or not (changed or parts):
        return
    if not changed and None not in versions and versions[0] != versions[1]:
        made = ", ".join(f"{name} {version}" for name, version in (versions[0] or {}).items())
        warnings.warn(f"the {what} in {where} was made by {made}: with other versions its bits may differ.", UserWarning, stacklevel=4)
        return
    if changed and all("environment" in record for record in (old, new)):  # why, perhaps
        newly = tuple(f"environment.{name}" for name in ("commit", "command", "directory", "started"))
        changed += differences(old, new, ("arguments", "task", "data", "constant", "program", *newly))
    lines = "".join(f"\n  {line}" for line in [*changed, *parts])
    cure = 'undo these changes, name another directory, or accept them with resume="force"'
    raise ValueError(f"the {what} in {where} was another: {cure}.{lines}")


def checksum(rows: Any, team: Team = ALONE) -> dict[str, Any]:
    """Of all arrays together, those of all processes one after the other, and of each; a stream's are not read for it."""
    if not isinstance(rows, Dataset):
        return {}
    crc, each = 0, {}
    for path, leaf in rows.leaves():
        array = np.ascontiguousarray(leaf)
        shape = (team.size * array.shape[0], *array.shape[1:])
        crc = zlib.crc32(f"{path} {array.dtype} {shape}".encode(), crc)
        each[path] = zlib.crc32(array.reshape(-1).view(np.uint8).data)
        for process in range(team.size):
            crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc) if process == team.index else 0
            crc = int(team.gather(crc)[process])
    return {"crc32": crc} | ({"arrays": each} if team.size == 1 else {})


def _parts(task: Callable[[Any], Task], numbers: Any, key: Any, state: Any, x: Any, y: Any) -> dict[str, str]:
    kept = {}

    def logits(n: Any, key: Any, state: Any, x: Any) -> Any:
        return task(n).apply(state.params, state.collections, task(n).prepared(x), {name: key for name in task(n).rngs})[0]  # noqa: C420  (typed)

    def update(n: Any, gradients: Any, opt_state: Any) -> Any:
        return optimizers.update(task(n).optimizer, gradients, opt_state, gradients, jnp.zeros(()), optax.tree.norm)

    outputs = jax.eval_shape(logits, numbers, key, state, x)
    parts: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "model": (logits, (key, state, x)),
        "loss": (lambda n, *a: task(n).row_loss(*a), (outputs, y)),
        "metrics": (lambda n, *a: {name: metric(*a) for name, metric in task(n).row_metrics.items()}, (outputs, y)),
        "penalty": (lambda n, p: task(n).penalized(p), (state.params,)),
        "optimizer": (update, (jax.eval_shape(task(numbers).trained, state.params), state.opt_state)),
        "constraint": (lambda n, p: (task(n).constraint or (lambda p: p))(p), (state.params,)),
        "augmentation": (lambda n, k, x, y: (task(n).augment or (lambda _, *a: a))(k, task(n).prepared(x), y), (key, x, y)),
    }
    for name, (function, args) in parts.items():
        traced = jax.make_jaxpr(function)(numbers, *args)
        constants = [np.asarray(jax.random.key_data(c) if _is_key(c) else c) for c in traced.consts]
        kept[name] = _sum([plain(str(traced.jaxpr)).encode(), *(constant.tobytes() for constant in constants)])
    return kept


def _completed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an older record with the defaults of arguments that did not exist then, and with its model in today's words."""
    defaults = {**TrainConfig().record(), "seed": 0}
    task = {**record["task"], "model": plain(record["task"]["model"])}
    return {**record, "arguments": {**defaults, **record["arguments"]}, "task": task}


def _versions(record: Mapping[str, Any]) -> dict[str, Any] | None:
    versions = record.get("environment", {}).get("versions")
    return versions and {name: versions.get(name) for name in _PACKAGES}


def plain(text: str) -> str:
    """Returns a repr without what differs from process to process: addresses of objects, and the order of sets.

    Example:
      >>> plain("Net(kinds=frozenset({'b', 'a'}), pool=<function pool at 0x7f0463eaaed0>)")
      "Net(kinds=frozenset({'a', 'b'}), pool=<function pool>)"
    """
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return re.sub(r"(?<=\{)[^{}:]+(?=\})", lambda items: ", ".join(sorted(items[0].split(", "))), text)


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _sum(contents: Any) -> str:
    digest = functools.reduce(lambda digest, content: digest.update(content) or digest, contents, hashlib.sha256())
    return digest.hexdigest()[:16]
