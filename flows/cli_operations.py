"""Commands for whoever runs the product for others: deploy, doctor, gc."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.environment import prepare_environment

RootOption = Annotated[
    str | None,
    typer.Option(
        "--root",
        metavar="URI",
        help="Store: a folder or s3://bucket/prefix. [default: $DIVERSEEVOL_ROOT or .diverseevol/store]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class _Colour(StrEnum):
    ok = "green"
    note = "yellow"
    bad = "red"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(deploy)
    app.command()(doctor)
    app.command()(gc)


def deploy(root: RootOption = None) -> None:
    """Set up the configured Prefect server: work pool, limits, result storage, automation, deployments.

    Doing it again is harmless, and keeps schedules made in the UI.

    Example: `PREFECT_API_URL=http://127.0.0.1:4200/api diverseevol deploy --root s3://bucket/prefix`
    """
    prepare_environment(root)
    from diverseevol_core.errors import ConfigError
    from flows.deploying import deploy as set_up
    from flows.environment import is_embedded
    from tasks.settings import load_settings

    if is_embedded():
        raise ConfigError("no Prefect server is configured; set PREFECT_API_URL, or use diverseevol ui")
    for line in set_up(load_settings()):
        typer.echo(line)


def doctor(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="Also look for this run's pool and base model.")
    ] = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check versions, store, MLflow, Prefect and workers, and say what to do about what is wrong.

    Example: `diverseevol doctor deployments/configs/demo.yaml`
    """
    prepare_environment(root)
    from flows.config_files import load_config
    from tasks.health_checks import run_checks
    from tasks.settings import load_settings

    console = Console(soft_wrap=True, highlight=False)
    checks = []
    for check in run_checks(load_settings(), load_config(config) if config is not None else None):
        checks.append(check)
        if not as_json:
            console.print(f"[{_Colour[check.verdict].value}]{check.verdict:<5}[/]", end="")
            console.print(f"{check.subject:<12} {check.found}", markup=False)
            if check.way_out:
                console.print(f"{'':<17} -> {check.way_out}", markup=False)
    if as_json:
        typer.echo(json.dumps([check.model_dump() for check in checks], ensure_ascii=False))
    raise typer.Exit(int(any(check.verdict == "bad" for check in checks)))


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="HOURS", help="Leave younger work alone.")
    ] = 24.0,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what no run names any more, in the store and in this machine's scratch; remove it with --yes.

    A run that goes on names its artifacts when a round has finished: keep --older-than above the length of a round.

    Example: `diverseevol gc --older-than 48 --yes`
    """
    prepare_environment(root)
    from tasks.collect_orphans import find_garbage, remove_garbage
    from tasks.workspace import current_workspace

    workspace = current_workspace()
    garbage = find_garbage(workspace, older_than)
    entries = [(workspace.store.uri(orphan.path), orphan.bytes, orphan.reason) for orphan in garbage.orphans]
    entries += [(str(stale.path), stale.bytes, "stale scratch") for stale in garbage.scratch]
    if yes:
        remove_garbage(workspace, garbage)
    if as_json:
        listed = [{"place": place, "bytes": n_bytes, "reason": reason} for place, n_bytes, reason in entries]
        typer.echo(json.dumps({"removed": yes, "bytes": garbage.bytes, "found": listed}, ensure_ascii=False))
        return
    for place, n_bytes, reason in entries:
        typer.echo(f"{n_bytes:>14,}  {place}  ({reason})")
    verb = "removed" if yes else "would be removed with --yes"
    typer.echo(f"{len(entries)} place(s), {garbage.bytes:,} bytes {verb}")
