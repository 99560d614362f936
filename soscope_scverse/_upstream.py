"""Everything that reaches into private parts of other packages, with the version it was seen in."""

from __future__ import annotations

from anndata import AnnData


def make_actual(adata: AnnData) -> None:
    """Turn a view into an AnnData of its own, in place (anndata 0.12.19: ``AnnData._init_as_actual``)."""
    adata._init_as_actual(adata.copy())
