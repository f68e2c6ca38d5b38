"""The doctor: whether a run would work on this machine, told in a table before any weight is read."""
