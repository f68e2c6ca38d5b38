"""The text the embedded model pair is trained on, and the held-out prompts it is measured with."""
