"""Datasets, task streams and augmentation."""
