"""Plans of many runs in one directory: tables of methods, and grids of settings."""
