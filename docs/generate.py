"""Write the parts of the documentation that the code already says: README tree, configuration, command line.

`make docs` writes them; `make check` runs this with `--check` and fails when a file is out of step.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.main import get_command
from typer.testing import CliRunner

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from diverseevol_core.config import RunConfig  # noqa: E402
from flows.cli import app  # noqa: E402
from tasks.settings import Settings  # noqa: E402

_TREE = re.compile(r"(<!-- tree: written by make docs -->\n```\n).*?(```\n<!-- end of tree -->)", re.DOTALL)


def main() -> int:
    """Write the files, or with `--check` name those that differ."""
    is_check = "--check" in sys.argv[1:]
    stale = []
    for path, text in generated():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(REPOSITORY).as_posix())
        if not is_check:
            path.write_text(text, encoding="utf-8")
    if stale and is_check:
        print(f"out of step with the code: {', '.join(stale)}; run make docs")  # noqa: T201
        return 1
    return 0


def generated() -> Iterator[tuple[Path, str]]:
    """Yield each generated file with the text it should have."""
    readme = REPOSITORY / "README.md"
    text = readme.read_text(encoding="utf-8")
    yield readme, _TREE.sub(lambda found: found[1] + tree() + found[2], text)
    yield REPOSITORY / "docs" / "configuration.md", configuration()
    yield REPOSITORY / "docs" / "cli.md", command_line()


def tree() -> str:
    """List every file of the repository with one line on what it is."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    paths = sorted((REPOSITORY / name for name in listed.splitlines()), key=lambda path: (path.parent, path.name))
    lines: list[str] = []
    folder: Path | None = None
    for path in paths:
        if not path.exists():
            continue
        if path.parent != folder:
            folder = path.parent
            name = folder.relative_to(REPOSITORY).as_posix()
            if name != ".":
                lines.append(f"{name}/")
        indent = "" if folder == REPOSITORY else "  "
        lines.append(f"{indent}{path.name:<{36 - len(indent)}} {describe(path)}".rstrip())
    return "\n".join(lines) + "\n"


def describe(path: Path) -> str:
    """Take one line from a file on what it is: its docstring, its first comment or its title."""
    if path.suffix == ".png":
        return "a screenshot"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        doc = ast.get_docstring(ast.parse(text)) or _of_tests(path)
        return doc.splitlines()[0] if doc else ""
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#!")), "")
    if first.startswith("#"):
        return first.lstrip("# ").strip()
    return _KNOWN.get(path.name, "")


_KNOWN = {
    "pyproject.toml": "Package, dependencies and the settings of every checker.",
    "constraints.txt": "The exact versions that were tested together.",
    ".gitignore": "What git leaves out.",
    "LICENSE": "Apache-2.0.",
}


def _of_tests(path: Path) -> str:
    return f"Tests of {path.stem.removeprefix('test_')}." if path.name.startswith("test_") else ""


def configuration() -> str:
    """Document every field of run configs and every execution setting."""
    lines = [
        "# Configuration",
        "",
        "A run config is YAML; a field left out keeps its default, and the defaults are the published settings",
        "(`deployments/configs/reference.yaml`). Everything here is part of a run's identity.",
        "",
        "| field | default | meaning |",
        "|---|---|---|",
        *_rows(RunConfig, ""),
        "",
        "## Execution settings",
        "",
        "Environment variables of the process that runs the steps. They decide where and how fast, never what.",
        "Credentials are not among them: S3 reads `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_ENDPOINT_URL`,",
        "MLflow reads `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, Prefect its own profile.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `DIVERSEEVOL_{name.upper()}` | `{field.default}` | {_meaning(field)} |")
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _rows(annotation, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            yield f"| `{prefix}{name}` | `{'empty' if default is None else default}` | {_meaning(field)} |"


def _meaning(field: FieldInfo) -> str:
    choices = [repr(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
    suffix = f" One of {', '.join(choices)}." if choices else ""
    return f"{field.description or ''}{suffix}".replace("|", "\\|")


def command_line() -> str:
    """Document every command by its own help text."""
    runner = CliRunner(env={"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "TERMINAL_WIDTH": "100"})
    commands = list(get_command(app).commands)  # type: ignore[attr-defined]
    parts = ["# Command line\n", "Help texts as the commands print them.\n"]
    for command in [None, *commands]:
        words = [command] if command else []
        text = runner.invoke(app, [*words, "--help"], prog_name="diverseevol").stdout
        title = "diverseevol" + (f" {command}" if command else "")
        body = "\n".join(line.rstrip() for line in text.strip().splitlines())
        parts.append(f"## {title}\n\n```\n{body}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
