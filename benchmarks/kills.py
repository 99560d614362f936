"""Kills trainings with SIGKILL at random moments, resumes them, and compares all bits with uninterrupted ones.

    python benchmarks/kills.py [--n 20] [--seed 0]

A run is killed anywhere between its start and its end, resumed, killed again with a chance of one half, and resumed to
the end. Checkpoints are written before every epoch. Linux and macOS, on the CPU.
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


def started(run: Callable[[], None]) -> int:
    """Run in another process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> int:
    """Wait for a process; returns its exit code, negative if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(run: Callable[[], None], seconds: float) -> bool:
    """Run for some time at most; returns whether it was killed before its end."""
    pid = started(run)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return ended(pid) == -signal.SIGKILL


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
            assert ended(started(partial(save, case, f"{case}.npz", None, 0))) == 0
            seconds[case] = time.perf_counter() - start
        n_equal = n_killed = 0
        while n_killed < options.n:
            case = rng.choice(list(train["CASES"]))
            moment = rng.uniform(0, 1.2 * seconds[case])  # checkpoints cost some time
            checkpoints = folder / f"checkpoints_{n_killed}_{time.time_ns()}"
            lost = partial(save, case, "lost.npz", checkpoints, 0)
            if not killed(lost, moment):
                continue
            n_killed += 1
            again = rng.random() < 0.5 and killed(lost, rng.uniform(0, seconds[case]))
            found = (checkpoints / "checkpoint.pt").exists()
            # once there is a checkpoint, the seed of the process that resumes does not matter
            assert ended(started(partial(save, case, "resumed.npz", checkpoints, 7 if found else 0))) == 0
            expected, resumed = np.load(folder / f"{case}.npz"), np.load(folder / "resumed.npz")
            equal = set(expected) == set(resumed) and all(
                np.array_equal(expected[name], resumed[name], equal_nan=True) for name in expected
            )
            n_equal += equal
            print(
                f"{n_killed:3d} {case:6s} killed at {moment:5.2f} s of about {seconds[case]:.2f} s"
                f"{', and again' if again else ''}{', resumed' if found else ', started anew'}: "
                f"{'equal' if equal else 'DIFFERS'}",
                flush=True,
            )
    print(f"{n_equal} of {n_killed} resumed runs equal to uninterrupted ones in all {len(expected)} arrays")


if __name__ == "__main__":
    main()
