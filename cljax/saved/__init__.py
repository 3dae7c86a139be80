"""Says what a run keeps of its models, and reads them back."""

from typing import TYPE_CHECKING

from cljax.errors import UserError
from cljax.files import StrPath, expand

if TYPE_CHECKING:
    from cljax.saved.models import Model


def load(path: StrPath, task: int | None = None, seed: int | None = None) -> "Model":
    """Loads a model of a workdir or of an export; see `cljax.load`."""
    from cljax.saved import exports, models  # a run itself needs neither

    directory = expand(path)
    if not exports.is_export(directory):
        return models.load(directory, task, seed)
    if task is not None or seed is not None:
        raise UserError(f"{directory}: an export has one model; leave out task and seed")
    return exports.load(directory)
