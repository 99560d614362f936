"""Standard output belongs to the script of the user; standard error has what concerns the user."""

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import QUICK
from soscope_scverse import tl

SCRIPT = Path(__file__).parents[1] / "scripts" / "streams.py"


def written(folder, *arguments):
    """Exit code, standard output and standard error of the script, each in lines."""
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_a_script_prints_what_it_prints_itself(tmp_path):
    code, out, err = written(tmp_path)
    assert code == 0, err
    assert out == ["of a callback", "caught power", "of a callback"]
    assert err == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "expected"), [("SIGTERM", 128 + signal.SIGTERM), ("SIGINT", 1)])
def test_a_signal_fails_the_script(tmp_path, name, expected):
    code, out, err = written(tmp_path, name)
    assert code in (expected, -signal.Signals[name]), err  # Python ends itself by SIGINT, or exits with 1
    assert out == []
    if name == "SIGTERM":
        assert err == ["[rank: 0] Received SIGTERM: 15"]
    else:
        assert err[-1].startswith("KeyboardInterrupt: Nothing was written. With `checkpoint_dir`")


def test_one_line_of_the_log_a_stage(section, caplog, tmp_path):
    with caplog.at_level(logging.INFO, logger="soscope_scverse"):
        tl.enhance(section.adata, image=section.image, n_samples=2, out=tmp_path / "e.zarr", **QUICK)
    lines = [record.message for record in caplog.records if record.name.startswith("soscope_scverse")]
    assert lines[:2] == ["Dividing 60 spots into 420 subspots.", "Extracting image features (encoder=texture)."]
    assert lines[2].startswith("Training on 60 spots x 7 subspots x 8 features: 4 steps of ")
    assert lines[3].startswith("Trained in ")
    assert lines[3].endswith(f"Inferring the subspots with 2 posterior samples, written to {tmp_path / 'e.zarr'}.")
    assert len(lines) == 4
