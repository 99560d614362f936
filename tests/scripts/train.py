"""Train with a checkpoint before every epoch.

`train.py FOLDER CASE STEP [CASE STEP ...]` starts a process for each case, with checkpoints in ``FOLDER/CASE``, that
kills itself after that many steps, and prints the case and how it ended.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback

from soscope_scverse import SoScope, datasets, im, pp
from soscope_scverse.model.training.checkpoints import Checkpoints
from soscope_scverse.model.training.datamodule import TileDataModule

CASES = {
    "whole": {"max_epochs": 12},
    "tiles": {"max_epochs": 12, "batch_size": 20, "train_size": 0.9},
    "steps": {"max_epochs": 2, "batch_size": 4, "train_size": 0.8},  # of the section, so that a pass takes two epochs
    "early": {"max_epochs": 400, "train_size": 0.5, "early_stopping": True, "early_stopping_min_delta": 5.0},
}


class After(Callback):
    """Calls ``end`` after some steps."""

    def __init__(self, step):
        self.left = step

    def on_train_batch_end(self, *_):
        self.left -= 1
        if self.left == 0:
            self.end()


class Kill(After):
    """Ends the process without a word."""

    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Stop(After):
    """Raises an error."""

    def end(self):
        raise RuntimeError("power")


def made():
    return datasets.synthetic_section(60, n_genes=8)


def spots():
    adata, image, _ = made()
    pp.subspots(adata)
    pp.spot_graph(adata)
    im.features(adata, image)
    return adata


def trained(adata, case, folder=None, *, seed=0, **options):
    """A model after a training that goes on from what is in the folder."""
    SoScope._data_splitter_cls = staticmethod(partial(TileDataModule, step_spots=4 if case == "steps" else 2048))
    SoScope._checkpoints_cls = staticmethod(partial(Checkpoints, seconds=0))
    SoScope.setup_anndata(adata)
    torch.manual_seed(seed)
    model = SoScope(adata, image_strength=1)
    run = {"checkpoint_dir": folder, "resume": folder is not None}
    model.train(accelerator="cpu", enable_progress_bar=False, **CASES[case], **run, **options)
    return model


def bits(model):
    """Everything that a training leaves: weights, history, and the random state, which draws show."""
    weights = {name: value.numpy() for name, value in model.module.state_dict().items()}
    curves = {
        f"history {name}": np.c_[table.index.to_numpy(float), table.to_numpy(float)]
        for name, table in model.history.items()
    }
    return weights | curves | {"draws": model.get_enhanced(n_samples=2).layers["sampled_counts"]}


def ended(folder, case, step):
    """How a process ends that kills itself; forked, since imports take longer than the training."""
    process = os.fork()
    if process == 0:
        trained(spots(), case, folder / case, callbacks=[Kill(step)])
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    for case, step in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        print(case, ended(Path(sys.argv[1]), case, int(step)), flush=True)
