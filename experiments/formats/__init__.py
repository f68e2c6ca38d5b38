"""The files of a run as JSON Schemas, and whether files that others send keep to them; docs/formats.md."""
