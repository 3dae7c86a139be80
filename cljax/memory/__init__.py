"""Selects exemplars of old classes and replays them in later tasks."""
