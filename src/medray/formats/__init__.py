"""Bytes to `Volume` and back, one module a format. No policy: what to keep or refuse is decided by the caller."""
