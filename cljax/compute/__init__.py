"""Runs compiled programs on devices and in processes."""
