"""Running what a model wrote, so that it harms nobody: Python in a sandbox, SQL on a read-only connection."""
