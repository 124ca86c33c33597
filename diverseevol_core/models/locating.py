"""Find a base model and name its content: hub id, local folder, GGUF file, or a file inside an installed package.

Every form ends as one local folder with `config.json`, a tokenizer and safetensors weights, because that is the only
form that is safe to load (no pickle) and quick (0.7 s where the same model takes 16 s to read from GGUF).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diverseevol_core.contracts import BaseModelRef
from diverseevol_core.errors import ModelError
from diverseevol_core.fingerprint import fingerprint

logger = logging.getLogger(__name__)

_PACKAGE_SCHEME = "package://"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
)  # fmt: skip
_HUB_PATTERNS = [
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    *_TOKENIZER_FILES,
]


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """A base model on this machine: its folder, and the ref that names its content everywhere."""

    folder: Path
    ref: BaseModelRef


def locate_model(name: str, revision: str | None, cache: Path) -> LocatedModel:
    """Find a base model, fetching or converting it when needed, and digest its files.

    Args:
        name: hub id, folder, `.gguf` file, or `package://PACKAGE/FILE.gguf`.
        revision: hub revision; must be None for local forms.
        cache: local folder for converted models and remembered digests.

    Returns:
        The model's folder and its ref.

    Raises:
        ModelError: nothing is found under the name, it holds no safetensors weights, or a local form has a revision.
    """
    folder = _local_folder(name, revision, cache)
    weights = sorted(folder.glob("*.safetensors"))
    tokenizer = [folder / file for file in _TOKENIZER_FILES if (folder / file).is_file()]
    if not (folder / "config.json").is_file() or not weights:
        raise ModelError(
            f"model.name={name!r} holds no config.json with *.safetensors weights in {folder}; "
            "pickled weights are not read: convert the model with save_pretrained first"
        )
    if not tokenizer:
        raise ModelError(
            f"model.name={name!r} holds no tokenizer files in {folder}; save its tokenizer beside the model"
        )
    digests = _RememberedDigests(cache / "digests.json")
    return LocatedModel(
        folder,
        BaseModelRef(
            name=name,
            revision=revision,
            digest=digests.of_files([folder / "config.json", *weights]),
            tokenizer_digest=digests.of_files(tokenizer),
        ),
    )


def _local_folder(name: str, revision: str | None, cache: Path) -> Path:
    path = Path(name).expanduser()
    is_local = name.startswith(_PACKAGE_SCHEME) or name.endswith(".gguf") or path.is_dir()
    if is_local and revision is not None:
        raise ModelError(
            f"model.revision={revision!r} means nothing for the local model.name={name!r}; "
            "leave it empty, or give a hub id"
        )
    if name.startswith(_PACKAGE_SCHEME):
        return _from_gguf(_package_file(name), cache)
    if name.endswith(".gguf"):
        return _from_gguf(path, cache)
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"model.name={name!r} is no folder on this machine; give a folder, a .gguf file or a hub id")
    return _from_hub(name, revision)


def _package_file(name: str) -> Path:
    package, _, file = name.removeprefix(_PACKAGE_SCHEME).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model.name={name!r} names a package that is not installed; pip install {package.replace('_', '-')}"
        )
    folder = Path(next(iter(spec.submodule_search_locations))).resolve()
    path = (folder / file).resolve()
    if not path.is_relative_to(folder) or path.suffix != ".gguf" or not path.is_file():
        raise ModelError(f"model.name={name!r} names no .gguf file inside the package; check the file name")
    return path


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_PATTERNS))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model.name={name!r} is neither a folder of this machine nor reachable on the model hub "
            f"({type(error).__name__}: {reason}); check the spelling, the network, or give a local folder"
        ) from error


def _from_gguf(path: Path, cache: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"model.name={str(path)!r} is no GGUF file on this machine; check the path")
    digest = _RememberedDigests(cache / "digests.json").of_files([path])
    target = cache / f"gguf-{digest[:32]}"
    if (target / "config.json").is_file():
        return target
    logger.info("converting %s to safetensors; this happens once", path.name)
    with _folder_in_one_step(target) as temporary:
        convert_gguf(path, temporary)
    return target


def convert_gguf(path: Path, target: Path) -> None:
    """Write a GGUF model as float32 safetensors with its tokenizer.

    Args:
        path: the GGUF file.
        target: an existing, empty folder.

    Raises:
        ModelError: the file is no GGUF model that transformers can read.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        folder, file = str(path.parent), path.name
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    except ImportError as error:
        raise ModelError(f"reading {path.name} needs the 'gguf' extra; pip install 'diverseevol[gguf]'") from error
    except Exception as error:  # a damaged file fails in any of three libraries, each in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path} cannot be read as a GGUF model: {reason}; choose a whole file that transformers supports"
        ) from error
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


@contextmanager
def _folder_in_one_step(target: Path) -> Iterator[Path]:
    temporary = target.with_name(f".tmp-{secrets.token_hex(6)}-{target.name}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if not target.exists():
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _RememberedDigests:
    """sha256 of large files, remembered by path, size and time of change: 13 GB take 10 s to read again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of_files(self, paths: Iterable[Path]) -> str:
        known = self._load()
        entries: list[list[str]] = []
        for path in paths:
            stat = path.stat()
            name = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
            if name not in known:
                with path.open("rb") as file:
                    known[name] = hashlib.file_digest(file, "sha256").hexdigest()
            entries.append([path.name, known[name]])
        self._save(known)
        return fingerprint(entries[0][1] if len(entries) == 1 else list(entries))

    def _load(self) -> dict[str, str]:
        try:
            known = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _save(self, known: dict[str, str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".tmp-{secrets.token_hex(6)}-{self._path.name}")
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True))
        temporary.replace(self._path)
