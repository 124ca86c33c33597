from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from diverseevol_core.config import RunConfig
from flows.config_files import load_config

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])


def generator():
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_in_step_with_the_code():
    stale = [path.name for path, text in generator().generated() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "deployments/configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_example_config_is_valid(path):
    assert isinstance(load_config(path), RunConfig)


def test_the_reference_config_is_the_published_one():
    config = load_config(REPOSITORY / "deployments/configs/reference.yaml")
    assert config.model_copy(update={"pool": RunConfig().pool, "model": RunConfig().model}) == RunConfig()
    training, selection = config.training, config.selection
    assert (training.epochs, training.learning_rate, training.global_batch_size) == (3, 2e-5, 64)
    assert (training.scheduler, training.warmup_ratio, training.weight_decay) == ("cosine", 0.03, 0.0)
    assert (selection.initial_size, selection.budget, selection.rounds) == (100, 100, 10)
    assert (config.model.max_tokens, config.model.dtype) == (512, "bfloat16")
