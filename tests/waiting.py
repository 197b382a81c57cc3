"""Waiting for something that another process or thread does."""

import time


def wait_until(condition, seconds=60):
    """Look every now and then, and fail when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
