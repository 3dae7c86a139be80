"""Reverse-mode differentiation of NumPy programs in float64, for references that need no JAX.

Images are [B, C, H, W] and kernels [D, C, h, w], as in PyTorch.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np


class Var:
    """An array, and what it was computed from.

    Attributes:
      value: float64 array.
      parents: variables that it was computed from, each with a function from the gradient of this
        one to its part of the gradient of the parent, up to broadcasting.
    """

    __array_ufunc__ = None  # so that an array leaves array * Var to Var

    def __init__(self, value, parents: Sequence[tuple["Var", Callable]] = ()):
        self.value = np.asarray(value, np.float64)
        self.parents = parents

    @property
    def shape(self):
        return self.value.shape

    def __add__(self, other):
        other = as_var(other)
        return Var(self.value + other.value, [(self, lambda g: g), (other, lambda g: g)])

    def __mul__(self, other):
        other = as_var(other)
        a, b = self.value, other.value
        return Var(a * b, [(self, lambda g: g * b), (other, lambda g: g * a)])

    def __pow__(self, exponent: float):
        x = self.value
        return Var(x**exponent, [(self, lambda g: g * exponent * x ** (exponent - 1))])

    def __matmul__(self, other):
        other = as_var(other)
        a, b = self.value, other.value
        return Var(a @ b, [(self, lambda g: g @ b.T), (other, lambda g: a.T @ g)])

    def __getitem__(self, where):
        def back(g):
            whole = np.zeros(self.shape)
            np.add.at(whole, where, g)
            return whole

        return Var(self.value[where], [(self, back)])

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -as_var(other)

    def __rsub__(self, other):
        return -self + other

    def __truediv__(self, other):
        return self * as_var(other) ** -1.0

    __radd__, __rmul__ = __add__, __mul__

    @property
    def T(self):  # noqa: N802  # NumPy's name
        return Var(self.value.T, [(self, lambda g: g.T)])

    def reshape(self, *shape: int):
        return Var(self.value.reshape(shape), [(self, lambda g: g.reshape(self.shape))])

    def sum(self, axis=None):
        """The sum over axes, which stay with length 1."""
        return Var(self.value.sum(axis, keepdims=True), [(self, lambda g: g)])

    def mean(self, axis=None):
        """The mean over axes, which stay with length 1."""
        total = self.sum(axis)
        return total * (total.value.size / self.value.size)


def as_var(value) -> Var:
    """A variable; of a constant, one without parents."""
    return value if isinstance(value, Var) else Var(value)


def stop(x: Var) -> Var:
    """The value as a constant."""
    return Var(x.value)


def exp(x: Var) -> Var:
    y = np.exp(x.value)
    return Var(y, [(x, lambda g: g * y)])


def log(x: Var) -> Var:
    return Var(np.log(x.value), [(x, lambda g: g / x.value)])


def tanh(x: Var) -> Var:
    y = np.tanh(x.value)
    return Var(y, [(x, lambda g: g * (1 - y**2))])


def leaky_relu(x: Var, slope: float = 0.0) -> Var:
    """x where it is positive, slope x elsewhere; by default a ReLU."""
    factor = np.where(x.value > 0, 1.0, slope)
    return Var(x.value * factor, [(x, lambda g: g * factor)])


def pad_channels(x: Var, before: int, after: int) -> Var:
    """Adds channels of zeros."""
    widths = ((0, 0), (before, after), (0, 0), (0, 0))
    channels = slice(before, before + x.shape[1])
    return Var(np.pad(x.value, widths), [(x, lambda g: g[:, channels])])


def conv(x: Var, kernel: Var, stride: int = 1, padding: int = 0) -> Var:
    """Cross-correlates [B, C, H, W] with [D, C, h, w]: [B, D, H', W']."""
    border = (padding, padding)
    padded = np.pad(x.value, ((0, 0), (0, 0), border, border))
    size = kernel.shape[2:]
    parts = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(2, 3))
    parts = parts[:, :, ::stride, ::stride]  # [B, C, H', W', h, w]
    y = np.tensordot(parts, kernel.value, ([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)

    def to_kernel(g):
        return np.tensordot(g, parts, ([0, 2, 3], [0, 2, 3]))

    def to_x(g):
        whole = np.zeros(padded.shape)
        rows, columns = (stride * (n - 1) + 1 for n in g.shape[2:])
        for i, j in np.ndindex(*size):
            part = np.tensordot(g, kernel.value[:, :, i, j], (1, 0)).transpose(0, 3, 1, 2)
            whole[:, :, i : i + rows : stride, j : j + columns : stride] += part
        end = [n - padding for n in padded.shape[2:]]
        return whole[:, :, padding : end[0], padding : end[1]]

    return Var(y, [(x, to_x), (kernel, to_kernel)])


def gradients(loss: Var, variables: Mapping[str, Var]) -> dict[str, np.ndarray]:
    """The gradients of a loss of one value, by the variables' names; 0 without a path to it."""
    found = {id(loss): np.ones(loss.shape)}
    for node in reversed(_in_order(loss)):
        gradient = found[id(node)]
        for parent, back in node.parents:
            part = _sum_to(back(gradient), parent.shape)
            found[id(parent)] = found[id(parent)] + part if id(parent) in found else part
    return {name: found.get(id(x), np.zeros(x.shape)) for name, x in variables.items()}


def _in_order(last: Var) -> list[Var]:
    """All variables below one, each behind its parents."""
    order, known, stack = [], set(), [(last, False)]
    while stack:
        node, is_ready = stack.pop()
        if is_ready:
            order.append(node)
        elif id(node) not in known:
            known.add(id(node))
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in node.parents]
    return order


def _sum_to(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undoes the broadcasting of a value of this shape."""
    if gradient.ndim > len(shape):
        gradient = gradient.sum(tuple(range(gradient.ndim - len(shape))))
    stretched = [axis for axis, n in enumerate(shape) if n == 1 < gradient.shape[axis]]
    gradient = gradient.sum(tuple(stretched), keepdims=True) if stretched else gradient
    return np.broadcast_to(gradient, shape)  # sums hand their gradient on as it is
