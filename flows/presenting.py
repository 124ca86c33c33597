"""What the command line shows of runs, rounds and plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from diverseevol_core.contracts import DiversitySummary, Interval, RoundRecord
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.plan_run import Plan
    from tasks.round_states import RoundState

_SECONDS_COLUMNS = (
    ("embeddings", "embed"),
    ("selection", "select"),
    ("checkpoint", "train"),
    ("evaluation", "evaluate"),
    ("diversity", "diversity"),
)


def rounds_tables(records: Sequence[RoundRecord]) -> list[Table]:
    """Lay out finished rounds, one row each, in tables that fit 80 columns.

    Args:
        records: rounds of one run, in order.

    Returns:
        Sizes and held-out likelihood with intervals; diversity beside random selections of the same size; seconds.
    """
    quality = _table("Held-out likelihood, with 95 % intervals over rows", "selected", "loss, nats/token", "bits/byte")
    diversity = _table(
        "Diversity; in brackets the mean of random selections of the same size",
        "selected", "Vendi score", "covering radius", "families",
    )  # fmt: skip
    seconds = _table("Seconds a step took when it was computed", *(title for _, title in _SECONDS_COLUMNS))
    for record in records:
        number, size = str(record.round), str(record.n_selected)
        evaluation = record.evaluation
        quality.add_row(number, size, _interval(evaluation.loss_nats, 3), _interval(evaluation.bits_per_byte, 3))
        seconds.add_row(number, *(_seconds(record.seconds.get(name)) for name, _ in _SECONDS_COLUMNS))
        if record.diversity is not None:
            diversity.add_row(number, size, *_diversity_cells(record.diversity))
    return [table for table in (quality, diversity, seconds) if table.row_count]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("round", *columns):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _diversity_cells(diversity: DiversitySummary) -> list[str]:
    chosen = diversity.selected
    return [
        _beside(chosen.vendi, diversity.random_vendi, 3),
        _beside(chosen.covering.max if chosen.covering else None, diversity.random_covering_radius, 2),
        _beside(chosen.n_sources, diversity.random_n_sources, 0),
    ]


def _interval(interval: Interval, digits: int) -> str:
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _beside(value: float | None, twin: Interval | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f} ({twin.value:.{max(digits, 1)}f})" if twin is not None else f"{value:.{digits}f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def plan_tables(plan: Plan) -> list[Table]:
    """Lay out a plan: the pool, then the steps with their estimated cost."""
    pool = Table(title="Pool", title_justify="left", show_header=False)
    for name, value in _pool_lines(plan):
        pool.add_row(name, value)
    steps = Table(title="Steps, estimated for this machine", title_justify="left")
    for title in ("step", "times", "seconds each", "memory", "bytes written each"):
        steps.add_column(title, justify="left" if title == "step" else "right")
    for step in plan.steps:
        steps.add_row(
            step.step, str(step.times), f"{step.seconds_each:.1f}", _size(step.memory_bytes), _size(step.written_bytes)
        )
    return [pool, steps]


def _pool_lines(plan: Plan) -> list[tuple[str, str]]:
    pool = plan.pool
    reasons = ", ".join(f"{count} {reason}" for reason, count in pool.quarantined_by_reason.items()) or "none"
    return [
        ("rows read", str(pool.n_read_rows)),
        ("in the pool", str(pool.n_pool_rows)),
        ("held out", str(pool.n_holdout_rows)),
        ("exact duplicates dropped", str(pool.n_duplicate_rows)),
        ("left out by pool.limit", str(pool.n_limited_rows)),
        ("rejected", f"{pool.n_quarantined_rows} ({reasons})"),
        ("answers cut at max_tokens", str(pool.n_truncated_rows)),
        ("format, template", f"{pool.format}, {pool.template}"),
        (
            "tokens a sample",
            (
                f"min {pool.tokens.min}, mean {pool.tokens.mean:.1f}, p50 {pool.tokens.p50:.0f}, "
                f"p95 {pool.tokens.p95:.0f}, max {pool.tokens.max}; {pool.tokens.total} in all"
            ),
        ),
        ("rounds", f"{plan.n_models} models; {plan.n_selected} samples selected in the end"),
    ]


def _size(n_bytes: int) -> str:
    size = float(n_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def round_places(states: Sequence[RoundState]) -> Table:
    """Lay out the state of each round and where its artifacts lie."""
    table = Table(title="States and places", title_justify="left")
    for title in ("round", "state", "artifact", "place"):
        table.add_column(title, overflow="fold")
    for state in states:
        note = f"{state.state}: {', '.join(state.missing)} gone" if state.missing else state.state
        places = list(state.uris.items()) or [("-", "-")]
        for position, (name, uri) in enumerate(places):
            first = position == 0
            table.add_row(str(state.round) if first else "", note if first else "", name, uri)
    return table


def next_commands(run: str, settings: Settings, last: RoundRecord) -> str:
    """Name the commands that look further into a finished run."""
    root = "" if settings.root == Settings.model_fields["root"].default else f" --root {settings.root}"
    return "\n".join(
        (
            "",
            "Look further:",
            f"  diverseevol rounds {run}{root}",
            f"  diverseevol export {run} --round {last.round} --out selected.jsonl{root}",
            f"  diverseevol ui{root}      Prefect and MLflow in the browser",
            "One run of one seed shows that everything works; it says nothing about gain.",
        )
    )
