"""Time what is neither model work nor selection in a run of three rounds on the embedded default.

python -m benchmarks.orchestration
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.measuring import arguments, tiny_model


def cpu_seconds() -> float:
    """Add up what this process and its children, the Prefect server among them, have computed."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


class Stopwatch:
    """Adds up the wall-clock and CPU seconds inside some functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu = 0.0

    def time(self, module, name: str) -> None:
        """Measure every call of a module's function from now on."""
        function = getattr(module, name)

        def timed(*given, **named):
            started, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
                self.cpu += time.process_time() - cpu

        setattr(module, name, timed)


def main() -> None:
    """Run round 0 and three rounds; print seconds a round by what they went to."""
    options = arguments(__doc__, pool_rows=500, rounds=3)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            {
                "DIVERSEEVOL_ROOT": f"{folder}/store",
                "DIVERSEEVOL_SCRATCH": f"{folder}/scratch",
                "DIVERSEEVOL_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
                "DIVERSEEVOL_ARTIFACT_ROOT": f"{folder}/mlflow-artifacts",
                "PREFECT_HOME": f"{folder}/prefect",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
                "PREFECT_LOGGING_LEVEL": "WARNING",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "DO_NOT_TRACK": "1",
            }
        )
        run(Path(folder), options.pool_rows, options.rounds)


def run(folder: Path, pool_rows: int, rounds: int) -> None:
    """Evolve with a model so small that everything else shows."""
    import tasks.embed_pool
    import tasks.embedding_parts
    import tasks.evaluate_checkpoint
    import tasks.measure_diversity
    import tasks.train_checkpoint
    from diverseevol_core.config import RunConfig
    from diverseevol_core.selection.k_center import KCenterStrategy
    from flows import evolution_round, evolve
    from flows.parameters import EvolveParameters

    work = Stopwatch()
    work.time(tasks.train_checkpoint, "train")
    work.time(tasks.embed_pool, "embed_rows")
    work.time(tasks.embedding_parts, "load_causal_lm")
    work.time(tasks.evaluate_checkpoint, "load_causal_lm")
    work.time(tasks.evaluate_checkpoint, "answer_likelihood")
    work.time(KCenterStrategy, "select")
    walls: list[float] = []
    cpus: list[float] = []
    whole = evolution_round.evolution_round

    def timed(parameters):
        started, cpu = time.perf_counter(), cpu_seconds()
        work.seconds.clear()
        work.cpu = 0.0
        result = whole(parameters)
        wall, inside = time.perf_counter() - started, sum(work.seconds.values())
        walls.append(wall - inside)
        cpus.append(cpu_seconds() - cpu - work.cpu)
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in work.seconds.items())
        print(f"round {parameters.round}: {wall:.2f} s, of these {parts}", end="; ", flush=True)
        print(
            f"the rest {wall - inside:.2f} s wall, {cpus[-1]:.2f} CPU",
            flush=True,
        )
        return result

    evolve.evolution_round = timed
    config = RunConfig.model_validate(
        {
            "pool": {"uri": f"demo://task-families?rows={pool_rows}&seed=7", "holdout": 20},
            "model": {"name": str(tiny_model(folder / "model")), "max_tokens": 128, "dtype": "float32"},
            "training": {"epochs": 1, "global_batch_size": 8},
            "selection": {"initial_size": 16, "budget": 16, "rounds": rounds},
        }
    )
    started = time.perf_counter()
    evolve.evolve(EvolveParameters(name="bench", config=config))
    print(f"whole run {time.perf_counter() - started:.1f} s, server start and pool included")
    print(
        f"neither model work nor selection, mean of rounds 1 to {rounds}: {sum(walls[1:]) / rounds:.2f} s wall,",
        end=" ",
    )
    print(f"{sum(cpus[1:]) / rounds:.2f} CPU seconds with the server's")


if __name__ == "__main__":
    main()
