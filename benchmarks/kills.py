"""Kills training runs with SIGKILL at random times, resumes them, and compares all bits with uninterrupted runs.

    python benchmarks/kills.py [--n 20] [--seed 0]

A run is killed at any time between its start and its end, resumed, killed again with probability one half, and resumed
until it ends. Checkpoints are written before every epoch. Linux and macOS, on CPU.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[1] / "tests" / "scripts" / "train.py"


def child(run: Callable[[], None]) -> int:
    """Start a child process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def exit_code(pid: int) -> int:
    """Wait for a process; returns its exit code, which is negative if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(run: Callable[[], None], seconds: float) -> bool:
    """Run for at most the given time; returns whether the process was killed before its end."""
    pid = child(run)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return exit_code(pid) == -signal.SIGKILL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    train = runpy.run_path(str(SCRIPT))
    adata, rng = train["spots"](), np.random.default_rng(options.seed)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def save(case: str, name: str, checkpoints: Path | None, seed: int) -> None:
            model = train["trained"](adata, case, checkpoints, seed=seed)
            np.savez(folder / name, **train["bits"](model))

        seconds = {}
        for case in train["CASES"]:
            start = time.perf_counter()
            assert exit_code(child(partial(save, case, f"{case}.npz", None, 0))) == 0
            seconds[case] = time.perf_counter() - start
        n_equal = n_killed = 0
        while n_killed < options.n:
            case = rng.choice(list(train["CASES"]))
            moment = rng.uniform(0, 1.2 * seconds[case])  # checkpoints take some time
            checkpoints = folder / f"checkpoints_{n_killed}_{time.time_ns()}"
            interrupted = partial(save, case, "interrupted.npz", checkpoints, 0)
            if not killed(interrupted, moment):
                continue
            n_killed += 1
            again = rng.random() < 0.5 and killed(interrupted, rng.uniform(0, seconds[case]))
            found = (checkpoints / "checkpoint.pt").exists()
            # with a checkpoint, the seed of the resuming process has no effect
            assert exit_code(child(partial(save, case, "resumed.npz", checkpoints, 7 if found else 0))) == 0
            expected, resumed = np.load(folder / f"{case}.npz"), np.load(folder / "resumed.npz")
            equal = set(expected) == set(resumed) and all(
                np.array_equal(expected[name], resumed[name], equal_nan=True) for name in expected
            )
            n_equal += equal
            print(
                f"{n_killed:3d} {case:6s} killed at {moment:5.2f} s of about {seconds[case]:.2f} s"
                f"{', killed again' if again else ''}{', resumed' if found else ', restarted'}: "
                f"{'equal' if equal else 'DIFFERS'}",
                flush=True,
            )
    print(f"{n_equal} of {n_killed} resumed runs equal the uninterrupted ones in all {len(expected)} arrays")


if __name__ == "__main__":
    main()
