"""Slots for model work: how many steps may use accelerators at once, over all runs of one Prefect server.

A slot is a lease that its holder renews, so a holder that was killed loses it after `_LEASE_SECONDS`. A server that
cannot be reached never stops a step: waiting for slots is courtesy between runs, not a condition of correctness.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from tasks.settings import Settings

logger = logging.getLogger(__name__)

LIMIT_NAME = "diverseevol-gpu"
_LEASE_SECONDS = 60.0


@contextlib.contextmanager
def model_slot(settings: Settings) -> Iterator[None]:
    """Hold a slot inside a `with` block, waiting for one as long as it takes.

    Args:
        settings: `gpu_slots` of 0 needs no slot.
    """
    if settings.gpu_slots == 0:
        yield
        return
    from prefect.concurrency.sync import concurrency

    with contextlib.ExitStack() as held:
        try:
            held.enter_context(
                concurrency(LIMIT_NAME, lease_duration=_LEASE_SECONDS, raise_on_lease_renewal_failure=False)
            )
        except Exception as error:  # noqa: BLE001 - whatever the server's trouble is, the step can be computed
            logger.warning("goes on without a slot of %s: %s", LIMIT_NAME, type(error).__name__)
        try:
            yield
        finally:
            _release(held)


def _release(held: contextlib.ExitStack) -> None:
    try:
        held.close()
    except Exception as error:  # noqa: BLE001 - the lease runs out by itself
        logger.warning("could not give back a slot of %s: %s", LIMIT_NAME, type(error).__name__)
