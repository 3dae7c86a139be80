"""Scores the saved classifiers of a run again."""
