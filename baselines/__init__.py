"""Baselines, one paper a file, on the same sessions as the project's own decoders."""
