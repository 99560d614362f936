"""The examples of the documentation run as they stand, with a few training steps."""

import re
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

from soscope_scverse import datasets
from soscope_scverse.model import soscope

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def given():
    """What the page of uses says it begins with."""
    adata, image, truth = datasets.synthetic_section(60, n_genes=8)
    prot = adata[:, :3].copy()
    prot.var_names = ["CD4", "CD8", "CD19"]
    mdata = md.MuData({"rna": adata[:, 3:].copy(), "prot": prot})
    cells = pd.DataFrame(truth.obsm["spatial"], columns=["x", "y"], index=[f"cell {i}" for i in range(truth.n_obs)])
    parts = {name: datasets.synthetic_section(40, n_genes=8, seed=i) for i, name in enumerate("abc")}
    sections = ad.concat({name: part.adata for name, part in parts.items()}, label="section", index_unique="_")
    pictures = {name: part.image for name, part in parts.items()}
    genes = sections.var_names[:6].tolist()
    return {
        "adata": adata,
        "image": image,
        "mdata": mdata,
        "cells": cells,
        "sections": sections,
        "pictures": pictures,
        "genes": genes,
    }


def test_the_examples_of_the_uses_run(given, monkeypatch):
    monkeypatch.setattr(soscope, "_N_STEPS", 3)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "uses.md").read_text(), flags=re.DOTALL)
    assert len(blocks) > 5
    for block in blocks:
        exec(compile(block, "docs/uses.md", "exec"), given)
    counts = given["enhanced"].layers["counts"]
    assert (counts == np.round(counts)).all()
    assert given["fine"].n_obs == 60 * 19
    assert given["between"].n_obs == 59
