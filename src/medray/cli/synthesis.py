"""Commands about synthetic images: synthesise, gain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medray import config
from medray.cli.output import Json, progress, show
from medray.errors import InputError

__all__ = ["gain", "synthesise"]


def synthesise(
    model: Annotated[str, typer.Argument(help="A generator: name, name@alias or name/version.")],
    prepared: Annotated[str, typer.Argument(help="What it was trained on, from medray prepare.")],
    target: Annotated[str, typer.Argument(help="Where the synthetic cohort goes: a folder or a URI.")],
    count: Annotated[int, typer.Option(help="How many images.")] = 50,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal images.")] = 0,
    gate_file: Annotated[Path | None, typer.Option("--gate", help="A .toml of Gate fields.")] = None,
    as_json: Json = False,
) -> None:
    """Make images with their label maps, and hold them against the real ones before anybody trains on them."""
    from medray.preprocessing.prepared import open_prepared
    from medray.synthesis.gate import Gate
    from medray.synthesis.synthesise import synthesise as run

    gate = config.load(Gate, config.read_file(gate_file), what=str(gate_file)) if gate_file else None
    with progress() as on_progress:
        made = run(model, open_prepared(prepared), target, count=count, seed=seed, gate=gate, on_progress=on_progress)
    found = made.judgement
    facts = {
        "cohort": made.cohort.index.id,
        "images": len(made.cohort.rows),
        "copies": len(found.copies),
        "passed": found.passed,
    }
    measured = {"mean_off": found.mean_off, "texture_off": found.texture_off, "discrepancy": found.discrepancy}
    near = {"among_real": found.among_real, "nearest": found.nearest, "nearest_real": found.nearest_real}
    show({**facts, **measured, **near}, as_json=as_json)
    if not found.passed:
        raise InputError(f"the gate refuses these images, and medray prepare won't take them: {'; '.join(found.why)}")


def gain(
    without: Annotated[str, typer.Argument(help="The real cohort, prepared.")],
    with_synthetic: Annotated[str, typer.Argument(metavar="WITH", help="The same, prepared with --synthetic.")],
    root: Annotated[str, typer.Argument(help="The real cohort.")],
    seeds: Annotated[int, typer.Option(help="Fits of each kind.")] = 5,
    config_file: Annotated[Path | None, typer.Option("--config", help="A .toml of FitConfig fields.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the file.")] = None,
    as_json: Json = False,
) -> None:
    """Say what synthetic images are worth: the same fits with and without them, on real test subjects."""
    from medray.cli.models import fit_config
    from medray.cohort.cohort import open_cohort
    from medray.preprocessing.prepared import open_prepared
    from medray.synthesis.gain import measure_gain

    chosen, sides = fit_config(config_file, changes), [open_prepared(place) for place in (without, with_synthetic)]
    with progress() as on_progress:
        done = 0

        def on_fit(side: str, seed: int, scores: object) -> None:
            nonlocal done
            done += 1
            on_progress("fits", done, 2 * seeds, f"{side}, seed {seed}: {scores}")

        found = measure_gain(sides[0], sides[1], open_cohort(root), chosen, seeds=seeds, on_fit=on_fit)
    show(found.plain(), as_json=as_json)
