"""What a user's script writes: `streams.py` trains, fails and stops early; `streams.py NAME` sends itself a signal."""

import os
import signal
import sys

from lightning.pytorch import Callback

import soscope_scverse as sos


class Act(Callback):
    """Calls a function after three steps."""

    def __init__(self, act):
        self.act = act

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            self.act()


def enhanced(act=lambda: print("of a callback"), epochs=5, **options):
    """Trained for a moment, with the defaults of a user."""
    adata, image, _ = sos.datasets.synthetic_section(60, n_genes=8)
    return sos.tl.enhance(adata, image=image, max_epochs=epochs, train_kwargs={"callbacks": [Act(act)], **options})


def fail():
    """Raise what has nothing to do with this package."""
    raise RuntimeError("power")


if sys.argv[1:]:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore Ctrl-C
    enhanced(lambda: os.kill(os.getpid(), signal.Signals[sys.argv[1]]), epochs=100, pretrain_epochs=0)
    print("not reached")
else:
    enhanced()
    try:
        enhanced(fail)
    except RuntimeError as error:
        print("caught", error)
    enhanced(epochs=100, train_size=0.8, early_stopping=True, pretrain_epochs=0, lr=1e-9)
