#!/usr/bin/env bash
# Validating during training changes the trained weights, with the same seed and unshuffled validation data.
#
# Versions:
#   lightning 2.6.6, torch 2.13.0, numpy 2.4.6
# Guess:
#   Validation runs in evaluation mode without gradients, and its data are not shuffled: the weights are those of a
#   training without validation.
# Behaviour:
#   Each start of a pass through a DataLoader takes a number from torch's global random generator, shuffled or not.
#   Dropout and the order of later batches use the same generator, so the frequency of validation selects another
#   training run. limit_val_batches=0, or validation outside the trained epochs, gives the same weights.
# Output (2026-11-30):
#   again, without validation         equal weights
#   validation, limit_val_batches=0   equal weights
#   validation every 5 epochs of 3    equal weights
#   validation every epoch            other weights
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    lightning==2.6.6 torch==2.13.0 numpy==2.4.6
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    lightning torch numpy
venv/bin/python -W ignore - <<'PY'
import logging

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
data = TensorDataset(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)))


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, _):
        return (self.layer(batch[0]) - 1).square().mean()

    def validation_step(self, batch, _):
        self.layer(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def weights(validation, **options):
    L.seed_everything(0, verbose=False)
    model = Model()
    for part in ("checkpointing", "progress_bar", "model_summary"):
        options[f"enable_{part}"] = False
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", num_sanity_val_steps=0, logger=False, **options)
    loaders = [DataLoader(data, batch_size=8, shuffle=True)]
    if validation:
        loaders.append(DataLoader(data, batch_size=8))
    trainer.fit(model, *loaders)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


reference = weights(validation=False)
change = {
    "again, without validation": weights(validation=False),
    "validation, limit_val_batches=0": weights(validation=True, limit_val_batches=0),
    "validation every 5 epochs of 3": weights(validation=True, check_val_every_n_epoch=5),
    "validation every epoch": weights(validation=True),
}
change = {name: not torch.equal(found, reference) for name, found in change.items()}
for name, changed in change.items():
    print(f"{name:33}", "other weights" if changed else "equal weights")
assert list(change.values()) == [False, False, False, True], change
PY
