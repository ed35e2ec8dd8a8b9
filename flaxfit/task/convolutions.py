"""Convolutions and pooling in forms that are fast inside a compiled loop on a CPU.

XLA's CPU backend changes the layout of convolutions to that of its fast routines only in the outermost computation of a program. Inside a
loop, the gradient with respect to a kernel runs as nested scalar loops, and so does the gradient of max pooling
(https://github.com/jax-ml/jax/issues/12868). `rewritten` replaces these operations in the jaxpr of a function, so that it works for the
modules of any library.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import ShapedArray, eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.extend.core import primitives as p

_FEW = 64
"""Up to this size of a window, including channels, a convolution is computed as a matrix product of its windows, which is faster."""
_GROUPS = 32
"""Up to this number, the groups of a convolution are computed one by one."""
_TAPS = 64
"""The longest window of a pooling that is rewritten."""
_NESTED = (p.jit_p, p.scan_p, p.while_p, p.cond_p, p.remat_p)


def rewritten(function: Callable[..., Any], *args: Any) -> Any:
    """Computes `function(*args)` with other forms of its convolutions and its max, min and sum pooling.

    Values and gradients agree up to rounding. A function without such operations is computed exactly as before. Operations inside a
    function with derivatives of its own, such as `jax.custom_vjp`, are not changed.

    Args:
      function: a function of pytrees of arrays.
      args: its arguments, which may be traced.

    Example:
      >>> x, kernel = jnp.ones((1, 2, 5, 5)), jnp.ones((1, 2, 3, 3))
      >>> float(rewritten(lambda x, kernel: lax.conv(x, kernel, (1, 1), "SAME"), x, kernel).max())
      18.0
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), _RULES)
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs)


def _inner(params: dict[str, Any]) -> list[Jaxpr]:
    """Returns the jaxprs among the parameters of an equation."""
    values = [inner for value in params.values() for inner in (value if type(value) is tuple else (value,))]
    return [value.jaxpr if isinstance(value, ClosedJaxpr) else value for value in values if isinstance(value, ClosedJaxpr | Jaxpr)]


def _concerns(jaxpr: Jaxpr, rules: Collection[Any]) -> bool:
    """Whether a jaxpr has an operation that a rule replaces."""
    return any(
        eqn.primitive in rules or (eqn.primitive in _NESTED and any(_concerns(inner, rules) for inner in _inner(eqn.params)))
        for eqn in jaxpr.eqns
    )


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], rules: Mapping[Any, Callable[..., Any]]) -> list[Any]:
    """Evaluates a jaxpr with the rules."""
    if not _concerns(jaxpr, rules):
        return eval_jaxpr(jaxpr, consts, *args)
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def given(atoms: Sequence[Any]) -> list[Any]:
        return [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]

    for eqn in jaxpr.eqns:
        if eqn.primitive in rules:
            found = rules[eqn.primitive](*given(eqn.invars), **eqn.params)
            found = found if eqn.primitive.multiple_results else [found]
        else:
            if eqn.primitive in _NESTED and any(_concerns(inner, rules) for inner in _inner(eqn.params)):
                eqn = eqn.replace(params={name: _replaced(value, rules) for name, value in eqn.params.items()})
            taken = list(dict.fromkeys(atom for atom in eqn.invars if not isinstance(atom, Literal)))
            alone = jaxpr.replace(constvars=[], invars=taken, outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects)
            found = eval_jaxpr(alone, (), *given(taken))
        values.update(zip(eqn.outvars, found, strict=True))
    return given(jaxpr.outvars)


def _replaced(value: Any, rules: Mapping[Any, Callable[..., Any]]) -> Any:
    """Returns a parameter of an equation, with its jaxprs rewritten where that is possible."""
    if type(value) is tuple:
        return tuple(_replaced(one, rules) for one in value)
    jaxpr = value.jaxpr if isinstance(value, ClosedJaxpr) else value
    if not isinstance(jaxpr, Jaxpr) or not _concerns(jaxpr, rules):
        return value
    consts = value.consts if isinstance(value, ClosedJaxpr) else ()
    avals: list[Any] = [v.aval for v in jaxpr.invars]
    if not all(isinstance(aval, ShapedArray) for aval in avals) or len(consts) != len(jaxpr.constvars):
        return value
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type) for aval in avals]
    closed = jax.make_jaxpr(lambda *args: _evaluate(jaxpr, consts, args, rules))(*shapes)
    if [v.aval for v in closed.jaxpr.outvars] != [v.aval for v in jaxpr.outvars]:
        return value
    if isinstance(value, ClosedJaxpr):
        return closed
    return closed.jaxpr if not closed.consts else value


def _convolution(x: Array, kernel: Array, **params: Any) -> Array:
    """Computes a convolution in the form that is fastest for its shapes."""
    spec, spatial, groups = params["dimension_numbers"], x.ndim - 2, params["feature_group_count"]
    channels, *window = (kernel.shape[axis] for axis in spec.rhs_spec[1:])
    if not jnp.issubdtype(x.dtype, jnp.floating) or not spatial or params["batch_group_count"] > 1:
        return p.conv_general_dilated_p.bind(x, kernel, **params)
    together = params["lhs_dilation"] == (1,) * spatial
    form = None
    if groups > 1 and channels == 1 and together:
        form = _by_channels
    elif groups == 1 and not together and params["window_strides"] == (1,) * spatial:
        form = _transposed
    if form is not None:  # sums are computed in float32
        wide = jnp.promote_types(x.dtype, jnp.float32)
        result = form(x.astype(wide), kernel.astype(wide), **params | {"preferred_element_type": None})
        return result.astype(params["preferred_element_type"] or x.dtype)
    if 1 < groups <= _GROUPS:
        parts = zip(jnp.split(x, groups, spec.lhs_spec[1]), jnp.split(kernel, groups, spec.rhs_spec[0]), strict=True)
        params |= {"feature_group_count": 1}
        return lax.concatenate([_convolution(*part, **params) for part in parts], spec.out_spec[1])
    few = channels * math.prod(window) <= (_FEW if spatial < 3 else 4 * _FEW) or math.prod(window) == 1
    if groups == 1 and together and few:
        return _by_windows(x, kernel, **params)
    return _with_gradients(x, kernel, tuple(params.items()))


def _product(a: Array, b: Array, params: Mapping[str, Any]) -> Array:
    """Contracts the last axis of `a` with the first axis of the matrix `b`."""
    how = {name: params[name] for name in ("precision", "preferred_element_type")}
    return lax.dot_general(a.reshape(-1, a.shape[-1]), b, (((1,), (0,)), ((), ())), **how).reshape(*a.shape[:-1], b.shape[-1])


def _transposed(x: Array, kernel: Array, **params: Any) -> Array:
    """Computes a convolution of a dilated input as one matrix product, whose results are added up at their places in the output."""
    spec, shapes = params["dimension_numbers"], (x, kernel)
    size = jax.eval_shape(functools.partial(p.conv_general_dilated_p.bind, **params), *shapes).shape
    x, kernel = x.transpose(_channels_last(spec.lhs_spec)), kernel.transpose(_outputs_last(spec.rhs_spec))
    *window, inputs, outputs = kernel.shape
    y = _product(x, jnp.moveaxis(kernel, -2, 0).reshape(inputs, -1), params)
    y = y.reshape(*y.shape[:-1], *window, outputs)  # (batch, *spatial, *window, outputs)
    zero = jnp.zeros((), y.dtype)
    for axis, (taps, stride, dilation, (low, _)) in enumerate(
        zip(window, params["lhs_dilation"], params["rhs_dilation"], params["padding"], strict=True), 1
    ):
        parts = []
        for tap in range(taps):
            part, first = lax.index_in_dim(y, tap, 1 + len(window), keepdims=False), low - tap * dilation
            edges: list[tuple[int, int, int]] = [(0, 0, 0)] * part.ndim
            edges[axis] = (first, size[spec.out_spec[axis + 1]] - first - (part.shape[axis] - 1) * stride - 1, stride - 1)
            parts.append(lax.pad(part, zero, edges))
        y = functools.reduce(lax.add, parts)
    return y.transpose(_inverse(_channels_last(spec.out_spec)))


def _by_channels(x: Array, kernel: Array, **params: Any) -> Array:
    """Computes a depthwise convolution as a sum of products over the window."""
    spec = params["dimension_numbers"]
    x, kernel = x.transpose(_channels_last(spec.lhs_spec)), kernel.transpose(_outputs_last(spec.rhs_spec))
    *window, _, outputs = kernel.shape
    x = jnp.repeat(x, outputs // x.shape[-1], -1)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)])

    def summed(x: Array, kernel: Array, axis: int) -> Array:
        if axis > len(window):
            return x * kernel[0]
        parts = _taps(x, axis, window[axis - 1], params["rhs_dilation"][axis - 1], params["window_strides"][axis - 1])
        return functools.reduce(lax.add, [summed(part, kernel[tap], axis + 1) for tap, part in enumerate(parts)])

    return summed(x, kernel, 1).transpose(_inverse(_channels_last(spec.out_spec)))


def _by_windows(x: Array, kernel: Array, **params: Any) -> Array:
    """Computes a convolution as the product of a matrix with one window in each row (im2col). JAX's gradient of it is fast."""
    spec = params["dimension_numbers"]
    x, kernel = x.transpose(_channels_last(spec.lhs_spec)), kernel.transpose(_outputs_last(spec.rhs_spec))
    *window, _, outputs = kernel.shape
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)])
    for axis in range(len(window), 0, -1):
        parts = _taps(x, axis, window[axis - 1], params["rhs_dilation"][axis - 1], params["window_strides"][axis - 1])
        x = jnp.concatenate(parts, -1)
    product = _product(x, kernel.reshape(-1, outputs), params)
    return product.transpose(_inverse(_channels_last(spec.out_spec)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_gradients(x: Array, kernel: Array, params: tuple[tuple[str, Any], ...]) -> Array:
    """Computes a convolution whose gradients have the layout that the routines of the backend need."""
    return _laid_out(x, kernel, **dict(params))


def _forward(x: Array, kernel: Array, params: Any) -> tuple[Array, tuple[Array, Array]]:
    return _laid_out(x, kernel, **dict(params)), (x, kernel)


def _backward(params: Any, saved: tuple[Array, Array], gradient: Array) -> Any:
    convolve = functools.partial(p.conv_general_dilated_p.bind, **dict(params))
    closed = jax.make_jaxpr(lambda x, kernel, g: jax.vjp(convolve, x, kernel)[1](g))(*saved, gradient)
    return tuple(_evaluate(closed.jaxpr, closed.consts, (*saved, gradient), {p.conv_general_dilated_p: _laid_out}))


_with_gradients.defvjp(_forward, _backward)


def _laid_out(x: Array, kernel: Array, **params: Any) -> Array:
    """Computes a convolution with channels last in `x`, and with inputs and then outputs last in the kernel."""
    spec = params["dimension_numbers"]
    before, after, result = _channels_last(spec.lhs_spec), _outputs_last(spec.rhs_spec), _channels_last(spec.out_spec)
    last = x.ndim - 1
    rows = (0, last, *range(1, last))
    plain = lax.ConvDimensionNumbers(rows, (last, last - 1, *range(last - 1)), rows)
    params |= {"dimension_numbers": plain}
    return p.conv_general_dilated_p.bind(x.transpose(before), kernel.transpose(after), **params).transpose(_inverse(result))


def _channels_last(spec: Sequence[int]) -> tuple[int, ...]:
    """Returns the axes in the order (batch, *spatial, features)."""
    return (spec[0], *spec[2:], spec[1])


def _outputs_last(spec: Sequence[int]) -> tuple[int, ...]:
    """Returns the axes in the order (*spatial, inputs, outputs)."""
    return (*spec[2:], spec[1], spec[0])


def _inverse(axes: Sequence[int]) -> list[int]:
    return sorted(range(len(axes)), key=axes.__getitem__)


def _taps(x: Array, axis: int, window: int, dilation: int, stride: int) -> list[Array]:
    """Returns, for each place in a window, the values at that place in all windows along an axis."""
    count = (x.shape[axis] - (window - 1) * dilation - 1) // stride + 1
    firsts = range(0, window * dilation, dilation)
    return [lax.slice_in_dim(x, first, first + max((count - 1) * stride + 1, 0), stride, axis) for first in firsts]


def _larger(a: Array, b: Array) -> Array:
    """Returns the larger value. Of equal values it is the first, which gets the whole gradient, as in JAX's max pooling."""
    return jnp.where((a >= b) | (a != a), a, b)


def _smaller(a: Array, b: Array) -> Array:
    return jnp.where((a <= b) | (a != a), a, b)


def _pooling(primitive: Any, combine: Callable[[Array, Array], Array], neutral: float, x: Array, **params: Any) -> Array:
    """Computes pooling axis by axis. The last axis comes first, so that equal values are compared in the order of the window."""
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    each = list(zip(*(params[name] for name in names), strict=True))
    if not jnp.issubdtype(x.dtype, jnp.floating) or max(params["window_dimensions"]) > _TAPS:
        return primitive.bind(x, **params)
    x = lax.pad(x, jnp.asarray(neutral, x.dtype), [(low, high, base - 1) for _, _, (low, high), base, _ in each])
    for axis in reversed(range(x.ndim)):
        window, stride, _, _, dilation = each[axis]
        if window > 1 or stride > 1:
            x = functools.reduce(combine, _taps(x, axis, window, dilation, stride))
    return x


_RULES: dict[Any, Callable[..., Any]] = {
    p.conv_general_dilated_p: _convolution,
    p.reduce_window_max_p: functools.partial(_pooling, p.reduce_window_max_p, _larger, -math.inf),
    p.reduce_window_min_p: functools.partial(_pooling, p.reduce_window_min_p, _smaller, math.inf),
    p.reduce_window_sum_p: functools.partial(_pooling, p.reduce_window_sum_p, lax.add, 0.0),
}
