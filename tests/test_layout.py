from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
OWN = ("diverseevol_core", "tasks", "flows")


def python_files(*folders):
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def test_no_module_of_flows_or_tasks_is_named_like_another_module():
    installed = set(importlib.metadata.packages_distributions()) - {*OWN, "deployments"}
    taken = installed | set(sys.stdlib_module_names)
    named = {path.stem for path in python_files("flows", "tasks")} - {"__init__"}
    assert not named & taken


def test_our_top_level_packages_belong_to_this_distribution_alone():
    owners = importlib.metadata.packages_distributions()
    for package in OWN:
        assert set(owners.get(package, ["diverseevol"])) == {"diverseevol"}


@pytest.mark.parametrize("path", python_files(*OWN), ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_files_stay_small_enough_to_read_at_once(path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_core_never_reads_the_environment():
    readers = [
        path for path in python_files("diverseevol_core") if re.search(r"os\.(environ|getenv)", path.read_text())
    ]
    assert not readers


def test_tests_mirror_the_files_they_test():
    for path in python_files("tests/diverseevol_core"):
        if path.stem.startswith("test_"):
            twin = REPOSITORY / path.parent.relative_to(REPOSITORY / "tests") / f"{path.stem.removeprefix('test_')}.py"
            assert twin.exists(), path


def test_the_command_line_starts_without_torch_or_prefect():
    code = "import sys, flows.cli; print(sorted({'torch', 'prefect', 'mlflow', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
