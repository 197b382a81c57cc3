"""medray takes a bucket or a PACS full of scans to measured models behind an endpoint, on Ray.

The names below load on first use, so that ``import medray`` costs next to nothing: neither torch nor Ray is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Cohort": "medray.cohort.cohort",
    "FitConfig": "medray.training.config",
    "Gate": "medray.synthesis.gate",
    "LabelSchema": "medray.imaging.labels",
    "MedrayError": "medray.errors",
    "Memory": "medray.preprocessing.budget",
    "ModelCard": "medray.registry.card",
    "Plan": "medray.preprocessing.plan",
    "Predictor": "medray.inference.predictor",
    "Registry": "medray.registry.registry",
    "Runtime": "medray.models.runtime",
    "Scan": "medray.progression.track",
    "Volume": "medray.imaging.volume",
    "card_from_run": "medray.registry.card",
    "compare": "medray.inference.compare",
    "deploy": "medray.serving.app",
    "evaluate": "medray.inference.evaluate",
    "fit": "medray.training.trainer",
    "ingest": "medray.ingestion.pipeline",
    "measure_gain": "medray.synthesis.gain",
    "open_cohort": "medray.cohort.cohort",
    "plan": "medray.preprocessing.planning",
    "predict": "medray.inference.predict",
    "prepare": "medray.preprocessing.prepare",
    "read_space": "medray.training.space",
    "renew": "medray.renewal.renew",
    "replay": "medray.inference.replay",
    "synthesise": "medray.synthesis.synthesise",
    "track": "medray.progression.track",
    "tune": "medray.training.tune",
}

__all__ = [
    "Cohort",
    "FitConfig",
    "Gate",
    "LabelSchema",
    "MedrayError",
    "Memory",
    "ModelCard",
    "Plan",
    "Predictor",
    "Registry",
    "Runtime",
    "Scan",
    "Volume",
    "card_from_run",
    "compare",
    "deploy",
    "evaluate",
    "fit",
    "ingest",
    "measure_gain",
    "open_cohort",
    "plan",
    "predict",
    "prepare",
    "read_space",
    "renew",
    "replay",
    "synthesise",
    "track",
    "tune",
]

if TYPE_CHECKING:
    from medray.cohort.cohort import Cohort, open_cohort
    from medray.errors import MedrayError
    from medray.imaging.labels import LabelSchema
    from medray.imaging.volume import Volume
    from medray.inference.compare import compare
    from medray.inference.evaluate import evaluate
    from medray.inference.predict import predict
    from medray.inference.predictor import Predictor
    from medray.inference.replay import replay
    from medray.ingestion.pipeline import ingest
    from medray.models.runtime import Runtime
    from medray.preprocessing.budget import Memory
    from medray.preprocessing.plan import Plan
    from medray.preprocessing.planning import plan
    from medray.preprocessing.prepare import prepare
    from medray.progression.track import Scan, track
    from medray.registry.card import ModelCard, card_from_run
    from medray.registry.registry import Registry
    from medray.renewal.renew import renew
    from medray.serving.app import deploy
    from medray.synthesis.gain import measure_gain
    from medray.synthesis.gate import Gate
    from medray.synthesis.synthesise import synthesise
    from medray.training.config import FitConfig
    from medray.training.space import read_space
    from medray.training.trainer import fit
    from medray.training.tune import tune


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medray' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
