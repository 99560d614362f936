"""Maps of clusters."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from maps import colours, drawn, result
from soscope_scverse import pl

pytestmark = pytest.mark.usefixtures("closed_figures")


@pytest.fixture
def clustered(small):
    enhanced = result(small.adata)
    enhanced.obs["leiden"] = pd.Categorical.from_codes(np.arange(enhanced.n_obs) % 3, ["0", "1", "2"])
    spots = small.adata.copy()
    spots.obs["leiden"] = pd.Categorical(["2", "0"] * 15)
    return spots, enhanced


def test_colours_of_clusters(clustered):
    _, enhanced = clustered
    [ax] = pl.spatial_clusters(enhanced)
    assert len(drawn(ax).get_offsets()) == enhanced.n_obs
    assert "leiden_colors" not in enhanced.uns
    np.testing.assert_allclose(colours(ax)[:3], [to_rgba(f"C{i}") for i in range(3)], atol=1e-6)
    enhanced.uns["leiden_colors"] = ["red", "lime", "blue"]
    [ax] = pl.spatial_clusters(enhanced)
    np.testing.assert_allclose(colours(ax)[:3, :3], np.eye(3))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "1", "2"]


def test_clusters_of_spots_have_the_same_colours(clustered, tmp_path):
    spots, enhanced = clustered
    enhanced.uns["leiden_colors"] = ["red", "lime", "blue"]
    of_spots, of_subspots = pl.spatial_clusters(enhanced, spots=spots, save=tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
    np.testing.assert_allclose(colours(of_spots)[:2], colours(of_subspots)[[2, 0]])
    assert of_spots.get_xlim() == of_subspots.get_xlim()


def test_clusters_of_any_kind(clustered):
    _, enhanced = clustered
    enhanced.obs["some"] = enhanced.obs["leiden"].where(enhanced.obs["leiden"] != "1")
    for n in (11, 20, 21, 150):
        enhanced.obs["number"] = np.arange(enhanced.n_obs) % n
        [ax] = pl.spatial_clusters(enhanced, "number")
        assert len(ax.get_legend().get_texts()) == n
        assert len(np.unique(colours(ax), axis=0)) == n
    [ax] = pl.spatial_clusters(enhanced, "some")
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn(ax).get_array()), enhanced.obs["leiden"] == "1")
    assert (colours(ax)[1] == 0).all()


def test_faulty_clusters(clustered):
    spots, enhanced = clustered
    with pytest.raises(ValueError, match=r"`key` to be a column of `adata.obs`, found 'louvain'"):
        pl.spatial_clusters(enhanced, "louvain")
    enhanced.obs["depth"] = 0.5
    with pytest.raises(ValueError, match=r"Expected categories in `adata.obs\['depth'\]`, found float64"):
        pl.spatial_clusters(enhanced, "depth")
    with pytest.raises(ValueError, match=r"`ax` to be 2 Axes, found shape \(\)"):
        pl.spatial_clusters(enhanced, spots=spots, ax=plt.gca())
    assert pl.spatial_clusters(enhanced, ax=plt.gca())[0] is plt.gca()
