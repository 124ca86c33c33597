"""The `diverseevol` command: run, plan, look at, export and serve evolutions, or select from any embeddings.

Commands import what they need when they run: listing rounds does not wait for torch or Prefect.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from diverseevol_core.errors import ConfigError, DiverseEvolError
from flows.cli_operations import RootOption, register
from flows.environment import prepare_environment

app = typer.Typer(
    name="diverseevol",
    help="A language model picks its own instruction data in rounds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Run config; see deployments/configs.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change one setting, such as selection.budget=50."),
]
NameOption = Annotated[str | None, typer.Option("--name", help="Run name. [default: config file name and fingerprint]")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs; everything else goes to stderr.")]


class Format(StrEnum):
    """Formats of an export."""

    ALPACA = "alpaca"
    JSONL = "jsonl"
    MESSAGES = "messages"
    PARQUET = "parquet"


@app.callback()
def options(
    context: typer.Context, debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False
) -> None:
    """Take the options that every command has."""
    context.obj = debug


@app.command()
def run(
    context: typer.Context,
    config: ConfigArgument,
    set_: SetOption = None,
    root: RootOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run all rounds of an evolution; whatever was finished before is reused.

    Example: `diverseevol run deployments/configs/demo.yaml --set selection.budget=50 --name demo-50`
    """
    started = time.perf_counter()
    prepare_environment(root)
    from flows.config_files import load_config
    from flows.parameters import EvolveParameters
    from flows.presenting import next_commands, rounds_tables

    run_config = load_config(config, set_ or [])
    parameters = EvolveParameters(name=_run_name(name, config, run_config.fingerprint), config=run_config)
    from flows.evolve import evolve
    from flows.logging_setup import show_errors_as_one_line, show_own_logs
    from tasks.export_selection import find_rounds
    from tasks.workspace import current_workspace

    show_own_logs()
    if not context.obj:
        show_errors_as_one_line()
    console = Console(stderr=as_json)
    result = evolve(parameters)
    workspace = current_workspace()
    records = find_rounds(workspace, parameters.run)
    console.print(*rounds_tables(records), sep="\n")
    console.print(next_commands(parameters.run, workspace.settings, records[-1]), soft_wrap=True, highlight=False)
    if as_json:
        seconds = round(time.perf_counter() - started, 1)
        _print_json({**result, "root": workspace.store.root, "seconds": seconds})


@app.command()
def plan(
    config: ConfigArgument,
    set_: SetOption = None,
    root: RootOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a run without computing it: rows, tokens, steps, and what they will cost on this machine.

    Example: `diverseevol plan deployments/configs/demo.yaml`
    """
    prepare_environment(root)
    from flows.config_files import load_config
    from flows.presenting import plan_tables
    from tasks.plan_run import plan_run
    from tasks.workspace import current_workspace

    run_config = load_config(config, set_ or [])
    planned = plan_run(current_workspace(), run_config, _run_name(name, config, run_config.fingerprint))
    if as_json:
        _print_json(planned.model_dump(mode="json") | {"seconds": round(planned.seconds, 1)})
        return
    console = Console()
    for table in plan_tables(planned):
        console.print(table)
    console.print(f"about {planned.seconds / 60:.1f} minutes of model work; the first sample, trained tokens in ⟦⟧:")
    console.print(escape(planned.example), style="dim", highlight=False)


@app.command()
def rounds(
    run: Annotated[str, typer.Argument(help="Run name.")], root: RootOption = None, as_json: JsonOption = False
) -> None:
    """Show what each round of a run selected, its metrics, its state and where its artifacts lie.

    Example: `diverseevol rounds demo --json`
    """
    prepare_environment(root)
    from flows.presenting import round_places, rounds_tables
    from tasks.round_states import round_states
    from tasks.workspace import current_workspace

    workspace = current_workspace()
    states = round_states(workspace, run)
    if as_json:
        _print_json([state.model_dump(mode="json") for state in states])
        return
    console = Console()
    console.print(*rounds_tables([state.record for state in states if state.record is not None]), sep="\n")
    console.print(round_places(states))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Run name.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; a folder with --published-layout.")],
    round_: Annotated[int, typer.Option("--round", min=0, help="Which round's selection.")] = 0,
    format_: Annotated[Format, typer.Option("--format", help="Format of the file.")] = Format.JSONL,
    published_layout: Annotated[
        bool, typer.Option("--published-layout", help="Write data/rd_N_labeled.json and data/rd_N_unlabeled.json.")
    ] = False,
    root: RootOption = None,
) -> None:
    """Write the samples that a round selected, in pick order, with their original fields.

    Example: `diverseevol export demo --round 3 --format alpaca --out selected.json`
    """
    prepare_environment(root)
    from tasks.export_selection import export_published, export_round, find_round
    from tasks.workspace import current_workspace

    workspace = current_workspace()
    record = find_round(workspace, run, round_)
    if published_layout:
        for path in export_published(workspace, record, out):
            typer.echo(f"wrote {path}")
        return
    n_rows = export_round(workspace, record, format_.value, out)
    typer.echo(f"wrote {n_rows} samples to {out}")


@app.command()
def select(
    embeddings: Annotated[
        str, typer.Option("--embeddings", metavar="PATH_OR_URI", help="Parquet file, folder or glob.")
    ],
    selected: Annotated[
        Path, typer.Option("--selected", metavar="IDS.txt", help="Rows or sample_ids selected already.")
    ],
    budget: Annotated[int, typer.Option("--budget", min=0, help="Rows to add.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.parquet", help="Where the picks go.")],
    strategy: Annotated[str, typer.Option("--strategy", help="Query strategy.")] = "k_center",
    metric: Annotated[str, typer.Option("--metric", help="euclidean or cosine.")] = "euclidean",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of random choices.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Select from any table of embeddings, without anything else of this project.

    Example: `diverseevol select --embeddings vectors.parquet --selected start.txt --budget 1000 --out picks.parquet`
    """
    from diverseevol_core.data.embedding_table import ParquetEmbeddings
    from diverseevol_core.selection.registry import make_strategy
    from diverseevol_core.selection.strategy import SelectionOptions
    from tasks.progress import progress
    from tasks.select_standalone import local_parts, read_rows, select_rows, write_picks
    from tasks.settings import load_settings

    started = time.perf_counter()
    settings = load_settings()
    options = SelectionOptions(metric=metric, memory_budget_bytes=settings.memory_budget_bytes)  # type: ignore[arg-type]
    make_strategy(strategy, options)
    parts = local_parts(embeddings, settings.scratch_folder / "select")
    n_pool = ParquetEmbeddings(parts).n_pool
    rows = read_rows(selected, parts, n_pool)
    with progress("selecting", budget, "rows") as show:
        picks = select_rows(
            parts, rows, strategy=strategy, budget=budget, seed=seed, options=options,
            on_step=lambda done, _: show(done),
        )  # fmt: skip
    write_picks(picks, parts, rows.size, out)
    seconds = time.perf_counter() - started
    report = {
        "n_pool": n_pool,
        "n_added": len(picks.pool_rows),
        "covering_radius_before": picks.covering_radius_before,
        "covering_radius_after": picks.covering_radius_after,
        "rows_refreshed": picks.work.rows_refreshed,
        "passes": picks.work.passes,
        "seconds": round(seconds, 3),
    }
    if as_json:
        _print_json(report)
        return
    typer.echo("\n".join(f"{name}: {value}" for name, value in report.items()))
    typer.echo(f"wrote {out}")


@app.command()
def ui(
    prefect_port: Annotated[int, typer.Option("--prefect-port", help="Port of Prefect.")] = 4200,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Port of MLflow.")] = 5000,
    root: RootOption = None,
) -> None:
    """Serve Prefect, MLflow and a worker on this machine alone, until Ctrl-C.

    Example: `diverseevol ui`
    """
    prepare_environment(root)
    from flows.serving import serve

    raise typer.Exit(serve(prefect_port=prefect_port, mlflow_port=mlflow_port))


register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an expected error is one line on stderr and exit status 1.

    Args:
        arguments: words after the program's name; None takes those of the process. `--debug` may stand anywhere.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app(["--debug", *words] if is_debug else words, prog_name="diverseevol")
    except KeyboardInterrupt:
        stderr.print("interrupted; the same command goes on where it stopped")
        sys.exit(130)
    except Exception as error:
        if is_debug:
            raise
        what = str(error) if isinstance(error, DiverseEvolError) else f"unexpected {type(error).__name__}: {error}"
        hint = "" if isinstance(error, DiverseEvolError) else "; run it again with --debug to see where"
        stderr.print(f"[bold red]error:[/] {escape(what)}{hint}")
        sys.exit(1)


def _run_name(name: str | None, config: Path, fingerprint: str) -> str:
    from diverseevol_core.keys import checked_slug

    if name is not None:
        return checked_slug(name, "--name")
    stem = config.stem.lower().replace("_", "-").replace(" ", "-")[:50]
    try:
        return checked_slug(f"{stem}-{fingerprint[:8]}", "run name made of the config's file name")
    except ConfigError as error:
        raise ConfigError(f"{error}; or give --name") from error


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


if __name__ == "__main__":
    main()
