"""Joules of the devices in use over a window of time: GPUs through NVML, CPU packages through RAPL."""
