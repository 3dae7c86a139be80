"""Writes a saved model for programs without cljax."""
