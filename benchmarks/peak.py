"""The most memory that this process had: for sides that run alone, some of them where medray isn't."""

from __future__ import annotations

from pathlib import Path

__all__ = ["forget_peak", "peak"]


def forget_peak() -> float:
    """Set the process's high-water mark back to what it has now, and return that in MiB (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Return the process's high-water mark in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
