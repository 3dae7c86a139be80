"""Describes and reads every setting of a run; no other room reads a config.

A config, which files, flags and saved config.json give, is turned into `Settings` once, before data
are read. A method's own settings are the fields of its class; `read_method` checks them likewise.
"""

from cljax.settings.blocks import (
    LARGEST,
    AugmentationSettings,
    AutoencoderSettings,
    CheckpointSettings,
    Count,
    DataSettings,
    EvaluationSettings,
    ExecutionSettings,
    ExemplarSettings,
    Fraction,
    InversionSettings,
    MeshSettings,
    MethodSettings,
    ModelSettings,
    OptimizerSettings,
    Positive,
    Rate,
    Settings,
    StreamSettings,
    Weight,
)
from cljax.settings.reading import (
    RENAMED,
    describe,
    expected,
    fields,
    markdown,
    may_change,
    read,
    read_method,
)

__all__ = [
    "LARGEST",
    "RENAMED",
    "AugmentationSettings",
    "AutoencoderSettings",
    "CheckpointSettings",
    "Count",
    "DataSettings",
    "EvaluationSettings",
    "ExecutionSettings",
    "ExemplarSettings",
    "Fraction",
    "InversionSettings",
    "MeshSettings",
    "MethodSettings",
    "ModelSettings",
    "OptimizerSettings",
    "Positive",
    "Rate",
    "Settings",
    "StreamSettings",
    "Weight",
    "describe",
    "expected",
    "fields",
    "markdown",
    "may_change",
    "read",
    "read_method",
]
