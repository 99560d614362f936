"""What a GPU says beside a CPU: `pytest -m gpu`."""

import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from soscope_scverse import SoScope, datasets, tl
from soscope_scverse.model.training.checkpoints import Checkpoints

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
GPU = "gpu"
train = runpy.run_path(str(Path(__file__).parent / "scripts" / "train.py"))


@pytest.fixture(autouse=True)
def _not_deterministic_afterwards():
    yield
    torch.use_deterministic_algorithms(False)


def trained(adata, **options):
    torch.manual_seed(0)
    SoScope.setup_anndata(adata)
    model = SoScope(adata, image_strength=1)
    model.train(20, accelerator=GPU, enable_progress_bar=False, **options)
    return model


def weights(model):
    return {name: value.cpu().numpy() for name, value in model.module.state_dict().items()}


def assert_same(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_model_says_the_same_on_both(prepared, tmp_path):
    on_gpu = trained(prepared)
    on_gpu.save(tmp_path / "model", save_anndata=True)
    on_cpu = SoScope.load(tmp_path / "model", accelerator="cpu")
    places = prepared.obsm["spatial"], prepared.obsm["subspot_features"][:, 0]
    for ask in (
        lambda model: model.get_latent_representation(),
        lambda model: model.get_enhanced().X,
        lambda model: model.get_enhanced(expectation="decoded").X,
        lambda model: model.predict(*places).X,
    ):
        np.testing.assert_allclose(ask(on_gpu), ask(on_cpu), rtol=1e-3, atol=1e-4)


def test_draws_add_up(prepared):
    adata = prepared
    drawn = trained(adata).get_enhanced(n_samples=5)
    total = drawn.to_df("sampled_counts").groupby(drawn.obs["spot"].astype(str)).sum().loc[adata.obs_names]
    np.testing.assert_array_equal(total, adata.X.toarray())


def test_deterministic_algorithms_give_the_same_bits(prepared):
    a, b = (weights(trained(prepared.copy(), deterministic=True)) for _ in range(2))
    assert_same(a, b)


def test_a_stopped_training_goes_on_with_the_same_bits(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(SoScope, "_checkpoints_cls", staticmethod(partial(Checkpoints, seconds=0)))
    expected = weights(trained(prepared.copy(), deterministic=True))
    with pytest.raises(RuntimeError, match="power"):
        trained(prepared.copy(), deterministic=True, checkpoint_dir=tmp_path, callbacks=[train["Stop"](9)])
    resumed = trained(prepared.copy(), deterministic=True, checkpoint_dir=tmp_path, resume=True)
    assert_same(weights(resumed), expected)


def test_a_gpu_is_as_good_as_a_cpu():
    adata, image, truth = datasets.synthetic_section(60, n_genes=8)
    scores = []
    for accelerator in (GPU, "cpu"):
        x = tl.enhance(adata, image=image, accelerator=accelerator, train_kwargs={"enable_progress_bar": False}).X
        scores.append(np.corrcoef(x.ravel(), truth.layers["mean"].ravel())[0, 1])
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
