"""Sections to merge, made by hand."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix


def section(lattice, positions, columns=("array_row", "array_col"), n_genes=3) -> ad.AnnData:
    """Counts on given lattice positions, shuffled so that no test leans on the order of the rows."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(positions))
    obs = pd.DataFrame(np.asarray(lattice)[order], columns=list(columns), index=[f"s{i}" for i in range(len(order))])
    x = csr_matrix(rng.poisson(3, (len(order), n_genes)).astype(np.int32))
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame({"kind": "gene"}, index=[f"g{i}" for i in range(n_genes)]))
    adata.obsm["spatial"] = np.asarray(positions, dtype=float)[order]
    adata.uns["spatial"] = {"slide": {"images": {}, "scalefactors": {"spot_diameter_fullres": 4.0}}}
    return adata


def square(n_rows, n_cols, first=(0, 0)) -> ad.AnnData:
    lattice = np.stack(np.meshgrid(range(n_rows), range(n_cols), indexing="ij"), -1).reshape(-1, 2) + first
    return section(lattice, 10.0 * lattice[:, ::-1])


def hexagonal(n_rows, n_cols) -> ad.AnnData:
    rows, cols = np.nonzero(np.add.outer(np.arange(n_rows), np.arange(n_cols)) % 2 == 0)
    return section(np.column_stack([rows, cols]), np.column_stack([5 * cols, 5 * np.sqrt(3) * rows]))


def cells(n_cells=60) -> ad.AnnData:
    positions = np.random.default_rng(1).random((n_cells, 2)) * [40, 30] + 100
    return section(np.zeros((n_cells, 0)), positions, columns=())


SECTIONS = {
    "square": (square(5, 7), {}),
    "thirds": (square(7, 7, first=(-3, 11)), {"factor": 3}),
    "hex": (hexagonal(12, 24), {}),
    "cells": (cells(), {"factor": 10.0, "cells": True}),
}
