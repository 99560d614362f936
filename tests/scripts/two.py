"""What two processes on one machine do: `two.py FOLDER`, then `two.py FOLDER resume`.

The first call compares gradients, enhances a section and trains twice, the second time until both processes are
killed; the second call resumes that training. Lightning runs this script again for the second process. One script for
all, since imports take longer than the trainings.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from soscope_scverse import SoScope, tl
from soscope_scverse.model._tiles import contiguous_groups
from soscope_scverse.model.estimates.image_projection import set_projection
from soscope_scverse.model.estimates.initialise import set_start

train = runpy.run_path(str(Path(__file__).with_name("train.py")))
folder, rank = Path(sys.argv[1]), int(os.environ.get("LOCAL_RANK", "0"))
TWO = {"devices": 2, "strategy": "ddp"}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
KILLED_AFTER = 7


def enhanced_on_disk(section):
    """One call, to disk."""
    out = {"out": folder / "enhanced.zarr", "save_model": folder / "saved"}
    result = tl.enhance(section.adata, image=section.image, max_epochs=100, train_kwargs=TWO | QUIET, **out)
    np.save(folder / f"lazy_{rank}.npy", np.asarray(result.X))


class Loss(torch.nn.Module):
    """Loss of a tile."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, tile):
        """Of the whole model."""
        return self.module(tile)[2].loss


def gradients(adata):
    """Of one process on two tiles, and of two processes on a tile each."""
    torch.manual_seed(0)
    SoScope.setup_anndata(adata)
    model = SoScope(adata, image_strength=1)
    inputs = model._inputs
    order = inputs.order()
    set_projection(model.module, inputs.image_features(), inputs.is_subspot(), order)
    section = model._section(inputs, order)
    set_start(model.module, section, "auto")
    tiles = model._tiles(section, 2.0)
    pair = [tiles.tile(own) for own in contiguous_groups(section.spatial, section.sections, 30)]
    loss = Loss(model.module.train())
    for number, tile in enumerate(pair):
        torch.manual_seed(number)
        (loss(tile) / 2).backward()
    expected = [p.grad.clone() for p in loss.parameters() if p.grad is not None]
    loss.zero_grad(set_to_none=True)
    assert distributed.get_world_size() == 2
    shared = DistributedDataParallel(loss)
    torch.manual_seed(rank)
    shared(pair[rank]).backward()
    found = [p.grad for p in loss.parameters() if p.grad is not None]
    assert len(found) == len(expected) > 20
    np.savez(folder / f"gradients_{rank}.npz", found=_flat(found), expected=_flat(expected))


def _flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors]).numpy()


def trained_in_memory(adata):
    """By hand; without the image, whose parameters then have no gradient."""
    adata.obsm["subspot_features"] = np.random.default_rng(0).permutation(adata.obsm["subspot_features"])
    torch.manual_seed(0)
    SoScope.setup_anndata(adata)
    model = SoScope(adata)
    model.train(20, train_size=0.9, early_stopping=True, **TWO, **QUIET)
    np.save(folder / f"memory_{rank}.npy", model.get_enhanced(batch_size=7).X)
    decoded = model.get_enhanced(expectation="decoded", n_samples=4)
    np.save(folder / f"decoded_{rank}.npy", decoded.layers["q95"])
    np.save(folder / f"weights_{rank}.npy", model.module.decoder.effect[1].weight.detach().numpy())
    if rank == 0:
        assert len(model.history["train_loss"]) == 20
        assert len(model.history["reconstruction_loss_validation"]) == 2
        model.save(folder / "model", save_anndata=True)


class KillBoth(Callback):
    """Ends all processes of the group without a word after some steps."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == KILLED_AFTER:
            os.killpg(0, signal.SIGKILL)


def trained_with_checkpoints(name, **options):
    """All bits of a training whose checkpoints are in a folder of this name."""
    model = train["trained"](train["spots"](), "tiles", folder / name, **TWO, **options)
    return train["bits"](model)


if sys.argv[2:] == ["resume"]:
    bits = trained_with_checkpoints("killed")
    if rank == 0:
        np.savez(folder / "resumed.npz", **bits)
    # gloo's threads can abort the interpreter while it shuts down ("terminate called without an active exception")
    os._exit(0)

enhanced_on_disk(train["made"]())  # starts the second process
gradients(train["spots"]())
trained_in_memory(train["spots"]())
bits = trained_with_checkpoints("uninterrupted")
if rank == 0:
    np.savez(folder / "uninterrupted.npz", **bits)
distributed.barrier()
trained_with_checkpoints("killed", callbacks=[KillBoth()])
