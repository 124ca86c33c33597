from __future__ import annotations

import re
import time

import pytest

from tasks import progress as module
from tasks.progress import Pace, progress


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "_PAGE_SECONDS", 0.2)


def artifacts_of(flow_run_id):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    with get_client(sync_client=True) as client:
        return client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        )


def test_work_outside_a_task_run_is_counted_without_a_page():
    with progress("embedding", 10, "rows") as show:
        show(5)
        show(10, 10)


def test_the_time_left_is_told_by_tokens_and_from_the_first_look_on(monkeypatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    pace = Pace("rows", 1000, 90_000)
    assert pace.words() == []
    pace.show(200, tokens=30_000)
    assert pace.words() == [], "one look gives no rate"
    pace.show(600, tokens=70_000)
    assert pace.words() == ["40 rows/s", "4,000 tokens/s", "0:00:05 left"]


def test_without_tokens_the_time_left_is_told_by_units(monkeypatch):
    clock = iter([0.0, 8.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    pace = Pace("steps", None, None)
    pace.show(1, 9)
    pace.show(5, 9)
    assert pace.words() == ["0.5 steps/s", "0:00:08 left"]


def test_long_work_keeps_a_bar_in_its_page_whose_last_word_is_the_end(prefect_server, quick):
    from prefect import flow, task

    @task
    def work():
        with progress("training", None, "steps") as show:
            for done in range(1, 11):
                show(done, 10)
                time.sleep(0.1)

    @flow
    def run():
        work()

    state = run(return_state=True)
    (artifact,) = artifacts_of(state.state_details.flow_run_id)
    assert (artifact.type, artifact.data) == ("progress", 100.0)
    assert re.fullmatch(r"training: 10 of 10 steps, \d+(\.\d)? steps/s, 0:00:00 left", artifact.description)


def test_a_server_that_does_not_answer_neither_fails_nor_delays_the_work(prefect_server, quick):
    from prefect import flow, task
    from prefect.settings import PREFECT_API_URL, temporary_settings

    @task
    def work():
        started = time.monotonic()
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), progress("training", 3, "steps") as show:
            for done in range(3):
                show(done)
                time.sleep(0.3)
        return time.monotonic() - started

    @flow
    def run():
        return work()

    assert run() < 3.5
