"""LUCIR's golden numbers: networks, passes through them, and how closely to agree.

The folder of `lucir/` is explained in its README, which has the tolerances: in float64 everything
agrees to rounding, in float32 as far as measured with the original code.
"""

import functools

import numpy as np

from cljax.interop import torch
from cljax.models import make_classifier
from tests.helpers.goldens import channels_last, enable, jit

# Of the golden networks' classes, OLD are old and SEEN are seen; the others here are never seen.
OLD, SEEN, NUM_CLASSES = 50, 60, 64
MAPS = {"bn1": "after_relu"} | {f"stage{i}_block4": f"after_layer{i}" for i in (1, 2, 3)}


class Expected:
    """The arrays of one golden file, compared at one precision.

    Args:
      goldens: the fixture `lucir_goldens`.
      file: the golden file, without ending.
      precision: of the results to be compared.
    """

    def __init__(self, goldens, file: str, precision: str):
        self.arrays = goldens(file)
        self.precision = precision
        self._compared = set()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def close(self, name: str, got, loose: float = 1e-5, of: float | np.ndarray = 1.0) -> None:
        """Compares an array; in float32 to within `loose * of`, `of` possibly entry by entry."""
        want, got = self.arrays[name], np.asarray(got)
        self._compared.add(name)
        assert got.shape == want.shape, f"{name}: {got.shape} instead of {want.shape}"
        assert got.dtype == self.precision, f"{name} is {got.dtype}"
        largest = np.abs(want).max()
        if self.precision == "float64":
            # Large arrays are stored rounded to float32: by half a unit at most.
            unit = np.finfo(np.float32).eps / 2 if want.dtype == np.float32 else 0.0
            bound = unit * largest + 1e-12 * max(1.0, largest)
        else:
            bound = loose * of
        error = np.abs(got - want.astype(np.float64))
        worst = np.max(error / bound)
        assert worst <= 1, f"{name}: off by {worst:.3g} times the bound"

    def all_compared(self, *inputs: str) -> None:
        """Fails if an array of the file, other than these, has not been compared."""
        given = {name for name in self.arrays if name in inputs or name.startswith("state.")}
        assert set(self.arrays) - given == self._compared, set(self.arrays) - self._compared


def _body(goldens):
    arrays = goldens("lucir_resnet32")
    state = {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
    return {name: array for name, array in state.items() if name != "fc.weight"}, state["fc.weight"]


# file: its array of the new classes' rows
_NEW_ROWS = {
    "lucir_resnet32": "split.fc2_weight",
    "lucir_update_incremental": "fc2_weight_before",
}


@functools.cache
def network(goldens, precision: str, file: str = "lucir_update_incremental"):
    """LUCIR's ResNet-32 with a cosine head of NUM_CLASSES, and its variables (numpy).

    The old rows of the head are the golden state's, the new ones those of `file`, and the rows of
    classes never seen are random.
    """
    module = make_classifier("resnet32_lucir", NUM_CLASSES, 16, np.dtype(precision), "cosine")
    state, old = _body(goldens)
    unseen = np.random.default_rng(0).normal(size=(NUM_CLASSES - SEEN, old.shape[1]))
    new = np.concatenate([goldens(file)[_NEW_ROWS[file]], unseen])
    state |= {"fc.fc1.weight": old, "fc.fc2.weight": new}
    return module, _variables(module, state, precision)


@functools.cache
def baseline(goldens, precision: str):
    """The unmodified ResNet-32 with a linear head of SEEN classes."""
    module = make_classifier("resnet32_projection", SEEN, 16, np.dtype(precision))
    arrays = goldens("lucir_update_ablations")
    state, _ = _body(goldens)
    del state["fc.sigma"]
    state |= {f"fc.{name}": arrays[f"baseline.fc_{name}_before"] for name in ("weight", "bias")}
    return module, _variables(module, state, precision)


def _variables(module, state, precision):
    with enable(precision):
        return torch.classifier_from_torch(
            module, {name: array.astype(precision) for name, array in state.items()}
        )


@functools.partial(jit, static_argnums=0)
def _passes(module, variables, images):
    in_eval, captured = module.apply(
        variables,
        images,
        capture_intermediates=lambda part, _: part.name in MAPS,
        mutable=["intermediates"],
    )
    maps = captured["intermediates"]["backbone"]
    in_train, updates = module.apply(variables, images, train=True, mutable=["batch_stats"])
    maps = {name: maps[name]["__call__"][0] for name in MAPS}
    return in_eval, maps, in_train, updates["batch_stats"]


def passes(module, variables, images, precision: str):
    """Outputs in eval mode, maps in eval mode, outputs in train mode, running statistics after.

    images float [16, 3, 32, 32], as stored.
    """
    with enable(precision):
        return _passes(module, variables, channels_last(images, precision))


def tensors(module, variables, precision: str) -> dict[str, np.ndarray]:
    """PyTorch's tensors without the unseen classes, the split head's halves besides the whole."""
    with enable(precision):
        found = torch.classifier_to_torch(module, variables)
    whole = found.pop("fc.weight")
    halves = {"fc.fc1.weight": whole[:OLD], "fc.fc2.weight": whole[OLD:SEEN]}
    return found | halves
