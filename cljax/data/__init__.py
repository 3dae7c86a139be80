"""Data: where images come from, which task holds which of them, and how they are augmented."""
