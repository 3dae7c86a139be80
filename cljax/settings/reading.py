"""Reads and checks settings, and says what each must be."""

import difflib
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import annotated_types as bounds
import ml_collections
from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo

from cljax.errors import UserError
from cljax.settings.blocks import LARGEST, LARGEST_FLOAT, Block, Settings

# Keys that are gone, and what is set instead.
RENAMED = {
    "method.num_rivals": "method.num_hard_negatives",
    "method.rivals": "method.hard_negatives",
    "method.ranking": "method.ranking_weight",
    "method.imprinted": "method.imprint_weights",
    "method.balance": "method.balanced_finetuning",
    "method.teacher_mode": "method.name=libcontinual_lucir, _lwf, _icarl or _wa",
    "method.form": "method.name=libcontinual_ewc",
    "method.loss": "method.name=libcontinual_icarl",
    "method.trains_head": "method.name=libcontinual_wa",
}


def read(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Settings:
    """Reads and checks a config.

    Args:
      config: nested mappings, such as a ConfigDict.

    Raises:
      UserError: a line for each mistake, with the key, its value and what it must be.
    """
    values = _plain(config)
    if values.pop("grid", None):
        raise UserError("config.grid: is for many runs, and this is one of them; remove it here")
    mistakes = [
        f"config.{key} is missing; set it ({expected(field)}; default {field.default!r})"
        for key, field in fields()
        if _lacks(values, key)
    ]
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise UserError(*mistakes, *_lines(error, "config", dict(fields()))) from None
    mistakes += _contradictions(settings)
    if mistakes:
        raise UserError(*mistakes)
    return settings


def read_method(name: str, types: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a method's own settings against the fields of its class.

    Args:
      name: of the method, for messages.
      types: by field, its type; `Annotated` adds bounds (`annotated_types.Ge` and the like).
      own: the settings.

    Returns:
      The settings.

    Raises:
      UserError: a line for each setting that the method does not have, or cannot have so.
    """
    fields_of_own: dict[str, Any] = {key: (kind, None) for key, kind in types.items()}
    model = create_model("Own", __base__=Block, **fields_of_own)
    try:
        return model.model_validate(dict(own)).model_dump(include=set(own))
    except ValidationError as error:
        known = {f"method.{key}": field for key, field in model.model_fields.items()}
        raise UserError(*_lines(error, "config.method", known, f"method {name!r}")) from None


def fields(block: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yields every setting with its dotted key, in the order of their definition."""
    for name, field in block.model_fields.items():
        kind = _block_of(field)
        if kind is None:
            yield prefix + name, field
        else:
            yield from fields(kind, f"{prefix}{name}.")


def describe(config: Mapping[str, Any], method: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each setting of a config: key, value, meaning, and what it must be.

    Args:
      config: nested values.
      method: by name, the type of each of the method's own settings.
    """
    for key, field in fields():
        value: Any = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            yield f"config.{key}={value!r}: {field.description} ({expected(field)})"
        if key == "method.name" and "method" in config:
            for name, kind in method.items():
                own = config["method"].get(name, "its default")
                yield f"config.method.{name}={own!r}: {_expected(kind)}"


def markdown() -> str:
    """Returns the table of docs/configuration.md: every setting but the methods' own."""
    lines = ["| key | must be | default | meaning |", "|---|---|---|---|"]
    for key, field in fields():
        default = f"`{field.default!r}`"
        changes = "; may change when a run resumes" if may_change(key) else ""
        changes = "; may grow when a run resumes" if may_grow(key) else changes
        lines.append(f"| `{key}` | {expected(field)} | {default} | {field.description}{changes} |")
    return "\n".join(lines) + "\n"


def may_change(key: str) -> bool:
    """Whether a resumed run may have another value of config.`key`."""
    return _says(key, "may_change")


def may_grow(key: str) -> bool:
    """Whether a resumed run may have more of config.`key`: more seeds, or more tasks."""
    return _says(key, "may_grow")


def _says(key, what):
    field = dict(fields()).get(key)
    extra = field.json_schema_extra if field else None
    return isinstance(extra, dict) and bool(extra[what])


def expected(field: FieldInfo) -> str:
    """Says what a setting must be, such as "a whole number, 1 to 1048576"."""
    return _expected(field.annotation, field.metadata)


def _expected(kind: Any, limits: Iterable[Any] = ()) -> str:
    if typing.get_origin(kind) is Annotated:
        kind, *limits = typing.get_args(kind)
    limits = [part for x in limits for part in getattr(x, "metadata", [x])]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        return f"a tuple{_length(limits)}, each entry {_expected(args[0])}"
    words = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text"}
    return words.get(kind, str(kind)) + _range(limits) + _length(limits)


def _range(limits):
    """The bounds in words: pydantic keeps them as objects of `annotated_types`."""
    low = next((x.ge for x in limits if isinstance(x, bounds.Ge) and x.ge != -LARGEST_FLOAT), None)
    above = next((x.gt for x in limits if isinstance(x, bounds.Gt)), None)
    high = next((x.le for x in limits if isinstance(x, bounds.Le) and x.le != LARGEST_FLOAT), None)
    text = f" above {above}" if above is not None else "" if low is None else f" from {low}"
    if high is None:
        return f"{text} on" if low is not None else text
    return f"{text} to {high}"


def _length(limits):
    least = next((x.min_length for x in limits if isinstance(x, bounds.MinLen)), 0)
    most = next((x.max_length for x in limits if isinstance(x, bounds.MaxLen)), None)
    if most is not None:
        return f" of {most} entries"
    return " that is not empty" if least else ""


def _block_of(field):
    """The block that a field holds, or None for a plain setting."""
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _plain(value):
    if isinstance(value, Mapping | ml_collections.ConfigDict):
        return {key: _plain(one) for key, one in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _lacks(values, key):
    """Whether a block that is there lacks the key; blocks that a method may need may be absent."""
    *path, last = key.split(".")
    for name in path:
        if name in ("inversion", "autoencoder") and name not in values:
            return False
        values = values.get(name, {})
        if not isinstance(values, dict):
            return False  # told as a wrong value of the block
    return last not in values


def _lines(error, root, known, owner="the config"):
    """One line for each mistake that pydantic found."""
    lines = {}
    for found in error.errors():
        names = [str(part) for part in found["loc"] if isinstance(part, str)]
        names = [n for n in names if not n.startswith(("function-", "constrained-"))]
        key = ".".join([root, *names]).removeprefix("config.")
        lines.setdefault(key, _line(key, found, known, owner))
    return list(lines.values())


def _line(key, found, known, owner):
    if found["type"] == "extra_forbidden":
        if key in RENAMED:
            return f"config.{key}: this key is gone; use config.{RENAMED[key]}"
        near = difflib.get_close_matches(key, known, n=3)
        hint = f"did you mean {' or '.join(f'config.{k}' for k in near)}?" if near else ""
        hint = hint or f"known: {', '.join(known)}" if len(known) < 20 or hint else "see --help"
        return f"config.{key}: {owner} has no such setting; {hint}"
    if key not in known:
        return f"config.{key}={_shown(found['input'])}: must be a block of settings"
    field = known[key]
    entries = [part for part in found["loc"] if isinstance(part, int)]
    if not entries:
        return f"config.{key}={_shown(found['input'])}: must be {expected(field)}"
    kind = typing.get_args(field.annotation)[0]
    value = _shown(found["input"])
    return f"config.{key}: entry {entries[0] + 1} is {value}, must be {_expected(kind)}"


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _contradictions(settings: Settings) -> Iterator[str]:
    """Yields a line for each pair of settings that exclude each other."""
    seeds, exemplars = settings.seeds, settings.exemplars
    if len(set(seeds)) < len(seeds):
        yield f"config.seeds={seeds}: names a seed twice; name each seed once"
    for name, offset in settings.streams:
        if not -(2**31) <= offset + min(seeds) <= offset + max(seeds) <= LARGEST:
            yield (
                f"config.streams.{name}={offset}: seed + {offset} must be in the range of 32 bits; "
                "use an offset nearer to 0"
            )
    if exemplars.total and exemplars.per_class:
        yield (
            f"config.exemplars.total={exemplars.total}, .per_class={exemplars.per_class}: exclude "
            "each other; set one of them to 0"
        )
    steps = {"epochs": settings.epochs}
    if settings.inversion:
        steps["inversion.steps"] = settings.inversion.steps
    for key, count in steps.items():
        if not math.isfinite(n := count * settings.schedule_scale) or n > LARGEST:
            yield (
                f"config.{key}={count}: times config.schedule_scale={settings.schedule_scale:g} it "
                f"must be at most {LARGEST}"
            )
