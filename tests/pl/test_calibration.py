"""The plot of calibration."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from soscope_scverse import metrics, pl


def drawn(n_samples=19, shape=(400, 5), scale=1.0, seed=0):
    """Truth and draws with many ties, from the same law if `scale` is 1."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(2, 1, shape)
    spread = rng.gamma(1 / scale**2, scale**2, (n_samples, *shape)) if scale else 1.0
    return rng.poisson(mean * rng.gamma(1, 1, shape)), rng.poisson(mean * spread)


def test_calibration_curve_is_the_share_inside(tmp_path):
    pit = metrics.pit(*drawn(50, scale=0.3))
    ax = pl.calibration(pit, save=tmp_path / "calibration.png")
    level, inside = ax.lines[1].get_data()
    assert (tmp_path / "calibration.png").stat().st_size > 0
    assert inside[-1] == 1
    at_90 = np.isclose(level, 0.9)
    assert inside[at_90].item() == pytest.approx(metrics.central_coverage(pit).mean(), abs=1e-3)
    assert ax.get_legend() is None
    plt.close("all")


def test_calibration_curves_by_name():
    _, ax = plt.subplots()
    curves = {"a": np.array([0.5, np.nan]), "b": np.array([0.1, 0.9])}
    assert pl.calibration(curves, ax=ax) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    plt.close("all")


@pytest.mark.parametrize("values", [[1.5], [np.nan], []])
def test_calibration_refuses_what_is_no_pit(values):
    with pytest.raises(ValueError, match=r"metrics\.pit"):
        pl.calibration(np.array(values))
