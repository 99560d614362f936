"""Gradients of two processes on two tiles against those of one process on both; run by torch.distributed.run."""

import os

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from soscope_scverse import SoScope, datasets, im, pp
from soscope_scverse.model._tiles import contiguous_groups
from soscope_scverse.model.estimates.image_projection import set_projection
from soscope_scverse.model.estimates.initialise import set_start


class Loss(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, tile):
        return self.module(tile)[2].loss


adata, image, _ = datasets.synthetic_section(60, n_genes=8)
pp.subspots(adata)
pp.spot_graph(adata)
im.features(adata, image)
torch.manual_seed(0)
SoScope.setup_anndata(adata)
model = SoScope(adata, test_image=False)
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

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
shared = DistributedDataParallel(loss)
torch.manual_seed(rank)
shared(pair[rank]).backward()
found = [p.grad for p in loss.parameters() if p.grad is not None]
assert len(found) == len(expected) > 20
for a, b in zip(found, expected, strict=True):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
print(f"process {rank}: {np.sum([a.numel() for a in found])} equal gradients", flush=True)
torch.distributed.barrier()
# gloo's threads can abort the interpreter while it shuts down ("terminate called without an active exception")
os._exit(0)
