"""The conformance kit: what a decoder owes, checked on models whose laws are known; see docs/conformance.md."""
