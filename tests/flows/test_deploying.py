from __future__ import annotations

from datetime import timedelta

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import PrefectHTTPStatusError

from flows.deploying import PREFECT_FILE, deploy, job_environment, job_template
from tasks.health_checks import AUTOMATION, run_checks
from tasks.settings import Settings, load_settings

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def deployed(prefect_server, tmp_path_factory):
    """Deploy twice, with a schedule made in between as the UI makes it."""
    root = str(tmp_path_factory.mktemp("deployed") / "store")
    settings = Settings(root=root, gpu_slots=1, tracking_uri="http://user:secret@mlflow:5000")
    deploy(settings)
    with get_client(sync_client=True) as client:
        evolve = client.read_deployment_by_name("evolve/evolve")
        client.create_deployment_schedules(evolve.id, [(CronSchedule(cron="0 3 * * *"), True)])
    deploy(settings.model_copy(update={"work_pool_limit": 2, "gpu_slots": 3}))
    return settings


def test_deploying_again_changes_what_the_settings_changed_and_doubles_nothing(deployed):
    with get_client(sync_client=True) as client:
        assert client.read_work_pool("diverseevol").concurrency_limit == 2
        assert client.read_global_concurrency_limit_by_name("diverseevol-gpu").limit == 3
        (automation,) = client.read_automations_by_name(AUTOMATION)
        assert automation.trigger.within == timedelta(seconds=150)
        names = sorted(deployment.name for deployment in client.read_deployments())
    assert names == ["evaluate", "evolve", "export", "round"]


def test_a_schedule_made_in_the_ui_survives_a_deploy(deployed):
    with get_client(sync_client=True) as client:
        evolve = client.read_deployment_by_name("evolve/evolve")
    assert [schedule.schedule.cron for schedule in evolve.schedules] == ["0 3 * * *"]
    assert (evolve.global_concurrency_limit.limit, evolve.concurrency_options.collision_strategy.value) == (
        1,
        "ENQUEUE",
    )


def test_credentials_never_reach_the_server(deployed):
    with get_client(sync_client=True) as client:
        template = client.read_work_pool("diverseevol").base_job_template
    assert "secret" not in str(template)
    assert template["job_configuration"]["env"]["DIVERSEEVOL_ROOT"] == deployed.root


def test_the_run_form_offers_neither_commands_nor_environment_variables(deployed):
    template = job_template(job_environment(deployed, "block/name"))
    assert {"command", "env"} & template["variables"]["properties"].keys() == set()
    assert template["job_configuration"]["command"] is None
    assert template["job_configuration"]["env"]["DIVERSEEVOL_GPU_SLOTS"] == "1"


def schema_of(name):
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(name).parameter_openapi_schema


@pytest.mark.parametrize("name", ["evolve/evolve", "round/round", "evaluate/evaluate", "export/export"])
def test_every_field_of_every_form_has_a_description(deployed, name):
    schema = schema_of(name)
    for title, model in schema["definitions"].items():
        if title in {"ArtifactRef", "BaseModelRef", "PreparedRun"}:  # filled in by flows
            continue
        for field, content in model.get("properties", {}).items():
            assert content.get("description"), f"{title}.{field}"


BAD_PARAMETERS = [
    {"config": {"selection": {"strategy": "k_centre"}}},
    {"config": {"selection": {"budget": 0}}},
    {"config": {"selection": {"metric": "manhattan"}}},
    {"config": {"selection": {"bugdet": 3}}},
    {"config": {"training": {"learning_rate": "quick"}}},
    {"name": "../escape"},
]


@pytest.mark.parametrize("parameters", BAD_PARAMETERS, ids=str)
def test_a_bad_value_is_refused_before_a_run_is_made(deployed, parameters):
    with get_client(sync_client=True) as client:
        evolve = client.read_deployment_by_name("evolve/evolve")
        with pytest.raises(PrefectHTTPStatusError) as refusal:
            client.create_flow_run_from_deployment(evolve.id, parameters={"parameters": parameters})
    assert refusal.value.response.status_code in {409, 422}


def test_the_doctor_finds_a_deployed_server_sound_but_for_its_worker(deployed):
    settings = load_settings().model_copy(update={"gpu_slots": 3})
    found = {check.subject: check for check in run_checks(settings, None) if check.subject in {"worker", "deployments"}}
    assert found["deployments"].verdict == "ok"
    assert found["worker"].verdict == "bad"
    assert "prefect worker start --pool diverseevol" in found["worker"].way_out


def test_deployments_have_dotted_entry_points_no_pull_steps_and_no_schedules():
    content = yaml.safe_load(PREFECT_FILE.read_text())
    assert content["pull"] == []
    for deployment in content["deployments"]:
        assert "schedules" not in deployment
        assert ":" not in deployment["entrypoint"]
