"""Every metric that medray exports, with its unit; Ray's agent on each node hands them to Prometheus as ``ray_medray_…``.

CPU, GPU, memory and Serve's own queues are among what Ray itself exports.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from ray.util.metrics import Counter, Gauge, Histogram

from medray.monitoring.record import PredictionRecord

__all__ = ["METRICS", "Meters"]

MILLISECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
MILLILITRES = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_000)
METRICS: dict[str, str] = {
    "medray_predictions": "predictions, by model, version, role, task and HTTP status",
    "medray_unanswered": "requests that no replica answered, by model, version and reason: busy, time-out, replica-died",
    "medray_latency_ms": "milliseconds of each stage of a prediction",
    "medray_batch_images": "images that went through a network together",
    "medray_waiting": "requests of a replica that wait for memory",
    "medray_unmoved_records": "facts of records that are on a node's disk and not on the store yet",
    "medray_record_failures": "records that couldn't be kept, or not all of them",
    "medray_input_mvoxels": "millions of voxels of an image",
    "medray_input_spacing_mm": "coarsest voxel spacing of an image",
    "medray_input_level": "decimal logarithm of an image's bright tissue",
    "medray_input_noise": "noise of an image, of its bright tissue",
    "medray_volume_ml": "predicted volume of a target",
    "medray_probability": "predicted probability of a finding",
    "medray_confidence": "how sure a model is of an answer",
    "medray_agreement": "how far another version agrees with the one in use",
    "medray_drift_p": "p-value of the last look at drift, by family of numbers",
    "medray_drift_alarm": "1 while the last look at drift is an alarm",
    "medray_drift_studies": "studies since the reference that drift is told by",
}
"""Each metric and what it counts. Ray adds ``ray_`` before and, to counters, ``_total`` after the name."""
MODEL = ("model", "version")


class Meters:
    """Counts predictions in one process."""

    def count(self, record: PredictionRecord) -> None:
        """Count a prediction: that it was, how long it took, and what was looked at."""
        tags = {"model": record.model, "version": str(record.version)}
        asked = {"role": record.role, "task": record.task, "status": str(record.status)}
        self._predictions.inc(1, {**tags, **asked})
        for stage, milliseconds in record.latencies.items():
            self._latency.observe(max(milliseconds, 1e-3), {**tags, "stage": stage})
        if record.status == 200:
            self._batch.observe(record.together, tags)
        for target, agreement in record.agreement.items():
            self._agreement.observe(max(agreement, 1e-6), {**tags, "role": record.role, "target": target})
        self._numbers(record.numbers, tags)

    def unanswered(self, model: str, version: int, reason: str) -> None:
        """Count a request that no replica answered, and of which there is no record."""
        self._unanswered.inc(1, {"model": model, "version": str(version), "reason": reason})

    def waiting(self, requests: int, unmoved: int) -> None:
        """Say how many requests wait in this replica, and how many lines of its journal."""
        self._waiting.set(requests)
        self._unmoved.set(unmoved)

    def failed(self) -> None:
        """Count a record that couldn't be kept."""
        self._failures.inc(1)

    def drift(self, model: str, version: int, families: Mapping[str, float], *, alarm: bool, studies: int) -> None:
        """Say what the last look at a model's studies showed."""
        tags = {"model": model, "version": str(version)}
        for family, p in families.items():
            self._drift_p.set(p, {**tags, "family": family})
        self._drift_alarm.set(float(alarm), tags)
        self._drift_studies.set(studies, tags)

    def _numbers(self, numbers: Mapping[str, float], tags: Mapping[str, str]) -> None:
        for name, histogram in self._looked_at.items():
            value = numbers.get(name)
            if value is not None and value == value:  # noqa: PLR0124 - NaN isn't
                histogram.observe(max(value, 1e-6), dict(tags))
        for name, value in numbers.items():
            kind, _, target = name.partition(" ")
            if target and kind == "volume":
                self._volume.observe(max(value, 1e-6), {**tags, "target": target})
            elif target and kind == "probability":
                self._probability.observe(max(value, 1e-6), {**tags, "target": target})

    @cached_property
    def _looked_at(self) -> dict[str, Histogram]:
        return {
            "mvoxels": _histogram("medray_input_mvoxels", (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300), MODEL),
            "spacing_max": _histogram("medray_input_spacing_mm", (0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10), MODEL),
            "level": _histogram("medray_input_level", (0.5, 1, 1.5, 2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 4, 5), MODEL),
            "noise": _histogram("medray_input_noise", (0.003, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2), MODEL),
            "confidence": _histogram("medray_confidence", SHARES, MODEL),
        }

    @cached_property
    def _predictions(self) -> Counter:
        return Counter("medray_predictions", METRICS["medray_predictions"], (*MODEL, "role", "task", "status"))

    @cached_property
    def _unanswered(self) -> Counter:
        return Counter("medray_unanswered", METRICS["medray_unanswered"], (*MODEL, "reason"))

    @cached_property
    def _latency(self) -> Histogram:
        return _histogram("medray_latency_ms", MILLISECONDS, (*MODEL, "stage"))

    @cached_property
    def _batch(self) -> Histogram:
        return _histogram("medray_batch_images", (1, 2, 4, 8, 16, 32), MODEL)

    @cached_property
    def _agreement(self) -> Histogram:
        return _histogram("medray_agreement", SHARES, (*MODEL, "role", "target"))

    @cached_property
    def _volume(self) -> Histogram:
        return _histogram("medray_volume_ml", MILLILITRES, (*MODEL, "target"))

    @cached_property
    def _probability(self) -> Histogram:
        return _histogram("medray_probability", SHARES, (*MODEL, "target"))

    @cached_property
    def _waiting(self) -> Gauge:
        return Gauge("medray_waiting", METRICS["medray_waiting"])

    @cached_property
    def _unmoved(self) -> Gauge:
        return Gauge("medray_unmoved_records", METRICS["medray_unmoved_records"])

    @cached_property
    def _failures(self) -> Counter:
        return Counter("medray_record_failures", METRICS["medray_record_failures"])

    @cached_property
    def _drift_p(self) -> Gauge:
        return Gauge("medray_drift_p", METRICS["medray_drift_p"], (*MODEL, "family"))

    @cached_property
    def _drift_alarm(self) -> Gauge:
        return Gauge("medray_drift_alarm", METRICS["medray_drift_alarm"], MODEL)

    @cached_property
    def _drift_studies(self) -> Gauge:
        return Gauge("medray_drift_studies", METRICS["medray_drift_studies"], MODEL)


def _histogram(name: str, boundaries: tuple[float, ...], tags: tuple[str, ...]) -> Histogram:
    return Histogram(name, METRICS[name], list(boundaries), tags)
