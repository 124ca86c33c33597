"""The export flow: a finished round's selection as a file below the store's root."""

from __future__ import annotations

from prefect import flow

from flows.logging_setup import show_own_logs
from flows.parameters import ExportParameters
from tasks.export_to_store import export_to_store
from tasks.run_pages import show_link


@flow(name="export", flow_run_name="{parameters.name} round {parameters.round} as {parameters.format}")
def export_selection(parameters: ExportParameters) -> str:
    """Write a round's selected samples to `exports/<run>/round=NN/` in the store.

    Returns:
        The file's address.

    Raises:
        ConfigError: there is no such run, or the round is not finished.
    """
    show_own_logs()
    uri = export_to_store(parameters.name, parameters.round, parameters.format)
    show_link(parameters.name, f"export-round-{parameters.round:02d}", uri)
    return uri
