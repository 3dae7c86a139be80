"""What is chosen for a device."""

import types

import jax
import pytest

from cljax.compute import device


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [
        ("cpu", "", "float32"),
        ("gpu", "9.0", "tf32"),
        ("gpu", "8.0", "tf32"),
        ("gpu", "12.1", "tf32"),
        ("gpu", "7.5", "float32"),
        ("gpu", "gfx90a", "float32"),
        ("tpu", "", "float32"),
    ],
)
def test_precision_of_a_device(monkeypatch, platform, capability, expected):
    found = types.SimpleNamespace(compute_capability=capability) if capability else object()
    monkeypatch.setattr(jax, "devices", lambda: [found])
    with device.programs_for(platform):
        assert device.precision("auto") == expected
        assert device.precision("bfloat16") == "bfloat16"
