"""The examples of the documentation run as they stand, with a few training steps."""

import re
from pathlib import Path

import anndata as ad
import geopandas as gpd
import mudata as md
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
import tifffile
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

import soscope_scverse as sos
from helpers import few_steps
from soscope_scverse import datasets

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def given():
    """What the pages say they begin with."""
    adata, image, truth = datasets.synthetic_section(60, n_genes=8)
    prot = adata[:, :3].copy()
    prot.var_names = ["CD4", "CD8", "CD19"]
    mdata = md.MuData({"rna": adata[:, 3:].copy(), "prot": prot})
    cells = pd.DataFrame(truth.obsm["spatial"], columns=["x", "y"], index=[f"cell {i}" for i in range(truth.n_obs)])
    parts = {name: datasets.synthetic_section(40, n_genes=8, seed=i) for i, name in enumerate("abc")}
    sections = ad.concat({name: part.adata for name, part in parts.items()}, label="section", index_unique="_")
    images = {name: part.image for name, part in parts.items()}
    genes = sections.var_names[:6].tolist()
    return {
        "adata": adata,
        "image": image,
        "mdata": mdata,
        "cells": cells,
        "sections": sections,
        "images": images,
        "genes": genes,
    }


def run(page: str, given: dict, monkeypatch, *, section: str = "") -> dict:
    """Run the blocks of a page, or of one of its sections, one after the other; returns the names they leave."""
    monkeypatch.setattr(sos.SoScope, "train", few_steps(sos.SoScope.train))
    text = (DOCS / page).resolve().read_text()
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, f"docs/{page}", "exec"), given)
    return given


@pytest.mark.usefixtures("closed_figures")
@pytest.mark.parametrize(("lattice", "n_subspots"), [("hex", 7), ("square", 9)])
def test_the_example_of_the_readme_runs_on_both_lattices(tmp_path, monkeypatch, lattice, n_subspots):
    section = datasets.synthetic_section(60, lattice=lattice, n_genes=8)
    section.adata.write_h5ad(tmp_path / "section.h5ad")
    tifffile.imwrite(tmp_path / "section.tif", section.image)
    monkeypatch.chdir(tmp_path)
    left = run("../README.md", {}, monkeypatch)
    written = ad.read_h5ad(tmp_path / "enhanced.h5ad")
    assert written.n_obs == n_subspots * section.adata.n_obs
    assert {"denoised", "std", "q05", "q95", "sampled_counts"} <= set(written.layers)
    np.testing.assert_array_equal(written.X, left["enhanced"].X)


@pytest.mark.filterwarnings("ignore:The image has practically no effect")
def test_the_examples_of_the_uses_run(given, monkeypatch):
    run("uses.md", given, monkeypatch)
    counts = given["enhanced"].layers["sampled_counts"]
    assert (counts == np.round(counts)).all()
    assert given["fine"].n_obs == 60 * 19
    assert given["between"].n_obs == 59


@pytest.mark.filterwarnings("ignore:The image has practically no effect")
def test_the_examples_of_choosing_run(given, monkeypatch):
    run("choosing.md", given, monkeypatch)
    assert set(given["scores"]["method"]) == {"linear", "texture", "colour", "no image"}
    assert given["enhanced"].var_names[:2].tolist() == given["adata"].var_names[:2].tolist()


def test_the_examples_of_the_capture_area_run(given, monkeypatch):
    left = run("capture.md", given, monkeypatch)
    measured = left["enhanced"].obs["measured"]
    assert set(measured[left["enhanced"].obs["subspot"] == 3]) == {1.0}
    assert measured[left["enhanced"].obs["subspot"] != 3].to_numpy() == pytest.approx(0.15, abs=0.01)


def test_the_examples_of_the_questions_run(given, monkeypatch):
    run("faq.md", given, monkeypatch)
    np.testing.assert_array_equal(given["again"].X, given["first"].X)
    sums, observed = given["sums"], given["adata"].to_df()
    np.testing.assert_allclose(sums.loc[observed.index], observed[sums.columns], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("closed_figures")
@pytest.mark.filterwarnings("ignore:Number of distinct clusters:sklearn.exceptions.ConvergenceWarning")
def test_the_examples_of_the_paper_run(monkeypatch):
    left = run("paper.md", {}, monkeypatch)
    assert set(left["scores"]["metric"]) >= {"pearson", "mse", "ks_distance", "correlation_r", "compactness"}
    assert set(left["factors"]["factor"]) == {2, 3, 4, 5, 6}
    assert left["correlation"][["before", "after"]].notna().all(axis=None)
    assert left["outside"][["before", "after"]].notna().all(axis=None)
    assert (left["others"].loc[left["others"]["metric"] == "pearson", "value"] > 0.999).all()
    assert left["activity"].n_vars == left["peaks"].n_vars


def test_all_25_analyses_of_the_paper_have_a_call():
    section = (DOCS / "paper.md").read_text().partition("## All analyses")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in section.splitlines()
        if re.match(r"\| \d+ ", row)
    ]
    assert [int(row[0]) for row in rows] == list(range(1, 26))
    names = {name for row in rows for name in re.findall(r"`((?:tl|pl|pp|bench|metrics)\.\w+)", row[3])}
    missing = [
        name for name in sorted(names) if not hasattr(getattr(sos, name.partition(".")[0]), name.partition(".")[2])
    ]
    assert missing == []
    assert all("`" in row[3] for row in rows)


def test_the_examples_of_own_encoders_run(given, monkeypatch):
    run("images.md", given, monkeypatch, section="An encoder of your own")
    assert given["enhanced"].obsm["image_features"].shape[1] == 2


def test_the_citation_is_of_this_version():
    stated = re.search(r"^version: (.+)$", (DOCS.parent / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert stated[1] == sos.__version__


@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")  # spatialdata, before they are
def test_the_examples_of_spatialdata_run(as_visium, monkeypatch):
    pytest.importorskip("spatialdata_plot")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda *args, **kwargs: None)
    section = datasets.synthetic_section(60, n_genes=8)
    sdata = as_visium(section, name="mouse")
    place = get_transformation(sdata["mouse"], get_all=True)
    cells = gpd.GeoDataFrame(geometry=shapely.buffer(shapely.points(section.truth.obsm["spatial"]), 2))
    sdata["cell_boundaries"] = ShapesModel.parse(cells, transformations=place)
    hd = as_visium(datasets.synthetic_section(49, lattice="square", n_genes=8), name="mouse")
    bins = gpd.GeoDataFrame(geometry=hd["mouse"].geometry.buffer(18, cap_style="square"))
    hd["mouse"] = ShapesModel.parse(bins, transformations=place)
    hd["square_008um"] = hd["table"]
    parts = [as_visium(datasets.synthetic_section(49, n_genes=8, seed=i), name=name) for i, name in enumerate("ab")]
    both = sd.concatenate(parts, concatenate_tables=True, obs_names_make_unique=True)
    given = {"sdata": sdata, "hd": hd, "both": both, "gene": section.adata.var_names[0], "image": section.image}
    run("spatialdata.md", given, monkeypatch)
    assert {"enhanced", "cells"} <= set(sdata.tables)
    assert hd["enhanced"].n_obs == 16 * 49
    assert set(given["table"]["method"]) == {"repeat", "linear"}


def test_every_row_of_the_reliability_page_names_a_test():
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "reliability.md").read_text()))
    assert len(named) > 20
    root = DOCS.parent
    missing = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not (root / file).exists() or f"\ndef {name}(" not in (root / file).read_text()
    ]
    assert missing == []
