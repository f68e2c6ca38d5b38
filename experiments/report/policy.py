"""What a browser may do with a page of ours. Knows nothing of what is on it."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256


def policy(script: str) -> str:
    """Nothing may be loaded or sent, and only this script runs."""
    digest = b64encode(sha256(script.encode()).digest()).decode()
    only = f"script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; {only}; base-uri 'none'; form-action 'none'"
