"""What a request to track says: scans of one patient, and how they are to be compared."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from medray import config
from medray.progression.history import Tracking
from medray.serving.results import BOTH, JSON, REPORT
from medray.serving.sources import Reference

__all__ = ["HISTORIES", "TRACKING", "Patient"]

TRACKING = "tracking"
"""What a job is called that is to tell what changed."""
SAID = "patient.json"

HISTORIES = (JSON, BOTH, REPORT)
"""What a history may be asked for as: JSON; a form with that, the report's page and the aligned images; the last scan's SR."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Scans of one patient, and how they are to be compared.

    Attributes:
        scans: Each a file, or where it is.
        days: When each was made, counted from any day; by DICOM's StudyDate where None.
        how: See `Tracking`.
    """

    scans: tuple[bytes | Reference, ...]
    days: tuple[float | None, ...]
    how: Tracking = field(default_factory=Tracking)

    def packed(self) -> bytes:
        """Return it as one file, a zip of the scans' files and of what is said of them."""
        pack = io.BytesIO()
        with zipfile.ZipFile(pack, "w") as files:
            said = [None if isinstance(scan, bytes) else asdict(scan) for scan in self.scans]
            files.writestr(SAID, json.dumps({"scans": said, "days": self.days, "how": config.dump(self.how)}))
            for at, scan in enumerate(self.scans):
                if isinstance(scan, bytes):
                    files.writestr(str(at), scan)
        return pack.getvalue()

    @classmethod
    def unpacked(cls, pack: bytes) -> Patient:
        """Return what `packed` made a file of."""
        with zipfile.ZipFile(io.BytesIO(pack)) as files:
            said = json.loads(files.read(SAID))

            def scans() -> Iterator[bytes | Reference]:
                for at, reference in enumerate(said["scans"]):
                    yield Reference(**reference) if reference else files.read(str(at))

            return cls(tuple(scans()), tuple(said["days"]), config.load(Tracking, said["how"], what="the settings"))
