"""Exchange with programs of other frameworks."""
