"""What people do in web pages, done by a real browser: schedule, start, be refused, watch, retry, browse metrics."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

IMAGES = Path(__file__).parents[2] / "docs" / "images"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """Open a page in the system's Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; make e2e installs it")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed; as root: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1200, "height": 800})
        opened.set_default_timeout(30_000)
        yield opened
        browser.close()


def shoot(page: Any, name: str) -> None:
    """Keep a picture for the documentation, once the page has settled; only when UPDATE_IMAGES is set."""
    if "UPDATE_IMAGES" not in os.environ:
        return
    page.wait_for_timeout(1500)
    IMAGES.mkdir(exist_ok=True)
    page.screenshot(path=IMAGES / f"{name}.png")


def open_form(page: Any, stack: Any, deployment: str) -> None:
    """Come to the run form as people do, from the deployment's page."""
    page.goto(f"{stack.web}/deployments")
    page.get_by_role("link", name=deployment, exact=True).first.wait_for()
    found = stack.api(f"/deployments/name/{deployment}/{deployment}")
    page.locator(f"a[href$='/deployments/deployment/{found['id']}']").first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").or_(page.get_by_role("button", name="Submit")).first.wait_for()
    if page.get_by_text("Custom run").is_visible():
        page.get_by_text("Custom run").click()
    page.get_by_role("button", name="Submit").wait_for()


def field(page: Any, title: str) -> Any:
    """Find the input that follows a field's title."""
    return page.get_by_text(title, exact=True).first.locator("xpath=following::*[self::input or self::textarea][1]")


def give_json(page: Any, parameters: dict[str, Any]) -> None:
    """Give all parameters at once, through the form's own JSON input."""
    page.get_by_text("Parameters", exact=True).locator("xpath=following::button[1]").click()
    page.get_by_text("Use JSON input").click()
    page.locator("textarea").first.fill(json.dumps({"parameters": parameters}))


def submitted(page: Any, stack: Any, deployment: str) -> str:
    """Press Submit and give the id of the run that was made."""
    found = stack.api(f"/deployments/name/{deployment}/{deployment}")["id"]
    own = {"deployments": {"id": {"any_": [found]}}, "sort": "START_TIME_DESC"}
    before = {run["id"] for run in stack.api("/flow_runs/filter", own)}
    page.get_by_role("button", name="Submit").click()
    made = stack.wait(lambda: {run["id"] for run in stack.api("/flow_runs/filter", own)} - before, 30, "a new run")
    return str(made.pop())


def test_the_form_shows_defaults_choices_and_help_and_refuses_a_bad_value(page, stack):
    open_form(page, stack, "evolve")
    shoot(page, "form")
    assert field(page, "Uri (Optional)").input_value() == "demo://task-families?rows=1000&seed=7"
    page.get_by_text("Strategy (Optional)", exact=True).scroll_into_view_if_needed()
    assert page.get_by_text("Samples added by each later round.").count() == 1
    shoot(page, "form-selection")
    field(page, "Budget (Optional)").fill("0")
    page.get_by_role("button", name="Submit").click()
    refusal = page.get_by_text("parameters.config.selection.budget").first
    refusal.wait_for()
    assert "0 is less than the minimum of 1" in refusal.inner_text()
    shoot(page, "form-refused")
    assert page.url.split("?")[0].endswith("/run")


def test_a_run_started_from_the_form_ends_with_a_table_that_leads_to_mlflow(page, stack, make_parameters):
    open_form(page, stack, "evolve")
    give_json(page, make_parameters("from-form", rounds=2))
    run_id = submitted(page, stack, "evolve")
    stack.finish(run_id)
    page.goto(f"{stack.web}/runs/flow-run/{run_id}")
    page.get_by_text("Completed").first.wait_for()
    for tag in ("arm:k_center-seed0", "model:tiny", "pool:task-families"):
        page.get_by_text(tag).first.wait_for()
    shoot(page, "run-finished")
    page.get_by_text("stored artifacts/pools").or_(page.get_by_text("stored pools/")).first.wait_for()

    page.goto(f"{stack.web}/artifacts/key/rounds-from-form")
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    links = page.locator("a[href*='workflowType=machine_learning']")
    links.first.wait_for()
    assert links.count() == 3
    shoot(page, "rounds-table")

    page.goto(links.nth(1).get_attribute("href"))
    page.get_by_text("from-form round 01").first.wait_for()
    shoot(page, "mlflow-round")
    page.get_by_role("link", name="from-form", exact=True).click()
    page.get_by_text("Model metrics").click()
    page.get_by_placeholder("Search metric charts").fill("eval/")
    page.get_by_text(re.compile("loss_nats")).first.wait_for()
    shoot(page, "mlflow-curves")


def test_a_schedule_made_in_the_page_survives_a_deploy(page, stack):
    found = stack.api("/deployments/name/round/round")
    page.goto(f"{stack.web}/deployments/deployment/{found['id']}")
    page.get_by_role("button", name="Schedule").click()
    page.get_by_text("Cron", exact=True).click()
    field(page, "Value").fill("0 3 * * *")
    shoot(page, "schedule")
    page.get_by_role("button", name="Save").click()
    page.get_by_text(re.compile("At 03:00")).first.wait_for()
    shoot(page, "scheduled")
    before = stack.wait(lambda: stack.api(f"/deployments/{found['id']}/schedules"), 20, "the schedule is saved")
    stack.deploy()
    assert [one["schedule"] for one in stack.api(f"/deployments/{found['id']}/schedules")] == [
        one["schedule"] for one in before
    ]
    assert len(before) == 1


def test_retry_of_a_failed_run_finishes_exactly_what_was_missing(
    page, stack, make_parameters, tiny_model, tmp_path, undisturbed
):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    # Training of its own: what another test's run has trained would be reused, and the model not be missed.
    parameters = make_parameters("retried", rounds=1, model={"name": str(model)}, training={"epochs": 2})
    run_id = stack.start_run("evolve", parameters)
    stack.wait_for_file("runs/retried/round=00/manifest.json")
    model.rename(tmp_path / "gone")  # round 1 embeds with round 0's checkpoint, and then misses the base model
    assert stack.wait_for_state(run_id, {"FAILED", "COMPLETED"}) == "FAILED"
    done = {path: path.stat().st_mtime_ns for path in stack.root.glob("**/manifest.json")}
    page.goto(f"{stack.web}/runs/flow-run/{run_id}")
    page.get_by_text("Failed").first.wait_for()
    shoot(page, "run-failed")

    (tmp_path / "gone").rename(model)
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    stack.wait_for_state(run_id, {"COMPLETED"})
    page.reload()
    page.get_by_text("Completed").first.wait_for()
    shoot(page, "run-retried")
    states = stack.tasks_of(run_id)
    assert ("embed", "Cached") in states
    assert ("select", "Cached") in states
    assert {path: path.stat().st_mtime_ns for path in done} == done
    rounds = stack.api("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}})
    retried = next(run for run in rounds if run["name"] == "retried round 01" and run["state"]["type"] == "COMPLETED")
    page.goto(f"{stack.web}/runs/flow-run/{retried['id']}")
    page.get_by_text("Task Runs", exact=True).first.click()
    page.get_by_text("Cached").first.wait_for()
    shoot(page, "round-cached")
    assert stack.selected_ids("retried") == undisturbed(parameters)


def test_the_other_deployments_work_from_their_forms(page, stack, make_parameters):
    if not (stack.root / "runs" / "from-form").exists():
        stack.finish(stack.start_run("evolve", make_parameters("from-form", rounds=2)))
    open_form(page, stack, "export")
    field(page, "Name").fill("from-form")
    page.get_by_text("Round (Optional)", exact=True).scroll_into_view_if_needed()
    shoot(page, "export-form")
    stack.finish(submitted(page, stack, "export"))
    exported = stack.root / "exports" / "from-form" / "round=00" / "selected.jsonl"
    assert len(exported.read_text().splitlines()) == 6

    evaluation = {"bootstrap_resamples": 500, "confidence": 0.9}
    stack.finish(stack.start_run("evaluate", {"name": "from-form", "round": 2, "evaluation": evaluation}))
    assert len(list(stack.root.glob("runs/from-form/round=02/evaluations/*.json"))) == 1

    again = make_parameters("from-form", rounds=2) | {"round": 2}
    run_id = stack.start_run("round", again)
    stack.finish(run_id)
    assert {state for name, state in stack.tasks_of(run_id) if name in {"train", "embed", "evaluate"}} == {"Cached"}
