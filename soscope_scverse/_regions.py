"""Markers of regions: which genes a region is known for, and where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read


class Marker(NamedTuple):
    """A gene that marks a region."""

    gene: str
    region: str
    inside: np.ndarray
    """n_obs booleans."""


def read_regions(adata: AnnData, region_key: str) -> np.ndarray:
    """Return the region of every observation, ``obs[region_key]``, as strings.

    Raises
    ------
    ValueError
        If there is no such column; the message says how subspots get the regions of their spots.
    """
    if isinstance(region_key, str) and region_key not in adata.obs and keys.SPOT in adata.obs:
        msg = (
            f"Expected `region_key` to be a column of `enhanced.obs`, found {region_key!r}; there are "
            f"{list(adata.obs)}. For the regions of the spots: `enhanced.obs[{region_key!r}] = "
            f"adata.obs[{region_key!r}].loc[enhanced.obs['{keys.SPOT}']].to_numpy()`."
        )
        raise ValueError(msg)
    return read.labels(adata, "region_key", region_key, "region")


def read_markers(
    adata: AnnData, markers: Mapping[str, Sequence[str] | str], region_key: str, *, of: str = "adata"
) -> list[Marker]:
    """Return all markers with their regions.

    Parameters
    ----------
    adata
        Spots or subspots.
    markers
        Genes by the region that they mark.
    region_key
        Column of ``obs`` with the regions.
    of
        Name of `adata` in messages.

    Raises
    ------
    TypeError, ValueError
        If `markers` is no such dict, genes or regions are unknown, or a region is the whole section.
    """
    if not isinstance(markers, Mapping) or not markers:
        msg = f"Expected `markers` to be a dict of genes by region, as {{'tumour': ['ERBB2']}}, found {markers!r}."
        raise TypeError(msg)
    labels = read_regions(adata, region_key)
    there = np.unique(labels).tolist()
    unknown = [region for region in markers if region not in there]
    if unknown or len(there) < 2:
        msg = (
            f"Expected `markers` of at least two regions in `{of}.obs[{region_key!r}]`, {there}, found markers of "
            f"{unknown or list(markers)}."
        )
        raise ValueError(msg)
    return [
        Marker(gene, region, labels == region)
        for region, genes in markers.items()
        for gene in read.genes(adata, [genes] if isinstance(genes, str) else genes, of=of)
    ]
