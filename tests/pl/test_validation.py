"""The plot of a validation."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from soscope_scverse import pl

pytestmark = pytest.mark.usefixtures("closed_figures")


def validated(key="validation"):
    """Seven genes with scores, of which three are believed, and one without."""
    scores = {
        "within_r": [0.9, 0.1, 0.8, 0.2, 0.7, 0.05, -0.1, np.nan],
        "linear_within_r": [0.3, 0.2, 0.4, 0.1, 0.2, 0.1, 0.0, np.nan],
        "p_adjusted": [0.0, 0.9, 0.01, 0.5, 0.02, 0.9, 0.9, np.nan],
        "believed": [True, False, True, False, True, False, False, False],
    }
    var = pd.DataFrame({f"{key}_{name}": values for name, values in scores.items()})
    return AnnData(np.ones((3, 8)), var=var.set_axis([f"gene_{i}" for i in range(8)]))


def test_genes_are_dots_and_the_believed_ones_are_named(tmp_path):
    ax = pl.validation(validated(), save=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0
    others, believed = (np.asarray(dots.get_offsets()) for dots in ax.collections)
    np.testing.assert_array_equal(believed, [[0.3, 0.9], [0.4, 0.8], [0.2, 0.7]])
    assert len(others) == 4
    assert {text.get_text() for text in ax.texts} == {"gene_0", "gene_2", "gene_4"}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["not believed: 4", "believed: 3"]


def test_key_and_axes_of_the_user():
    _, ax = plt.subplots()
    assert pl.validation(validated("mine"), key="mine", ax=ax) is ax


def test_names_of_genes_are_no_formulas():
    adata = validated()
    adata.var_names = ["$\\frac{1$", *(f"g{i}" for i in range(7))]
    pl.validation(adata).figure.canvas.draw()


def test_nothing_is_believed():
    adata = validated()
    adata.var["validation_believed"] = False
    assert len(pl.validation(adata).texts) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (AnnData(np.ones((3, 2))), r"found no \['validation_within_r'.*Call `tl.validate"),
        (5, "Expected an AnnData, found int"),
    ],
)
def test_spots_without_scores(given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pl.validation(given)


def test_other_arguments():
    with pytest.raises(TypeError, match="`key` to be a string"):
        pl.validation(validated(), key=5)
    with pytest.raises(ValueError, match="`ax` to be 1 Axes"):
        pl.validation(validated(), ax=plt.subplots(1, 2)[1])
