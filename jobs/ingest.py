"""``ray job submit --working-dir . -- python jobs/ingest.py --config ingest.toml``: a folder into a cohort.

Keys: source, root; optional profile, labels, site.
"""

from __future__ import annotations

import medray
from medray.cli.job import run_job
from medray.ingestion.layouts import LABEL_FILES


def step(source: str, root: str, profile: str = "basic", labels: str = LABEL_FILES, site: str = "") -> dict[str, object]:
    """Ingest and report."""
    cohort = medray.ingest(source, root, profile=profile, labels=labels, site=site)
    return {"cohort": cohort.index.id, "root": root, **cohort.index.counts}


if __name__ == "__main__":
    run_job(step)
