"""medray's loop without Ray, in a process of plain torch: what `benchmarks/train.py` and `scaling.py` compare Ray Train with.

Usage: plain.py ROOT CONFIG THREADS DEVICE, the configuration as JSON; prints the history.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import medray
from medray.preprocessing.prepared import Prepared, open_prepared
from medray.training.data import Batches, open_cases
from medray.training.learner import Learner
from medray.training.loop import run_epochs

__all__ = ["History", "begin", "history_of"]

History = Sequence[Mapping[str, Any]]


def begin(
    prepared: Prepared, config: Mapping[str, Any], *, threads: int, settings: Mapping[str, str], device: str = "cpu"
) -> subprocess.Popen[str]:
    """Start the process, with these environment variables over those that are set."""
    command = [sys.executable, __file__, prepared.root.path, json.dumps(config), str(threads), device]
    return subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True)


def history_of(process: subprocess.Popen[str]) -> History:
    """Wait for a process and return a record an epoch."""
    said, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    history: History = json.loads(said.splitlines()[-1])
    return history


def main(root: str, config: str, threads: str, device: str) -> None:
    """Train, and print the history."""
    torch.set_num_threads(int(threads))
    chosen, prepared = medray.FitConfig(**json.loads(config)), open_prepared(root)
    learner = Learner.fresh(prepared.plan, chosen, lambda model: model.to(device))
    batches = Batches(open_cases(prepared, "train"), prepared.plan, chosen).beside(learner.device, int(threads))
    run_epochs(learner, batches, open_cases(prepared, "val"), lambda record: None)
    print(json.dumps(learner.history))


if __name__ == "__main__":
    main(*sys.argv[1:])
