"""Markers and the regions that they are known for, before and after enhancement and between omics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, diags

from soscope_scverse import _read as read
from soscope_scverse._arrays import columns, dense
from soscope_scverse._regions import Marker, read_markers, read_regions
from soscope_scverse._validators import check_finite


def signal_outside(
    before: AnnData,
    after: AnnData,
    markers: Mapping[str, Sequence[str] | str],
    region_key: str,
    *,
    layer: str | None = None,
) -> pd.DataFrame:
    r"""Noise correction: share of the signal of each marker outside of its region, before and after enhancement.

    .. math:: \frac{m_\mathrm{out}}{m_\mathrm{in} + m_\mathrm{out}}

    of the mean signal inside and outside, so that it depends on neither the size of the region nor the scale of the
    signal: 0 if all signal is in the region, 0.5 if it is everywhere the same.

    Parameters
    ----------
    before
        Spots, with non-negative profiles.
    after
        Their enhanced subspots, or another result for the same genes.
    markers
        Genes by the region that they mark.
    region_key
        Column of ``obs`` with the regions, in both.
    layer
        Layer of `before`; None is ``X``.

    Returns
    -------
    pandas.DataFrame
        One row per marker.
    ``gene``, ``region``
        Names.
    ``before``, ``after``
        Share in [0, 1], NaN for a marker without any signal.

    Raises
    ------
    TypeError, ValueError
        If markers or regions are not in both, a region is the whole section, or values are negative, NaN or infinite.

    See Also
    --------
    soscope_scverse.pl.before_after : Plot the table.
    """
    shares = {}
    for name, adata, of in (("before", before, layer), ("after", after, None)):
        found = read_markers(read.read_anndata(adata), markers, region_key, of=name)
        x = _features(name, adata, [marker.gene for marker in found], of)
        if (x < 0).any():
            msg = f"Expected a non-negative signal in `{name}`, found {(x < 0).sum()} negative values."
            raise ValueError(msg)
        shares[name] = [_share_outside(values, marker) for values, marker in zip(x.T, found, strict=True)]
    return pd.DataFrame({"gene": [m.gene for m in found], "region": [m.region for m in found], **shares})


def _share_outside(x: np.ndarray, marker: Marker) -> float:
    inside, outside = x[marker.inside].mean(), x[~marker.inside].mean()
    return float(outside / (inside + outside)) if inside + outside > 0 else np.nan


def marker_patterns(
    first: AnnData, second: AnnData, features: Mapping[str, str] | Sequence[str], region_key: str
) -> pd.DataFrame:
    """Compare the patterns of markers over regions between two omics, or two sections or species.

    Regions are matched by name, so that observations need not be the same: activities of genes in a mouse, say, and
    the expression of their orthologues in a human section. Compared are the means of the regions, because subspots of
    a spot are no independent observations.

    Parameters
    ----------
    first, second
        Spots or subspots, e.g. activities of :func:`gene_activity` and expression.
    features
        Names in both, or names in `first` with those in `second`, e.g. ``{"Fhl2": "FHL2"}``.
    region_key
        Column of ``obs`` with the regions, in both.

    Returns
    -------
    pandas.DataFrame
        One row per feature and region that both have.
    ``feature``, ``region``
        Names in `first`.
    ``first``, ``second``
        Mean of the region, scaled to [0, 1] over the regions; NaN if all are equal.
    ``r``
        Pearson correlation of both over the regions, the same in all rows of the feature; 1 or -1 for two regions.

    Raises
    ------
    TypeError, ValueError
        If features or regions are missing, values are NaN or infinite, or less than two regions are in both.

    See Also
    --------
    soscope_scverse.pl.marker_patterns : Plot the table.
    """
    pairs = dict(features) if isinstance(features, Mapping) else dict(zip(*2 * [_names(features)], strict=True))
    labels = [read_regions(read.read_anndata(adata), region_key) for adata in (first, second)]
    shared = sorted(set(labels[0]) & set(labels[1]))
    if len(shared) < 2:
        msg = (
            f"Expected at least two regions in both `obs[{region_key!r}]`, found {shared} of "
            f"{sorted(set(labels[0]))} and {sorted(set(labels[1]))}. Give them the same names."
        )
        raise ValueError(msg)
    chosen = (read.genes(first, list(pairs), of="first"), read.genes(second, list(pairs.values()), of="second"))
    means = [
        _scaled(_region_means(_features(of, adata, names, None), label, shared))
        for of, adata, names, label in zip(("first", "second"), (first, second), chosen, labels, strict=True)
    ]
    a, b = (mean - mean.mean(axis=0) for mean in means)
    r = (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    tables = [
        pd.DataFrame({"feature": name, "region": shared, "first": means[0][:, j], "second": means[1][:, j], "r": r[j]})
        for j, name in enumerate(chosen[0])
    ]
    return pd.concat(tables, ignore_index=True)


def _names(features: Sequence[str] | str) -> list[str]:
    return [features] if isinstance(features, str) else list(features)


def _features(of: str, adata: AnnData, names: Sequence[str], layer: str | None) -> np.ndarray:
    """Return n_obs x n_names finite values of the argument `of`."""
    x = dense(columns(read.profiles(adata, layer), adata.var_names.get_indexer(names))).astype(float)
    check_finite(x, f"`{of}`")
    return x


def _region_means(x: np.ndarray, labels: np.ndarray, regions: Sequence[str]) -> np.ndarray:
    """Return n_regions x n_features means."""
    code = pd.Index(regions).get_indexer(labels)
    there = code >= 0
    members = csr_matrix((np.ones(there.sum()), (code[there], np.flatnonzero(there))), shape=(len(regions), len(x)))
    return diags(1 / np.asarray(members.sum(axis=1)).ravel()) @ (members @ x)


def _scaled(means: np.ndarray) -> np.ndarray:
    span = np.ptp(means, axis=0)
    return np.where(span > 0, means - means.min(axis=0), np.nan) / np.where(span > 0, span, 1)
