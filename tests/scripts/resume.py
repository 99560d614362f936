"""Train with two processes and keep all bits: `resume.py CHECKPOINTS OUT.npz STEP` kills both after STEP > 0 steps.

Lightning runs this script again for the second process.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback

train = runpy.run_path(str(Path(__file__).with_name("train.py")))
checkpoints, out, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])


class KillBoth(Callback):
    """Ends all processes of the group without a word after some steps."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == step:
            os.killpg(0, signal.SIGKILL)


two = {"devices": 2, "strategy": "ddp", "callbacks": [KillBoth()] if step else []}
model = train["trained"](train["spots"](), "tiles", checkpoints, **two)
bits = train["bits"](model)
if model.trainer.is_global_zero:
    np.savez(out, **bits)
# as in gradients.py: gloo's threads can abort the interpreter while it shuts down
os._exit(0)
