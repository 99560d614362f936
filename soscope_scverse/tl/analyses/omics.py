"""Correlation of features of two omics that belong together, before and after enhancement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _read as read
from soscope_scverse._arrays import Matrix, columns
from soscope_scverse._validators import check_finite
from soscope_scverse.metrics import pearson

Pairs = Mapping[str, str] | Sequence[tuple[str, str]]
"""Features of the first omics with those of the second."""


def omics_correlation(
    before: AnnData | MuData,
    after: AnnData | MuData,
    pairs: Pairs,
    *,
    modalities: tuple[str, str] | None = None,
) -> pd.DataFrame:
    """Correlate pairs of features, RNA and protein or peak and RNA, before and after enhancement.

    Parameters
    ----------
    before, after
        Spots and enhanced subspots: MuData, or AnnData that have the features of both omics.
    pairs
        Features of the first omics with those of the second, as ``{"CD4": "CD4-protein"}`` or a list of pairs.
    modalities
        Names of the first and the second omics in a MuData. Default: its two modalities.

    Returns
    -------
    pandas.DataFrame
        One row per pair.
    ``first``, ``second``
        Features.
    ``before``, ``after``
        Pearson correlation over all spots, and over all subspots; NaN if the second is constant.

    Raises
    ------
    TypeError, ValueError
        If there are no pairs, features or modalities are missing, values are NaN or infinite, or modalities have
        different observations.

    See Also
    --------
    soscope_scverse.pl.before_after : Plot the table.
    """
    given = list(pairs.items() if isinstance(pairs, Mapping) else pairs or ())
    if not given or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in given):
        msg = f"Expected `pairs` of features, as {{'CD4': 'CD4-protein'}}, found {pairs!r}."
        raise ValueError(msg)
    first, second = ([pair[i] for pair in given] for i in (0, 1))
    table = pd.DataFrame({"first": first, "second": second})
    for name, data in (("before", before), ("after", after)):
        a, b = _both(name, data, modalities)
        x, y = (_values(name, part, names) for part, names in ((a, first), (b, second)))
        table[name] = pearson(x, y)
    return table


def _both(name: str, data: AnnData | MuData, modalities: tuple[str, str] | None) -> tuple[AnnData, AnnData]:
    """Return the two omics, with the same observations."""
    if not isinstance(read.read_data(data), MuData):
        if modalities is not None:
            msg = f"Expected `modalities` with MuData only, found {modalities!r} and `{name}` as an AnnData. Omit them."
            raise ValueError(msg)
        return data, data
    names = tuple(data.mod) if modalities is None else tuple(modalities)
    if len(names) != 2 or not set(names) <= set(data.mod):
        msg = f"Expected `modalities` to be two of {list(data.mod)} in `{name}`, found {names}."
        raise ValueError(msg)
    a, b = (read.read_anndata(data.mod[modality]) for modality in names)
    if not a.obs_names.equals(b.obs_names):
        msg = (
            f"Expected the same observations in the same order in {names[0]!r} and {names[1]!r} of `{name}`, found "
            f"{a.n_obs} and {b.n_obs}. Keep those that both have, e.g. `muon.pp.intersect_obs(mdata)`."
        )
        raise ValueError(msg)
    return a, b


def _values(name: str, adata: AnnData, features: list[str]) -> Matrix:
    read.genes(adata, list(dict.fromkeys(features)), of=name)
    values = columns(read.profiles(adata, None), adata.var_names.get_indexer(features))
    check_finite(values, f"`{name}`")
    return values
