"""Command-line tools beside the benchmark."""
