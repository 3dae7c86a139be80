"""Measures steps, evaluation and whole runs on the device at hand."""
