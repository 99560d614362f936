"""Enhance a section with two processes; Lightning runs this script again for the second one."""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from soscope_scverse import SoScope, datasets, im, pp, tl

out = Path(sys.argv[1])
rank = os.environ.get("LOCAL_RANK", "0")
two = {"devices": 2, "strategy": "ddp", "accelerator": "cpu", "enable_progress_bar": False}
adata, image, _ = datasets.synthetic_section(60, n_genes=8)

# one call, to disk
enhanced = tl.enhance(adata, image=image, out=out / "enhanced.zarr", save_model=out / "saved", train_kwargs=two)
np.save(out / f"lazy_{rank}.npy", np.asarray(enhanced.X))

# by hand, in memory; without image, whose parameters then have no gradient
pp.subspots(adata)
pp.spot_graph(adata)
im.features(adata, image)
rng = np.random.default_rng(0)
adata.obsm["subspot_features"] = rng.permutation(adata.obsm["subspot_features"])
torch.manual_seed(0)
SoScope.setup_anndata(adata)
model = SoScope(adata)
model.train(20, train_size=0.9, early_stopping=True, **two)
np.save(out / f"memory_{rank}.npy", model.get_enhanced(batch_size=7).X)
np.save(out / f"prior_{rank}.npy", model.get_enhanced(expectation="decoded", n_samples=4).layers["q95"])
np.save(out / f"weights_{rank}.npy", model.module.decoder.effect[1].weight.detach().numpy())
if rank == "0":
    assert len(model.history["train_loss"]) == 20
    assert len(model.history["reconstruction_loss_validation"]) == 2
    model.save(out / "model", save_anndata=True)
# as in gradients.py: gloo's threads can abort the interpreter while it shuts down
os._exit(0)
