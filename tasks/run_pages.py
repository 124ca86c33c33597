"""What a run's pages in the Prefect UI show beside the states of its steps: tags, and a table of rounds with links.

Pages are for people: whatever goes wrong here is logged and never ends a run.
"""

from __future__ import annotations

import functools
import logging
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from diverseevol_core.config import RunConfig
from diverseevol_core.contracts import Interval, RoundRecord
from diverseevol_core.storage.runs import read_round
from tasks.evaluation_records import EvaluationRecord
from tasks.tracking import round_links
from tasks.workspace import current_workspace

logger = logging.getLogger(__name__)

Given = ParamSpec("Given")


def _never_fails(function: Callable[Given, None]) -> Callable[Given, None]:
    @functools.wraps(function)
    def guarded(*args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a page that cannot be written is no reason to stop computing
            logger.warning("%s: the run's page was not written: %s", function.__name__, error)

    return guarded


@_never_fails
def tag_flow_run(config: RunConfig) -> None:
    """Add arm, model and pool to the current flow run's tags, for the filters of the UI.

    Flow runs alone are tagged: a tagged task asks the server for a slot of every tag before it starts, and after a long
    step that request takes two seconds.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    tags = [*dict.fromkeys([*context.flow_run.tags, *_tags(config)])]
    with get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, tags=tags)


def _tags(config: RunConfig) -> list[str]:
    pool = posixpath.basename(config.pool.uri.partition("?")[0].rstrip("/"))
    model = posixpath.basename(config.model.name.rstrip("/"))
    return [f"arm:{config.selection.strategy}-seed{config.seed}", f"model:{model}", f"pool:{pool}"]


@_never_fails
def show_rounds(run: str, config: RunConfig, *, with_links: bool) -> None:
    """Write the run's table: one row a finished round, with links to MLflow.

    Args:
        run: the run's name; the table's key is made of it, so each writing is a new version of one table.
        config: the run's config.
        with_links: whether MLflow answers; one that does not would be waited for.
    """
    workspace = current_workspace()
    records = [read_round(workspace.store, run, number) for number in range(config.selection.rounds + 1)]
    finished = [record for record in records if record is not None]
    links = round_links(workspace, run, config) if with_links else {}
    create_table_artifact(
        key=f"rounds-{_key(run)}",
        table=round_rows(finished, links),
        description=f"Rounds of **{run}** in `{workspace.store.root}`; intervals are over held-out rows.",
    )


def round_rows(records: Sequence[RoundRecord], links: Mapping[int, str]) -> list[dict[str, Any]]:
    """Lay out rounds as rows of a table artifact.

    Args:
        records: finished rounds, in order.
        links: round -> address of its page in MLflow.

    Returns:
        One row a round; cells are text or numbers.
    """
    return [
        {
            "round": record.round,
            "selected": record.n_selected,
            "MLflow": f"[open]({links[record.round]})" if record.round in links else "n/a",
            "loss, nats/token": _interval(record.evaluation.loss_nats),
            "bits/byte": _interval(record.evaluation.bits_per_byte),
            "covering radius": _number(record.selection.covering_radius_after),
            "Vendi score": _number(record.diversity.selected.vendi if record.diversity else None),
            "seconds": round(sum(record.seconds.values()), 1),
            "finished": record.finished_at.isoformat(timespec="seconds"),
        }
        for record in records
    ]


@_never_fails
def show_evaluation(record: EvaluationRecord) -> None:
    """Write a table with the result of a later evaluation."""
    summary = record.summary
    create_table_artifact(
        key=f"evaluation-{_key(record.run)}-round-{record.round:02d}",
        table=[
            {
                "round": record.round,
                "loss, nats/token": _interval(summary.loss_nats),
                "perplexity": _interval(summary.perplexity),
                "bits/byte": _interval(summary.bits_per_byte),
                "held-out rows": summary.rows,
            }
        ],
        description=f"Evaluated with `{record.evaluation.model_dump_json()}`; stored as `{record.path}`.",
    )


@_never_fails
def show_link(run: str, name: str, uri: str) -> None:
    """Write where a file lies."""
    create_markdown_artifact(key=f"{name}-{_key(run)}", markdown=f"`{uri}`")


def _key(run: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", run).strip("-")


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
