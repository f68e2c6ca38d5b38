"""Decoders as models of lm-eval: `python -m experiments.lm_eval` is lm-eval's command line with them registered."""
