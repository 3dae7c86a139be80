"""Golden numbers of the original PyTorch code: inputs, states, and how closely to agree.

The folder of `dfcil/` is explained in its README, from which the three tolerances derive:

- Forward quantities (losses, logits, features, images, running statistics) in float32 must lie
  within FORWARD times the listed difference between the original's float32 and float64 runs. Where
  that difference is less than one unit of float32 in the array's largest value (a scalar that
  happened to round well, an exact zero), this unit stands in for it.
- Everything in float64 must agree to FLOAT64 of the array's largest value. Where the float64
  array is not stored, the result must be as near to the stored float32 array as the original's
  own float64 run, and FLOAT64 more.
- Gradients, and parameters after steps, in float32 are compared in the L2 norm through the
  update, |got - want| against |want - before|, with the bound UPDATE: a ReLU input within rounding
  of zero that falls on the other side changes a gradient by some 1e-3 of its size. Where several
  steps have carried the original's own float32 run farther than this from its float64 run, the
  former is no reference and only float64 is compared.
"""

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from cljax.interop import torch
from cljax.models import make_classifier, make_generator
from tests import AS_USERS_COMPILE

COMPACT = Path(__file__).resolve().parents[1] / "goldens" / "compact"
SHARED = Path(__file__).resolve().parents[3] / "shared"
FULL = SHARED / "goldens"
# The directory of the golden sets: `dfcil/`, `lucir/` and `rdfcil/`, or the archives of
# the first two.
GOLDENS = Path(os.environ.get("CLJAX_GOLDENS", FULL if FULL.is_dir() else COMPACT)).resolve()

FORWARD = 10
FLOAT64 = 1e-8
UPDATE = 2e-2

PRECISIONS = ("float32", "float64")


optimized_jit = functools.partial(jax.jit, compiler_options=AS_USERS_COMPILE)


def jit(function: Callable, **options) -> Callable:
    """`jax.jit` for full-size networks.

    In float64 XLA:CPU makes loops of convolutions, which are too slow without any optimization; in
    float32 it has a library for them, so the tests' cheapest compilation is enough.
    """
    cheap, optimized = jax.jit(function, **options), optimized_jit(function, **options)

    @functools.wraps(function)
    def call(*args, **kwargs):
        is_float64 = jax.config.jax_enable_x64
        return (optimized if is_float64 else cheap)(*args, **kwargs)

    return call


def enable(precision: str):
    """A context in which JAX computes with `precision`."""
    return jax.enable_x64(precision == "float64")


class Expected:
    """The arrays of one golden file, compared at one precision.

    Args:
      goldens: the fixture of that name.
      file: the golden file, without ending.
      precision: of the results to be compared.
    """

    def __init__(self, goldens, file: str, precision: str):
        self.arrays = goldens(file)
        self.precision = precision
        self._deviation = functools.partial(deviation, goldens, file)
        prefix = f"{file}/"
        every = goldens("float64")
        self._wide = {k[len(prefix) :]: v for k, v in every.items() if k.startswith(prefix)}
        self.names = set(self.arrays)
        self._compared = set()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def forward(self, name: str, got, scale: float = 0.0) -> None:
        """Compares a forward quantity.

        `scale`: largest value of what a small difference is computed from, such as the mean of
        standardised images; roundings are of this size.
        """
        if self.precision == "float64":
            return self._tight(name, got, scale)
        want = self.arrays[name]
        unit = np.finfo(np.float32).eps * max(scale, np.abs(want).max())
        self._within(name, got, want, FORWARD * max(self._deviation(name), unit))

    def update(self, name: str, got, before=0.0) -> None:
        """Compares a gradient, or a parameter after a step that found it as `before`."""
        if self.precision == "float64":
            return self._tight(name, got)
        want = self.arrays[name].astype(np.float64)
        assert np.shape(got) == want.shape, name
        self._compared.add(name)
        size = np.linalg.norm(want - before)
        if name in self._wide and np.linalg.norm(want - self._wide[name]) > UPDATE * size:
            return  # no reference
        error = np.linalg.norm(got - want) / size
        assert error <= UPDATE, f"{name}: the update is off by {error:.2e} of its size"

    def all_compared(self, *inputs: str) -> None:
        """Fails if an array of the file, other than these, has not been compared."""
        assert self.names == self._compared | set(inputs), self.names - self._compared

    def _tight(self, name, got, scale=0.0):
        assert np.asarray(got).dtype == np.float64, f"{name} is not float64"
        if name in self._wide:
            want, slack = self._wide[name], 0.0
        else:
            want, slack = self.arrays[name], self._deviation(name)
        self._within(name, got, want, slack + FLOAT64 * max(scale, np.abs(want).max()))

    def _within(self, name, got, want, bound):
        self._compared.add(name)
        assert np.shape(got) == want.shape, f"{name}: {np.shape(got)} instead of {want.shape}"
        error = np.abs(np.asarray(got, np.float64) - want).max()
        assert error <= bound, f"{name}: off by {error:.2e}, more than {bound:.2e}"


@functools.cache
def _json(goldens, name):
    return json.loads((goldens.folder / f"{name}.json").read_text())


def deviation(goldens, file: str, name: str) -> float:
    """The largest difference between the original's float32 and float64 runs, of one array."""
    return _json(goldens, "tolerance")[file][name]["max_abs_dev"]


def counts(goldens) -> dict:
    """Parameter counts and tensor shapes by network, as in counts.json."""
    return _json(goldens, "counts")


def harness_seed(goldens) -> int:
    """Reads the seed that the original code ran with from the README of its numbers."""
    return _number_in_readme(goldens, r"^# .*\(harness seed (\d+)\)")


def bootstrap_seed(goldens) -> int:
    """Reads the base of numpy's seed before each task's replay: the base plus the task's index."""
    return _number_in_readme(goldens, r"global numpy generator is seeded with (\d+)\+task")


def _number_in_readme(goldens, pattern):
    return int(re.search(pattern, (goldens.folder / "README.md").read_text())[1])


def recipe(goldens, name: str) -> np.ndarray:
    """Regenerates a tensor that is too large to be stored; float32."""
    r = _json(goldens, "recipes")[name]
    random = np.random.RandomState(r["rs_seed"])
    if r["kind"] == "normal":
        values = random.standard_normal(r["shape"]) * r["a"] + r["b"]
    else:
        assert r["kind"] == "uniform", r["kind"]
        values = random.uniform(r["a"], r["b"], r["shape"])
    values = values.astype(np.float32)
    assert np.allclose(values.sum(dtype=np.float64), r["sum"], rtol=1e-12, atol=1e-9), name
    assert np.array_equal(values.ravel()[:4], np.float32(r["first"])), name
    return values


def state_dict(goldens, prefix: str) -> dict[str, np.ndarray]:
    """A PyTorch state dict, float32: "M", "T", "G", "tiny", "imnet" or "net18"."""
    stored = {k: v for k, v in goldens("states").items() if k.startswith(f"{prefix}/")}
    recipes = [name for name in _json(goldens, "recipes") if name.startswith(f"{prefix}/")]
    whole = stored | {name: recipe(goldens, name) for name in recipes if name != "net18/x"}
    return {name.split("/", 1)[1]: values for name, values in whole.items()}


# prefix: (network, classes or image side)
_CLASSIFIERS = {"M": ("resnet32", 100), "T": ("resnet32", 100), "net18": ("resnet14", 1000)}
_GENERATORS = {"G": ("cifar", 32), "tiny": ("tiny_imagenet", 64), "imnet": ("imagenet", 224)}


@functools.cache
def network(goldens, prefix: str, precision: str):
    """Module and variables (numpy) of the golden state `prefix`."""
    if prefix in _CLASSIFIERS:
        module = make_classifier(*_CLASSIFIERS[prefix], dtype=np.dtype(precision))
        convert = torch.classifier_from_torch
    else:
        name, side = _GENERATORS[prefix]
        module = make_generator(name, (side, side, 3), dtype=np.dtype(precision))
        convert = torch.generator_from_torch
    state = {k: v.astype(precision) for k, v in state_dict(goldens, prefix).items()}
    with enable(precision):
        return module, convert(module, state)


def channels_last(images, precision: str) -> np.ndarray:
    """NCHW -> NHWC at a precision."""
    return np.moveaxis(images, 1, -1).astype(precision)


def channels_first(images) -> np.ndarray:
    """NHWC -> NCHW."""
    return np.moveaxis(np.asarray(images), -1, 1)
