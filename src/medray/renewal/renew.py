"""`renew`: from an occasion to a successor: labels in, a warm-started fit, both compared, what was forgotten, a proposal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from medray import config
from medray.annotation.export import export_labels
from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort, open_cohort
from medray.errors import InputError
from medray.inference.compare import MEAN, Comparison, compare, judged, promote_if_better
from medray.inference.evaluate import evaluate
from medray.inference.quality import trained_on
from medray.inference.reference import keep_baseline
from medray.preprocessing.prepare import prepare
from medray.registry.about import About
from medray.registry.card import ModelCard, card_from_run
from medray.registry.registry import Registry
from medray.registry.rollout import CHAMPION, SHADOW
from medray.registry.version import ModelVersion
from medray.renewal.occasion import RenewalRule, occasions
from medray.storage.location import Location
from medray.training.config import FitConfig
from medray.training.trainer import fit

__all__ = ["Renewal", "renew"]

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of a renewal.

    Attributes:
        champion: The version in use before.
        occasions: Why it was renewed; empty where nothing asked for it, and nothing was done.
        challenger: The successor; empty without.
        cohort: What it learned from.
        gained: How it compares on that cohort's test subjects; None without a successor.
        kept: How it compares on the test subjects of the cohort that the champion was trained on; None where that is the same,
            or no more.
        refused: Why it may not be champion; empty where it may.
        promoted: Whether it is.
    """

    champion: str
    occasions: tuple[str, ...]
    challenger: str = ""
    cohort: str = ""
    gained: Comparison | None = None
    kept: Comparison | None = None
    refused: tuple[str, ...] = ()
    promoted: bool = False

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        compared = {"gained": self.gained, "kept": self.kept}
        return {
            **asdict(replace(self, gained=None, kept=None)),
            **{name: found.plain() if found else None for name, found in compared.items()},
        }


def renew(  # noqa: PLR0913 - each is a word of the job's config
    name: str,
    root: Location,
    prepared: Location,
    records: Location,
    rule: RenewalRule,
    length: FitConfig,
    *,
    registry: Registry | None = None,
    workers: int | tuple[int, int] = 1,
    runs: str | None = None,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> Renewal:
    """Renew a model, if there is an occasion.

    The plan stays as it is: the successor begins with the champion's weights. It sees requests as a shadow until somebody
    promotes it, or the rule does. Called again after it was killed, it goes on where it was.

    Args:
        name: The model's.
        root: The cohort that it learns from.
        prepared: Folder for prepared cohorts, one for each version.
        records: Of predictions.
        rule: When, and what the successor must show.
        length: Of the fit.
        registry: The default one when None.
        workers: See `medray.fit`.
        runs: See `medray.fit`.
        on_progress: Called with the stage, how much of it is done, and of how much.

    Raises:
        NotFoundError: If there is no champion, or no cohort.
        InputError: If the champion is a MONAI Bundle, or the cohort has labels that it doesn't know.
    """
    store = registry or Registry()
    champion = store.resolve(f"{name}@{CHAMPION}")
    card = store.card(champion)
    plan = card.recipe()
    cohort = export_labels(root, project=rule.project, which=rule.which) if rule.project else open_cohort(root)
    why = tuple(occasions(rule, champion, card, cohort, records, store))
    if not why:
        return Renewal(str(champion), ())
    open_trail().record([Event("model.renew", str(champion), "begun", "; ".join(why))])
    if plan.maps and cohort.index.labels != plan.labels:
        raise InputError(f"cohort {cohort.index.id} has labels that {champion} doesn't know: plan and train a new model")
    ready = prepare(cohort, plan, prepared.join(cohort.index.id).path, on_progress=on_progress)
    run = fit(ready, length, name=name, workers=workers, runs=runs, start=store.fetch(champion))
    made = card_from_run(run, about=_about(card), plan=plan, start=str(champion))
    challenger = store.register(made, run.model)
    before = _refused_before(str(challenger), rule)
    if before:
        return Renewal(str(champion), why, str(challenger), cohort.index.id, refused=before)
    return _judged(champion, challenger, card, cohort, rule, why, store, on_progress)


def _judged(
    champion: ModelVersion,
    challenger: ModelVersion,
    card: ModelCard,
    cohort: Cohort,
    rule: RenewalRule,
    why: tuple[str, ...],
    store: Registry,
    on_progress: OnProgress,
) -> Renewal:
    """Compare the successor, keep what drift will be told by, propose or promote it."""
    new, old = str(challenger), str(champion)
    evaluate(new, cohort, registry=store, on_progress=on_progress)
    gained = compare(new, old, cohort, registry=store, on_progress=on_progress)
    kept = _kept(new, old, card, cohort, store)
    refused = [*judged(gained, rule.better), *_forgotten(kept, rule, card, cohort)]
    if _was(new, "model.promote", CHAMPION):
        refused.append(f"{new} was champion before, and was taken back: somebody has to look at it")
    keep_baseline(new, cohort, registry=store)
    known = _by(rule)
    if store.resolve(f"{champion.name}@{CHAMPION}").version != champion.version:
        refused.append(f"{old} isn't champion any more: somebody chose another one meanwhile")
        known = ""  # that may pass
    promoted = rule.promote and not refused
    told = f"after {old}: {'; '.join(refused) or 'better, and nothing forgotten'}{known}"
    open_trail().record([Event("model.propose", new, "refused" if refused else "ok", told)])
    if promoted:
        promote_if_better(gained, rule.better, why=f"renewed: {'; '.join(why)}", registry=store)
    elif not _was(new, "model.withdraw", SHADOW):
        store.promote(new, SHADOW, why=f"proposed: {'; '.join(why)}")
    return Renewal(old, why, new, cohort.index.id, gained, kept, tuple(refused), promoted)


def _refused_before(version: str, rule: RenewalRule) -> tuple[str, ...]:
    """Return why a version was refused by the same rule, on the same cohorts: nothing else would come out."""
    said = [event for event in open_trail().events(action="model.propose") if event.target == version]
    refused = bool(said) and said[-1].outcome == "refused" and said[-1].detail.endswith(_by(rule))
    return (f"it was refused before: {said[-1].detail}",) if refused else ()


def _by(rule: RenewalRule) -> str:
    """Return what tells rules apart in the audit trail."""
    return f" (rule {hashlib.sha256(json.dumps(config.dump(rule), sort_keys=True).encode()).hexdigest()[:8]})"


def _was(version: str, action: str, alias: str) -> bool:
    """Tell from the audit trail whether an alias of a version was ever moved."""
    return any(event.target == version and event.detail.startswith(alias) for event in open_trail().events(action=action))


def _kept(new: str, old: str, card: ModelCard, cohort: Cohort, store: Registry) -> Comparison | None:
    """Compare on what the champion was tested on before anything was new."""
    before = trained_on(card, cohort)
    if before is None or before.index.id == cohort.index.id:
        return None
    try:
        return compare(new, old, before, registry=store)
    except InputError:  # whom it was tested on was erased
        return None


def _forgotten(kept: Comparison | None, rule: RenewalRule, card: ModelCard, cohort: Cohort) -> list[str]:
    before = trained_on(card, cohort)
    if kept is None and (before is None or before.index.id != cohort.index.id):
        gone = card.lineage.get("cohort") or "unknown"
        return [f"what it has forgotten can't be measured: cohort version {gone}, or whom it was tested on, is no more"]
    if kept is None or kept.overall[MEAN].value >= -rule.forgotten:
        return []
    lost = -kept.overall[MEAN].value
    return [f"it has forgotten {lost:.3f} of {kept.measure} on cohort {kept.cohort}, and {rule.forgotten:g} is allowed"]


def _about(card: ModelCard) -> About:
    """Return what a person said of the champion, which is true of its successor."""
    return About(
        intended_use=card.intended_use,
        population=card.population,
        limitations=card.limitations,
        licence=card.licence,
        contact=card.contact,
    )
