"""The core: token trees, sessions, laws, and the decoders of arXiv 2407.09722.

Knows models and token ids. Knows nothing of Hydra, tasks or file formats.
"""
