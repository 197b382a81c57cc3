"""Commands about registered models: what there is, which is in use, how one comes and goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medray import config
from medray.cli.models import Model
from medray.cli.output import Json, progress, show
from medray.errors import ConfigError

if TYPE_CHECKING:
    from medray.inference.compare import Rule
    from medray.registry.rollout import Canary

__all__ = ["models_app"]

models_app = typer.Typer(help="Look at registered models, put them in use and take them back.", no_args_is_help=True)

Why = Annotated[str, typer.Option(help="For the audit trail; nothing of a patient.")]
Root = Annotated[
    str, typer.Option("--cohort", metavar="ROOT", help="A cohort with a test split that neither version has seen.")
]
RuleFile = Annotated[Path | None, typer.Option("--rule", help="A .toml of Rule fields: gain, group_loss, patients …")]


@models_app.command("list")
def list_models(as_json: Json = False) -> None:
    """List models and their versions."""
    from medray.registry.registry import Registry

    store = Registry()
    rows = [
        {"model": str(version), "aliases": list(version.aliases)} for name in store.names() for version in store.versions(name)
    ]
    show({"models": rows}, as_json=as_json)


@models_app.command("show")
def show_model(model: Model, as_json: Json = False) -> None:
    """Show a model's card."""
    from medray.registry.registry import Registry

    show(config.dump(Registry().card(model)), as_json=as_json)


@models_app.command("card")
def card(
    model: Model,
    out: Annotated[str, typer.Option("-o", "--out", help="The page to write: a path or a URI.")],
    as_json: Json = False,
) -> None:
    """Write a model's card as one HTML page, with its scores on each cohort that it was evaluated on."""
    from medray.inference.baseline import read_reference
    from medray.inference.card_page import card_page
    from medray.registry.registry import Registry
    from medray.storage.location import locate

    store = Registry()
    version = store.resolve(model)
    reference = read_reference(version, store) or ()
    locate(out).write(card_page(version, store.card(version), store.beside(version).evaluations(), reference).encode())
    show({"model": str(version), "page": out}, as_json=as_json)


@models_app.command("compare")
def compare(
    challenger: Model,
    root: Root,
    champion: Annotated[str, typer.Option(help="The other version; the model's champion by default.")] = "",
    rule_file: RuleFile = None,
    as_json: Json = False,
) -> None:
    """Score two versions on the same test images, and say whether the rule lets the first replace the second."""
    from medray.inference.compare import judged

    rule = _rule(rule_file)
    found = _compared(challenger, champion, root)
    show({**found.plain(), "refused_because": judged(found, rule)}, as_json=as_json)


@models_app.command("promote")
def promote(
    model: Model,
    alias: Annotated[str, typer.Option(help="Which alias to move.")] = "champion",
    canary: Annotated[str, typer.Option(metavar="SHARE", help="As challenger: the share of requests it answers, as 10%.")] = "",
    canary_file: Annotated[
        Path | None, typer.Option("--canary-config", help="A .toml of Canary fields: what it may do.")
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="As shadow: it answers a copy of requests, and nobody sees it.")
    ] = False,
    root: Root = "",
    rule_file: RuleFile = None,
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Put a version in use; with --cohort only if it is better there than the champion, by --rule."""
    from medray.registry.registry import Registry

    store = Registry()
    if root and (canary or shadow or canary_file or alias != "champion"):
        raise ConfigError("--cohort asks whether a version may be champion: leave --alias, --canary and --shadow out")
    if rule_file and not root:
        raise ConfigError("--rule says what a version must show on a cohort: name it with --cohort")
    if sum((bool(canary or canary_file), shadow, alias != "champion")) > 1:
        raise ConfigError("a version becomes one thing at a time: give one of --canary, --shadow and --alias")
    if canary or canary_file:
        version = store.challenge(model, _canary(canary, canary_file), why=why)
    elif root:
        from medray.inference.compare import promote_if_better

        rule = _rule(rule_file)
        promote_if_better(_compared(model, "", root), rule, why=why, registry=store)
        version = store.resolve(model)
    else:
        version = store.promote(model, "shadow" if shadow else alias, why=why)
    show({"model": str(version), "aliases": list(version.aliases)}, as_json=as_json)


@models_app.command("rollback")
def rollback(
    name: Annotated[str, typer.Argument(help="A model's name.")],
    alias: Annotated[str, typer.Option(help="Which alias to move back.")] = "champion",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Go back to the version that was in use before."""
    from medray.registry.registry import Registry

    version = Registry().rollback(name, alias, why=why)
    show({"model": str(version), "aliases": list(version.aliases)}, as_json=as_json)


@models_app.command("withdraw")
def withdraw(
    model: Model,
    alias: Annotated[str, typer.Option(help="Which alias to take from it.")] = "challenger",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """End a canary, a shadow or any other alias of a version."""
    from medray.registry.registry import Registry

    store = Registry()
    store.withdraw(model, alias, why=why)
    version = store.resolve(model)
    show({"model": str(version), "aliases": list(version.aliases)}, as_json=as_json)


@models_app.command("delete")
def delete(model: Model, why: Why = "", as_json: Json = False) -> None:
    """Delete a version that no alias names and no endpoint serves."""
    from medray.registry.registry import Registry

    show({"deleted": str(Registry().delete(model, why=why))}, as_json=as_json)


@models_app.command("export")
def export(
    model: Model, target: Annotated[str, typer.Argument(help="The .zip to write: a path or a URI.")], as_json: Json = False
) -> None:
    """Write a version with its card and evaluations as one signed archive."""
    from medray.registry.archive import export_version
    from medray.registry.signing import public_key

    show({"model": str(export_version(model, target)), "archive": target, "signer": public_key()}, as_json=as_json)


@models_app.command("import")
def import_archive(
    source: Annotated[str, typer.Argument(help="An archive of medray models export: a path or a URI.")],
    signer: Annotated[str, typer.Option(help="Its sender's public key, by medray models key; one's own by default.")] = "",
    name: Annotated[str, typer.Option(help="The model's name; the archive's own by default.")] = "",
    trust: Annotated[bool, typer.Option("--trust", help="Run code that a MONAI Bundle inside may have.")] = False,
    as_json: Json = False,
) -> None:
    """Register a signed archive as a model's next version."""
    from medray.registry.archive import import_version

    show({"model": str(import_version(source, signer=signer, name=name, trust=trust))}, as_json=as_json)


@models_app.command("key")
def key(as_json: Json = False) -> None:
    """Print the public key by which others check the archives that are exported here."""
    from medray.registry.signing import public_key

    show({"signer": public_key()}, as_json=as_json)


@models_app.command("import-bundle")
def import_bundle(
    folder: Annotated[Path, typer.Argument(help="A MONAI Bundle, unpacked.")],
    name: Annotated[str, typer.Option(help="The model's name; the bundle's own by default.")] = "",
    trust: Annotated[
        bool, typer.Option("--trust", help="Run its code, here and where it is served, and read pickles.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Register a MONAI Bundle as a model's next version."""
    from medray.registry.bundles import import_bundle as run

    version = run(folder, name=name, trust=trust)
    show({"model": str(version)}, as_json=as_json)


def _canary(share: str, file: Path | None) -> Canary:
    """Read what a challenger may do; a share on the command line stands over the file's."""
    from medray.registry.rollout import Canary

    chosen = config.load_file(Canary, file, option="--canary")
    if not share:
        return chosen
    try:
        part = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise ConfigError(f"--canary {share}: give a share of the requests, as 10% or 0.1")
    return replace(chosen, share=part)


def _rule(file: Path | None) -> Rule:
    from medray.inference.compare import Rule

    return config.load_file(Rule, file, option="--rule")


def _compared(challenger: str, champion: str, root: str) -> Any:
    from medray.cohort.cohort import open_cohort
    from medray.inference.compare import compare as run
    from medray.registry.registry import Registry

    store = Registry()
    other = champion or f"{store.resolve(challenger).name}@champion"
    with progress() as on_progress:
        return run(challenger, other, open_cohort(root), registry=store, on_progress=on_progress)
