"""Defines convolutions with gradients that are fast on every backend."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]  # rows and columns added before and behind

# With more, XLA:CPU is faster one by one (docs/performance.md).
_MOST_CHANNELS_IN_PAIRS = 16
# With fewer inputs, XLA's own kernel gradient takes its TPU compiler 20 s (docs/performance.md).
_FEWEST_CHANNELS_ON_TPU = 8


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Cross-correlates x with a kernel.

    On CPU, outputs of few channels come in pairs (`_paired_outputs`) where no gradient is taken,
    and the gradient of the kernel is one matrix product (`kernel_gradient`): XLA's own, a
    convolution with a kernel as large as the image, takes up to three times as long. On TPUs the
    gradient of a kernel with few inputs has its own form, too (`kernel_gradient_of_rows`). On other
    devices, and for x, gradients are XLA's.

    Args:
      x: float [B, H, W, C].
      kernel: float [h, w, C, D].
      stride: of both axes.
      padding: zeros added to rows and columns.

    Returns:
      float [B, H', W', D].
    """
    by_xla = functools.partial(_by_xla, strides=(stride, stride), padding=padding)
    width = x.shape[2] + sum(padding[1]) - kernel.shape[1] + 1
    if stride > 1 or width % 2 or kernel.shape[3] > _MOST_CHANNELS_IN_PAIRS:
        return by_xla(x, kernel)
    in_pairs = functools.partial(_paired_outputs, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=in_pairs, default=by_xla)


def _by_xla(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _paired_outputs(x, kernel, padding):
    """Computes `convolve` with stride 1, with two neighbors of a row as channels of one position.

    The two copies of the kernel lie one column apart, so 25 % of the arithmetic (of three columns)
    is with zeros, but more channels at once are faster all the same.
    """
    batch, channels = x.shape[0], kernel.shape[3]
    copies = [jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1)]
    pairs = _by_xla(x, jnp.concatenate(copies, axis=3), (1, 2), padding)
    return pairs.reshape(batch, pairs.shape[1], -1, channels)


def _convolve_forward(x, kernel, stride, padding):
    return _by_xla(x, kernel, (stride, stride), padding), (x, kernel)


# Layers of equal shapes are traced once; `inline` leaves the program as it would be without.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _convolve_backward(stride, padding, saved, gradient):
    x, kernel = saved
    strides = stride, stride

    def by_transposition(x, gradient):
        return jax.vjp(lambda k: _by_xla(x, k, strides, padding), kernel)[1](gradient)[0]

    def by_product(x, gradient):
        def product(x, gradient):
            return kernel_gradient(x, gradient, kernel.shape[:2], stride, padding)

        return _computed_once(product, kernel[0, 0, 0, 0], x, gradient).astype(kernel.dtype)

    def of_rows(x, gradient):
        return kernel_gradient_of_rows(x, gradient, kernel.shape[:2], stride, padding)

    own: dict[str, Any] = {"cpu": by_product}
    if x.shape[-1] < _FEWEST_CHANNELS_ON_TPU:
        own["tpu"] = of_rows
    (x_gradient,) = jax.vjp(lambda x: _by_xla(x, kernel, strides, padding), x)[1](gradient)
    return x_gradient, lax.platform_dependent(x, gradient, **own, default=by_transposition)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _computed_once(function, number, *operands):
    """Calls a function with operands that are computed only once, however many others use them.

    XLA:CPU computes cheap operands again within every consumer, here the whole chain of residual
    sums for each shifted copy. It does not look into the branches of a condition. So this call is
    in a branch that is always taken, as no number is greater than infinity.
    """
    shape = jax.eval_shape(function, *operands)
    return lax.cond(
        number > jnp.inf,
        lambda *operands: jnp.zeros(shape.shape, shape.dtype),
        function,
        *operands,
    )


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    """Computes the gradient of `convolve` for its kernel as one matrix product.

    Entry (i, j) of the kernel's gradient is a product of x, shifted by (i, j), and the output's
    gradient, summed over images and positions. All entries come from one product if one factor has
    its shifted copies side by side as channels. A shift of one factor is the opposite shift of the
    other, so the copies along each axis are made of the factor that has fewer channels.

    Args:
      x: float [B, H, W, C].
      gradient: float [B, H', W', D], gradient of the output.
      size: (h, w) of the kernel.
      stride, padding: as in `convolve`.

    Returns:
      float [h, w, C, D], at least float32.
    """
    channels = x.shape[-1], gradient.shape[-1]
    copies = [[1, 1], [1, 1]]  # of x and of the gradient, along rows and columns
    for axis in (2, 1):  # columns first: they lie nearer in memory
        low, n = padding[axis - 1][0], size[axis - 1]
        if stride > 1 or x.shape[-1] <= gradient.shape[-1]:
            starts, length = range(n), gradient.shape[axis]
            x = _shifted_copies(x, axis, low, starts, length, stride)
            copies[0][axis - 1] = n
        else:
            starts, length = range(n - 1, -1, -1), x.shape[axis]
            gradient = _shifted_copies(gradient, axis, n - 1 - low, starts, length, 1)
            copies[1][axis - 1] = n
    product = lax.dot_general(
        x.reshape(-1, x.shape[-1]),
        gradient.reshape(-1, gradient.shape[-1]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    product = product.reshape(*copies[0], channels[0], *copies[1], channels[1])
    return product.transpose(0, 3, 1, 4, 2, 5).reshape(*size, *channels)


def kernel_gradient_of_rows(
    x: jax.Array, gradient: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    """Computes the gradient of `convolve` for its kernel with a kernel's columns as channels.

    If x has copies of itself side by side as channels, shifted by a column each, the kernel has a
    single column. Its gradient is then XLA's own.

    Args:
      x, gradient, size, stride, padding: as in `kernel_gradient`.

    Returns:
      float [h, w, C, D], of x's dtype.
    """
    rows, columns = size
    x = jnp.pad(x, ((0, 0), (0, 0), padding[1], (0, 0)))
    span = stride * (gradient.shape[2] - 1) + 1
    x = jnp.concatenate([x[:, :, i : i + span : stride] for i in range(columns)], axis=3)
    shape = jax.ShapeDtypeStruct((rows, 1, x.shape[-1], gradient.shape[-1]), x.dtype)

    def convolve_rows(kernel):
        return _by_xla(x, kernel, (stride, 1), (padding[0], (0, 0)))

    (found,) = jax.linear_transpose(convolve_rows, shape)(gradient)
    return found.reshape(*size, -1, gradient.shape[-1])


def _shifted_copies(x, axis, low, starts, length, stride):
    """Joins copies of x [B, H, W, C], each starting at another position of an axis, as channels.

    Positions count from `low` zeros before x. The copies are padded and added, because XLA's
    concatenation takes three times as long on CPU.
    """
    channels = x.shape[-1]
    total = jnp.zeros((), x.dtype)
    for place, start in enumerate(starts):
        before = low - start
        widths = [(0, 0, 0)] * x.ndim
        widths[axis] = (before, stride * (length - 1) + 1 - x.shape[axis] - before, 0)
        copy = lax.pad(x, jnp.zeros((), x.dtype), widths)
        copy = lax.slice_in_dim(copy, 0, None, stride, axis)
        widths = [(0, 0, 0)] * (x.ndim - 1)
        widths.append((place * channels, (len(starts) - 1 - place) * channels, 0))
        total += lax.pad(copy, jnp.zeros((), x.dtype), widths)
    return total


class Conv(nn.Module):
    """Convolves a map with a square kernel.

    Attributes:
      channels: number of output channels.
      size: side of the kernel (default 3).
      stride: of both axes (default 1).
      padding: zeros on each side (default 1).
      kernel_init, bias_init: initial values; there is no bias if `bias_init` is None.
      dtype: floating type of the computation; parameters are float32.
    """

    channels: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x [B, H, W, C] -> [B, H', W', channels] in `dtype`."""
        x, kernel, bias = self._parameters(x)
        y: Any = convolve(x, kernel, self.stride, ((self.padding,) * 2,) * 2)
        return y if bias is None else y + bias

    def _parameters(self, x):
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.bias_init and self.param("bias", self.bias_init, (self.channels,))
        return promote_dtype(x, kernel, bias, dtype=self.dtype)


class UpsampledConv(Conv):
    """Enlarges a map, each pixel to 2x2 equal ones, and convolves it.

    Equal neighbors share a product: an output at an even or odd position is a 2x2 convolution of
    the small map with sums of the kernel's entries, which is 4/9 of the arithmetic. One convolution
    gives all four combinations of even and odd. Needs `size` 3, `stride` 1 and `padding` 1.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x [B, H, W, C] -> [B, 2H, 2W, channels] in `dtype`."""
        x, kernel, bias = self._parameters(x)
        batch, height, width, inputs = x.shape
        # An even row sees the small map's row before (entry 0) and its own (entries 1 and 2), an
        # odd row its own (0 and 1) and the one behind (2).
        sums = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
        kernels = jnp.einsum("pui,qvj,ijcd->uvcpqd", sums, sums, kernel)
        y: Any = convolve(x, kernels.reshape(2, 2, inputs, -1), 1, ((1, 1), (1, 1)))
        y = y.reshape(batch, height + 1, width + 1, 2, 2, self.channels)
        places = [[y[:, p : p + height, q : q + width, p, q] for q in (0, 1)] for p in (0, 1)]
        y = interleave(places)
        return y if bias is None else y + bias


def interleave(places: list[list[jax.Array]]) -> jax.Array:
    """Joins four maps to one [B, 2H, 2W, C] with places[p][q] [B, H, W, C] at (2h + p, 2w + q)."""
    batch, height, width, channels = places[0][0].shape
    y = jnp.stack([jnp.stack(row, axis=3) for row in places], axis=2)
    return y.reshape(batch, 2 * height, 2 * width, channels)
