"""Exemplars: which images of old tasks are stored, and how they are replayed."""
