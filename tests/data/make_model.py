"""Makes the model that tests/model/test_files.py loads: `python tests/data/make_model.py`, once for each file format.

A file, once released, is kept as it is: it shows that later versions read it and say the same.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from soscope_scverse import SoScope, datasets, im, pp
from soscope_scverse.model import _save_load as saved

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / f"model_format_{saved._FORMAT}"
adata, image, _ = datasets.synthetic_section(20, n_genes=4)
pp.subspots(adata)
pp.spot_graph(adata)
im.features(adata, image)
features = adata.obsm["subspot_features"]
adata.obsm["subspot_features"] = features[..., :6]
adata.uns["subspot_features"]["feature_names"] = adata.uns["subspot_features"]["feature_names"][:6]
adata.obs["donor"] = ["a", "b"] * 10
adata.uns["spatial"]["synthetic"]["images"] = {}
torch.manual_seed(0)
SoScope.setup_anndata(adata, batch_key="donor")
model = SoScope(adata, n_latent=4, n_hidden=8, image_strength=1)
model.train(20, accelerator="cpu", enable_progress_bar=False)
model.save(folder, save_anndata=True, compression="gzip")
np.savez_compressed(
    folder / "expected.npz",
    enhanced=model.get_enhanced().X,
    latent=model.get_latent_representation(),
    train_loss=model.history["train_loss"].to_numpy(float),
)
