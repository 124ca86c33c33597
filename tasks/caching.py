"""Turns a step's body into a Prefect task that is computed once per identity.

Two things remember a step. Its artifact in the store is the truth: a task that starts and finds it sound returns it as
`Cached`. Prefect's result record is the shortcut that skips the task altogether; `ArtifactRefSerializer` refuses a
record whose artifact has gone or changed size, which Prefect treats as a miss. Losing a record costs one look-up.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from prefect import Task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.serializers import Serializer
from prefect.states import Completed

from diverseevol_core.contracts import ArtifactRef
from diverseevol_core.errors import DamagedArtifactError, StorageError
from diverseevol_core.storage.artifacts import find_artifact, is_present
from tasks.model_slots import model_slot
from tasks.step_inputs import StepInput
from tasks.workspace import current_workspace

logger = logging.getLogger(__name__)

Input = TypeVar("Input", bound=StepInput)

_RETRY_DELAYS_SECONDS = [2.0, 10.0, 30.0]


class ArtifactRefSerializer(Serializer):
    """Stores a ref as JSON, and gives it back only while its artifact stands in the current store."""

    type: str = "diverseevol-artifact-ref"

    def dumps(self, obj: ArtifactRef) -> bytes:
        """Write a ref."""
        return obj.model_dump_json().encode()

    def loads(self, blob: bytes) -> ArtifactRef:
        """Read a ref.

        Raises:
            DamagedArtifactError: its artifact is missing, of another size or of other content.
        """
        ref = ArtifactRef.model_validate_json(blob)
        if not is_present(current_workspace().store, ref):
            raise DamagedArtifactError(f"{ref.path} is missing or incomplete; it will be computed again")
        return ref


class StepTask(Task[[Any], ArtifactRef]):
    """A task whose body may return a named state: a caller gets the ref inside it, as from any other task."""

    def __call__(self, *args: Any, return_state: bool = False, **kwargs: Any) -> ArtifactRef:  # type: ignore[override]
        """Run the task; see `prefect.Task.__call__`."""
        state: Any = super().__call__(*args, return_state=True, **kwargs)
        ref: ArtifactRef = state if return_state else state.result()
        return ref


def cached_step(name: str, *, runs_model: bool = False) -> Callable[[Callable[[Input], ArtifactRef]], StepTask]:
    """Make a task of a step's body; the body takes one input and returns the ref of what it wrote.

    Args:
        name: the task's name in the UI.
        runs_model: hold a slot for model work while the body computes.

    Returns:
        A decorator. The task retries when the store fails, and only then.
    """

    def decorate(body: Callable[[Input], ArtifactRef]) -> StepTask:
        @functools.wraps(body)
        def found_or_computed(step_input: Input) -> Any:
            workspace = current_workspace()
            found = find_artifact(workspace.store, step_input.identity)
            if found is None:
                with model_slot(workspace.settings) if runs_model else contextlib.nullcontext():
                    return body(step_input)
            logger.info("reused %s", found.path)
            return Completed(name="Cached", message="found finished in the store", data=found)

        return StepTask(
            found_or_computed,
            name=name,
            cache_policy=CacheKeyFnPolicy(cache_key_fn=_cache_key),
            persist_result=True,
            result_serializer=ArtifactRefSerializer(),
            cache_result_in_memory=False,
            retries=len(_RETRY_DELAYS_SECONDS),
            retry_delay_seconds=_RETRY_DELAYS_SECONDS,
            retry_condition_fn=is_worth_a_retry,
        )

    return decorate


def is_worth_a_retry(task_: object, run: object, state: State[Any]) -> bool:
    """Retry a task when the store failed; settings, contracts and damage do not mend by waiting."""
    try:
        state.result()
    except DamagedArtifactError:
        return False
    except StorageError:
        return True
    except Exception:  # noqa: BLE001 - any other failure is final, whatever it is
        return False
    return False


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    identity = parameters["step_input"].identity
    return f"{identity.step}-v{identity.version}-{identity.key}"
