"""The benchmark tasks, one file each."""
