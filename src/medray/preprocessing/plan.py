"""The plan: everything that preprocessing, training and serving must agree on.

In the spirit of nnU-Net (Isensee et al., Nature Methods 18 (2021) 203-211): the plan is data, frozen, and travels inside
the model's card. Each choice carries its reason (see `medray.preprocessing.planning`). Serving has no options of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medray import config
from medray.cohort.manifest import SeriesRow
from medray.errors import ConfigError
from medray.imaging.labels import LabelSchema
from medray.imaging.transitions import Transitions
from medray.models.spec import COARSE, COMPARER, GENERATOR, NetworkSpec
from medray.preprocessing.intensity import Intensity

__all__ = ["Plan", "TaskName", "learnable", "read_plan"]

SCHEMA_VERSION = 3
TaskName = Literal["segmentation", "diagnosis", "detection", "synthesis", "progression"]


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Plan:
    """A frozen recipe.

    Attributes:
        schema_version: Of this record.
        task: What is learned.
        labels: Names and values of the cohort's label maps; none where the task needs no label maps.
        targets: What is told apart: labels to segment or to put boxes around, findings to diagnose, labels to make images of.
        regions: Where targets overlap: each target's labels, which are segmented one by one (multi-label).
        one_piece: Of a segmentation: targets of which an answer keeps the largest connected piece alone.
        exclusive: Of a diagnosis: each image has exactly one of the targets (multi-class).
        least_change: Of a progression: a volume that is larger or smaller by less than this share is stable. 25 % is what
            counts as growth of a lung nodule (van Klaveren et al., N Engl J Med 361 (2009) 2221-2229).
        located: Of a diagnosis: the targets are labels, and their label maps teach where in an image each shows.
        cohort: Id of the cohort that it was made from.
        modalities: What the model has seen; another modality is refused.
        channels: Of an image: 1, or those of colours or echoes.
        spacing_mm: Voxel spacing along L, P, S to which volumes are resampled.
        order: Spline order of image resampling: 0, 1 or 3.
        antialias: Smooth before making an axis coarser.
        labels_by: How label maps are resampled: each label's share linearly, or the nearest voxel.
        crop: Leave out a rim of one value all round, as skull-stripped and padded images have it.
        intensity: Normalisation.
        patch: Voxels of a patch along L, P, S; one along S makes the network two-dimensional.
        batch: Patches a step and worker.
        foreground_share: Share of training patches centred on a target.
        target_weights: Weight in the loss of each target; of a multi-class segmentation background's comes first.
        overlap: Share that neighbouring patches have in common at prediction.
        alike: Axes (L, P, S: 0, 1, 2) along which a mirror image has the same labels: training patches are mirrored there.
        mirror: Whether a prediction is the mean over all such mirror images of a patch: surer, and up to eight times the time.
        network: Which and how large.
        val: Share of subjects for validation.
        test: Share of subjects for testing.
        reasons: Field name to why it is as it is.
    """

    schema_version: int = SCHEMA_VERSION
    task: TaskName
    labels: LabelSchema
    targets: tuple[str, ...] = Field(min_length=1)
    regions: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    one_piece: tuple[str, ...] = ()
    exclusive: bool = False
    located: bool = False
    least_change: float = Field(default=0.25, gt=0)
    cohort: str
    modalities: tuple[str, ...]
    channels: int = Field(default=1, ge=1)
    spacing_mm: tuple[float, float, float]
    order: Literal[0, 1, 3] = 3
    antialias: bool = True
    labels_by: Literal["linear", "nearest"] = "linear"
    crop: bool = True
    intensity: Intensity
    patch: tuple[int, int, int]
    batch: int = Field(default=2, ge=1)
    foreground_share: float = Field(default=2 / 3, ge=0, le=1)
    target_weights: tuple[float, ...]
    overlap: float = Field(default=0.25, ge=0, lt=1)
    alike: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)
    mirror: bool = False
    network: NetworkSpec = NetworkSpec()
    val: float = Field(default=0.12, gt=0, lt=0.5)
    test: float = Field(default=0.18, gt=0, lt=0.5)
    reasons: Mapping[str, str] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.network.fits(self.patch):
            raise ConfigError(f"patch {self.patch} must be positive multiples of {self.network.divisor}, the network's divisor")
        if min(self.spacing_mm) <= 0:
            raise ConfigError(f"spacing_mm {self.spacing_mm} must be positive")
        self._check_targets()
        if self.task != "diagnosis" and self.network.name in COARSE:
            raise ConfigError(f"network {self.network.name}: a {self.task} needs an answer at each voxel; use a unet")
        if self.network.deep_supervision and self.task != "segmentation":
            raise ConfigError(f"deep_supervision: a {self.task} answers at one depth only; leave it out")
        if (self.task == "synthesis") != (self.network.name == GENERATOR):
            raise ConfigError(f"network {self.network.name}: a synthesis, and nothing else, takes a {GENERATOR}")
        self._check_pairs()

    def _check_pairs(self) -> None:
        if (self.task == "progression") != (self.network.name == COMPARER):
            raise ConfigError(f"network {self.network.name}: a progression, and nothing else, takes a {COMPARER}")
        if self.task == "progression" and (
            self.channels % 2 or Transitions.of(self.labels).schema.names.keys() != set(self.targets)
        ):
            raise ConfigError(
                "a progression is learned from pairs of scans, of all transitions: leave channels and targets out"
            )

    def _check_targets(self) -> None:
        if len(set(self.targets)) != len(self.targets):
            raise ConfigError(f"targets {self.targets}: each may stand there once")
        if self.regions and (self.task != "segmentation" or set(self.regions) != set(self.targets)):
            raise ConfigError("regions: a segmentation may have them, one for each target")
        if set(self.one_piece) - set(self.targets if self.task == "segmentation" else ()):
            raise ConfigError(f"one_piece {list(self.one_piece)}: targets of a segmentation may be in one piece, nothing else")
        used = {name for names in self.regions.values() for name in names} if self.regions else set(self.targets)
        unknown = sorted(used - set(self.labels.names)) if self.maps else []
        if unknown:
            raise ConfigError(f"target {unknown[0]!r} is no label of the cohort: {', '.join(self.labels.names)}")
        background = int(self.task in ("segmentation", "progression") and not self.regions)
        if len(self.target_weights) != background + len(self.targets):
            first = ", background first" if background else ""
            raise ConfigError(f"target_weights needs {background + len(self.targets)} numbers{first}")

    @property
    def maps(self) -> bool:
        """Whether the task is learned from label maps."""
        return self.task != "diagnosis" or self.located

    @property
    def sampled(self) -> tuple[int, ...]:
        """Channel numbers of the labels that training patches are centred on."""
        return tuple(sorted({number for target in self.targets for number in self.numbers(target)})) if self.maps else ()

    def parts(self, target: str) -> tuple[str, ...]:
        """Return the labels that a target is made of; none of a finding that is no label."""
        return tuple(name for name in self.regions.get(target, (target,)) if name in self.labels.names)

    def values(self, target: str) -> tuple[int, ...]:
        """Return the values that a target's labels have in a label map."""
        return tuple(self.labels.names[name] for name in self.parts(target))

    def numbers(self, target: str) -> tuple[int, ...]:
        """Return the channel numbers that a target's labels have in a prepared case."""
        order = list(self.labels.names)
        return tuple(1 + order.index(name) for name in self.parts(target))


def learnable(rows: Sequence[SeriesRow], task: TaskName, *, located: bool = False) -> list[SeriesRow]:
    """Return the series that a task can learn from: those with a label map or, for a diagnosis, with a word on findings.

    In a cohort with a table of findings an image without any is one with none. A diagnosis that is located by label maps needs
    them all the same. Synthetic series are none of them: `medray.prepare` takes those by their own way.
    """
    rows = [row for row in rows if not row.synthetic]
    if task == "diagnosis" and not located and any(row.findings for row in rows):
        return list(rows)
    return [row for row in rows if row.label]


def read_plan(data: Mapping[str, Any], *, what: str = "the plan") -> Plan:
    """Make a plan from plain data.

    Raises:
        ConfigError: If it is of another schema version, or a key is unknown or wrong.
    """
    version = data.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{what} has schema version {version}; this medray reads {SCHEMA_VERSION}: make the plan again")
    return config.load(Plan, data, what=what)
