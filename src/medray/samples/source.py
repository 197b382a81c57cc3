"""A folder of samples: new at the start, and with its labels' names at the end."""

from __future__ import annotations

from pathlib import Path

from medray.errors import ConfigError
from medray.imaging.labels import LabelSchema

__all__ = ["new_source", "write_names"]


def new_source(folder: Path | str) -> Path:
    """Make the folder.

    Raises:
        ConfigError: If it has files.
    """
    root = Path(folder)
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} is not empty: give a new folder, samples never overwrite")
    root.mkdir(parents=True, exist_ok=True)
    return root


def write_names(root: Path, labels: LabelSchema) -> None:
    """Write ``dseg.tsv``, as in BIDS."""
    rows = ["index\tname", *(f"{value}\t{name}" for name, value in labels.names.items())]
    (root / "dseg.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
