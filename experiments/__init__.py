"""Benchmarks: tasks, runs, records and reports. Knows Hydra's configurations and file formats; mtad/ does not."""
