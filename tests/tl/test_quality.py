"""How good the defaults are: against simple answers, and against what is known of the sections."""

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData

from helpers import QUICK, flat, seeded
from soscope_scverse import bench, datasets, im, metrics, pp, tl

pytestmark = pytest.mark.slow

DEFAULTS = {"accelerator": "cpu", "train_kwargs": {"enable_progress_bar": False}}


@pytest.fixture(scope="module")
def synthetic():
    """A section with 200 spots and 30 genes, and what the defaults make of it."""
    section = datasets.synthetic_section(200, n_genes=30)
    return section, tl.enhance(section.adata, image=section.image, **DEFAULTS)


def test_defaults_beat_linear_interpolation_on_a_synthetic_section(synthetic):
    (adata, _, truth), enhanced = synthetic
    adata = pp.subspots(adata, copy=True)
    structured = (truth.var["kind"] != "noise").to_numpy()
    scores = [
        np.median(metrics.within_r(x[:, structured], truth.layers["mean"][:, structured], truth.obs["spot"]))
        for x in (enhanced.X, bench.BASELINES["linear"](adata))
    ]
    assert scores[0] > 1.5 * scores[1]


@pytest.mark.realdata
@pytest.mark.parametrize("section", ["her2st/C4", "mouse_ob/MOB2"])
@pytest.mark.filterwarnings("ignore:The image has practically no effect")
def test_defaults_beat_every_baseline_on_merged_sections(data_dir, section):
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(data_dir / f"{section}.h5ad"))
    genes = pp.spatial_genes(truth, 60)
    low, truth = low[:, genes].copy(), truth[:, genes].copy()
    im.features(low, data_dir / f"{section}_HE.jpg")
    models = []

    def soscope(adata, seed):
        enhanced, model = tl.enhance(adata, seed=seed, return_model=True, **DEFAULTS)
        models.append(model)
        return enhanced.X

    methods = {**bench.BASELINES, "soscope": soscope}
    df = bench.compare(low, truth, methods=methods, seeds=[0], progress=False)
    score = df.groupby(["metric", "method"])["value"].median().unstack()
    rivals = score.drop(columns="soscope")
    others = rivals.drop(columns="kriging_image")  # it is half of the default
    assert score.loc["pearson", "soscope"] > others.loc["pearson"].max() + 0.02
    assert score.loc["pearson", "soscope"] >= rivals.loc["pearson"].max()
    assert score.loc["within_r", "soscope"] > rivals.loc["within_r"].max()
    assert score.loc["mse", "soscope"] < rivals.loc["mse"].min()

    # intervals are calibrated
    pit = metrics.pit(truth.X, seeded(models[0].sample_enhanced, 200))
    assert 0.86 < metrics.central_coverage(pit).mean() < 0.94

    # an image of other tissue is detected, and has little effect
    assert models[0].module.image_strength > 0.5
    shuffled = low.copy()
    features = np.random.default_rng(0).permutation(flat(low.obsm["subspot_features"]))
    shuffled.obsm["subspot_features"] = features.reshape(low.obsm["subspot_features"].shape)
    assert tl.enhance(shuffled, **QUICK).uns["soscope"]["image_strength"] < 0.2


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:.*(No image|no neighbour)")
def test_defaults_beat_every_baseline_where_spots_have_gaps(data_dir):
    """Single cells in circles of 55 um at a pitch of 100 um: what was captured, and what was not."""
    cells = ad.read_h5ad(data_dir / "osmfish" / "osmfish.h5ad")
    low, truth = bench.simulate_spots(cells, pitch=1540, diameter=847)
    enhanced, model = tl.enhance(low, genes=list(low.var_names), return_model=True, **DEFAULTS)
    df = bench.compare(low, truth, methods={**bench.BASELINES, "soscope": lambda _: enhanced.X}, progress=False)
    score = df.groupby(["metric", "method"])["value"].median().unstack()
    rivals = score.drop(columns="soscope")
    others = rivals.drop(columns="kriging_image")  # it is half of the default
    assert score.loc["pearson", "soscope"] > others.loc["pearson"].max() + 0.04
    assert score.loc["within_r", "soscope"] > 1.1 * others.loc["within_r"].max()
    assert score.loc["pearson_unmeasured", "soscope"] > others.loc["pearson_unmeasured"].max() + 0.02
    assert score.loc["pearson", "soscope"] > rivals.loc["pearson"].max()

    pit = metrics.pit(truth.X, seeded(model.sample_enhanced, 100))
    measured = (truth.obs["measured"] > 0.5).to_numpy()
    for part in (measured, ~measured):
        assert 0.86 < metrics.central_coverage(pit[part]).mean() < 0.94


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:.*(No image|no neighbour|hold no cell)")
def test_cells_in_gaps_are_predicted_better_than_by_their_nearest_spot(data_dir):
    cells = ad.read_h5ad(data_dir / "osmfish" / "osmfish.h5ad")
    low, _ = bench.simulate_spots(cells, pitch=1540, diameter=847)
    spots = AnnData(low.X, obs=low.obs, var=low.var, obsm={"spatial": low.obsm["spatial"]})
    enhanced = tl.enhance(spots, genes=list(low.var_names), cells=cells, capture=847, **DEFAULTS)
    gap = enhanced[enhanced.obs["measured"] == 0]
    found = cells[gap.obs_names].X
    nearest = low[gap.obs["spot"].to_numpy()].X
    assert gap.n_obs > 3000
    ours, theirs = (np.nanmedian(metrics.pearson(profiles, found)) for profiles in (gap.X, nearest))
    assert ours > theirs + 0.05
