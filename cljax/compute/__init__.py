"""Devices, programs and processes: how a run computes."""
