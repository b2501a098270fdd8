"""What runs on this machine, by a mark in its environment."""

import time
from pathlib import Path


def gone(mark: str, seconds: float = 60) -> bool:
    """Whether, within some seconds, no process has the mark in its environment."""
    until = time.monotonic() + seconds
    while any(mark.encode() in _environment(folder) for folder in Path("/proc").glob("[0-9]*")):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""
