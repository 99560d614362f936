"""What messages point at, by what was found."""

import numpy as np
import pandas as pd
import pytest

from helpers import QUICK
from lattices import hexagonal, spots
from soscope_scverse import pp, tl
from soscope_scverse._hints import columns_of_positions


def test_genes_under_other_names_are_found_in_their_column(section):
    adata = section.adata
    adata.var["gene_ids"] = [f"ENSG{number:05}" for number in range(adata.n_vars)]
    wanted = adata.var["gene_ids"].iloc[[2, 4]].tolist()
    with pytest.raises(ValueError, match=r"2 of 2 are not.*in `adata.var\['gene_ids'\]`") as refused:
        tl.enhance(adata, genes=wanted)
    call = str(refused.value).split("name them by `")[1].removesuffix("`.")
    assert list(eval(call, {"adata": adata, "genes": wanted})) == list(adata.var_names[[2, 4]])  # the advice runs


def test_the_name_of_a_column_of_marks_is_no_gene(section):
    section.adata.var["wanted"] = np.arange(section.adata.n_vars) < 3
    with pytest.raises(ValueError, match=r"It is a column: pass `adata.var_names\[adata.var\['wanted'\] == 1\]`"):
        tl.enhance(section.adata, genes="wanted")


def test_a_misspelt_layer_is_recognised(section):
    section.adata.layers["counts"] = section.adata.X.copy()
    with pytest.raises(ValueError, match=r"found 'Counts'. Did you mean counts"):
        tl.enhance(section.adata, layer="Counts")


@pytest.mark.parametrize(
    ("columns", "advice"),
    [
        (["x_centroid", "y_centroid"], "{'x_centroid': 'x', 'y_centroid': 'y'}"),
        (["id", "CenterX_px", "CenterY_px"], "{'CenterX_px': 'x', 'CenterY_px': 'y'}"),
        (["X", "Y", 0], "{'X': 'x', 'Y': 'y'}"),
        (["max", "area"], ""),
    ],
)
def test_columns_of_positions(columns, advice):
    assert (advice in columns_of_positions(columns)) if advice else columns_of_positions(columns) == ""


def test_a_section_of_several_images_names_its_column(section):
    entry = {"images": {"hires": section.image}, "scalefactors": {"tissue_hires_scalef": 1.0}}
    section.adata.uns["spatial"] = {"A": entry, "B": entry}
    with pytest.raises(ValueError, match=r"found \['A', 'B'\]. Pass `library_key`, the column .* single section: "):
        tl.enhance(section.adata, **QUICK)
    section.adata.obs["slide"] = "B"
    with pytest.raises(ValueError, match=r"found \['A', 'B'\]. Pass `library_key='slide'`"):
        tl.enhance(section.adata, **QUICK)
    assert set(tl.enhance(section.adata, library_key="slide", **QUICK).obs["slide"]) == {"B"}


def test_images_without_a_scale_factor_are_named(section):
    section.adata.uns["spatial"] = {"A": {"images": {"hires": section.image}, "scalefactors": {}}}
    with pytest.warns(UserWarning, match=r"with its scale factor .*the images \['hires'\] without"):
        tl.enhance(section.adata, **QUICK)


def test_sections_that_a_dict_of_images_does_not_name(section):
    section.adata.obs["slide"] = np.where(np.arange(section.adata.n_obs) < 30, "A", "B")
    with pytest.raises(ValueError, match=r"found none of \['B'\] and the entries \['A', 'C'\] of `image`"):
        tl.enhance(section.adata, image={"A": None, "C": section.image}, library_key="slide", **QUICK)


def test_names_of_many_sections_are_not_listed(section):
    entry = {"images": {"hires": section.image}, "scalefactors": {"tissue_hires_scalef": 1.0}}
    section.adata.uns["spatial"] = {"A": entry}
    section.adata.obs["name"] = section.adata.obs_names
    with pytest.raises(ValueError, match=r", ...\] \(60 in all\)"):
        tl.enhance(section.adata, library_key="name", **QUICK)


@pytest.mark.parametrize("number", [1, 2])
def test_one_or_two_spots_show_no_lattice(number):
    with pytest.raises(ValueError, match=f"at least three spots, .* found {number}"):
        pp.subspots(spots(*hexagonal())[:number].copy())


def test_a_result_is_no_input(section):
    enhanced = tl.enhance(section.adata, **QUICK)
    with pytest.raises(ValueError, match=r"result of `tl.enhance`: pass its spots"):
        tl.enhance(enhanced, **QUICK)


def test_cells_of_a_table_with_other_columns(section):
    x, y = section.adata.obsm["spatial"].T
    cells = pd.DataFrame({"x_centroid": x, "y_centroid": y}, index=[f"cell_{number}" for number in range(len(x))])
    with pytest.raises(ValueError, match="Rename them") as refused:
        tl.enhance(section.adata, cells=cells, **QUICK)
    renamed = eval(str(refused.value).split("Rename them: `")[1].split("`")[0], {"cells": cells})
    assert tl.enhance(section.adata, cells=renamed, **QUICK).n_obs == len(x)
