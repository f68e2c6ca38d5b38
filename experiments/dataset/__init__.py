"""Rows of data sets, from local files or the hub, and tasks that are made of them."""
