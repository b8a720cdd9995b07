"""Measures the memory that is free, on the machine and in its container."""

from __future__ import annotations

import re
from pathlib import Path


def free_memory() -> int:
    """Measure the memory that this process can still get.

    Returns:
        Bytes available on the machine, or within the container's limit if that is less.
    """
    import psutil  # type: ignore[import-untyped]

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        # The kernel drops cached files when memory runs short, so they count as free.
        cached = re.search(r"^file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        if limit != "max":
            free = min(free, int(limit) - used + int(cached[1] if cached else 0))
    except (OSError, ValueError):  # not Linux, or no such limit
        pass
    return max(free, 0)
