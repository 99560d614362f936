"""Validation of an enhancement on the user's own section, without a truth at hand."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse import metrics
from soscope_scverse._containers.dispatch import ELEMENT_OPTIONS, accepts_containers
from soscope_scverse._containers.slots import writable
from soscope_scverse._validators import Number, Rules, check_arguments, check_keywords, check_text
from soscope_scverse.metrics._agreement import per_feature
from soscope_scverse.module.likelihoods import LIKELIHOODS
from soscope_scverse.tl._enhance import DEFAULTS, enhance
from soscope_scverse.tl._merged import Merged, linear, merge_spots
from soscope_scverse.tl._options import ENHANCE_RULES, check_options
from soscope_scverse.tl._prepare import is_every, read_input
from soscope_scverse.tl._verdict import FALSE_DISCOVERY_RATE, verdict

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = logging.getLogger(__name__)

_RULES: Rules = {"factor": Number(2, 6, integer=True), "n_samples": Number(2, integer=True)}
_SET_HERE = ("adata", "image", "library_key", "n_samples", "key_added", *ELEMENT_OPTIONS)
_OF_SUBSPOTS = ("n_subspots", "cells", "capture", "capture_shape")
_OF_FILES = ("checkpoint_dir", "resume", "save_model", "return_model", "out", "overwrite")
_EXCLUDED = (*_SET_HERE, *_OF_SUBSPOTS, *_OF_FILES)
"""Arguments of :func:`~soscope_scverse.tl.enhance` that have no meaning here, or that are arguments of `validate`."""


@accepts_containers()
def validate(
    adata: AnnData | SpatialData,
    image: Any = None,
    *,
    factor: int = 2,
    library_key: str | None = None,
    n_samples: int = 30,
    key_added: str = keys.VALIDATION,
    copy: bool = False,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    **enhance_kwargs: Any,
) -> AnnData | None:
    """Merge the spots of a section into coarser ones, recover them, and score every gene.

    The merged spots are enhanced as the spots would be, and the result is compared with the spots that were measured.
    Two models are trained, with and without the image, on fewer spots than :func:`~soscope_scverse.tl.enhance` has.

    Parameters
    ----------
    adata
        Spots on a square or hexagonal lattice, of one section or, with `library_key`, of several.
    image
        Histology image, see :func:`~soscope_scverse.tl.enhance`.
    factor
        Square lattice: factor x factor spots are merged, 2 to 6. On a hexagonal lattice a spot and its six neighbours
        are, whatever the factor.
    library_key
        Column of ``obs`` with the sections.
    n_samples
        Posterior samples for the intervals.
    key_added
        Key of ``uns`` and first part of the names in ``var``.
    copy
        Return a copy instead of writing to `adata`.
    table_key, image_key, shapes_key, coordinate_system
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`; the table is written to.
    **enhance_kwargs
        Further arguments of :func:`~soscope_scverse.tl.enhance`: ``genes``, ``layer``, ``likelihood``, ``encoder``,
        ``seed``, ``train_kwargs``, ... Those of the subspots (``n_subspots``, ``cells``, ``capture``) and of files have
        no meaning here.

    Returns
    -------
    AnnData or None
        None, or with `copy` the changed copy. Written are the slots below; genes that are not enhanced have NaN, and
        are not believed.
    ``var["validation_pearson"]``, ``var["validation_within_r"]``, ``var["validation_linear_within_r"]``
        Agreement of recovered and measured spots over all spots, and after subtracting the mean of each merged spot,
        see :func:`~soscope_scverse.metrics.within_r`; the latter for linear interpolation, too.
    ``var["validation_expected_within_r"]``
        What `within_r` against measured counts is to be expected one level finer, for subspots that have the counts of
        a spot divided by the number of members of a merged spot. The correlation without counting noise is shrunk to
        the mean over genes by its standard error, and attenuated by the noise of the fewer counts.
    ``var["validation_image_gain"]``
        `within_r` less that of the model without the image; 0 if its strength is 0, NaN without an image.
    ``var["validation_interval_width"]``, ``var["validation_coverage"]``
        Mean width of the 90 % intervals relative to the standard deviation of the measured spots, and share of the
        spots inside of them. Counts that are equal to a bound are inside, so it is high for few counts.
    ``var["validation_p_adjusted"]``, ``var["validation_believed"]``
        Whether the gene may be believed at this resolution: within merged spots, the recovered spots are nearer to the
        measured ones, in squared error (of counts relative to the mean count of the merged spot), than equal shares of
        it and than linear interpolation. Both are tested over merged spots (one-sided t tests, the larger p-value,
        false discovery rate of 5 %). An error below that of equal shares means that more than half of the detail in the
        map is real.
    ``uns["validation"]``
        Numbers of spots, merged spots, genes and believed genes, medians of the scores, ``image_strength`` as in a
        result, and the version.

    Raises
    ------
    TypeError, ValueError
        If the input is invalid for :func:`~soscope_scverse.tl.enhance`, spots do not lie on a lattice, or there are too
        few; before the training starts.
    FileNotFoundError
        If an image, weights or another input is a path without a file.

    See Also
    --------
    soscope_scverse.pl.validation : Plot the scores.
    soscope_scverse.pl.report : Report that begins with them.

    Notes
    -----
    Spots with gaps between them, as of Visium, are merged without the gaps: what lies there cannot be validated.

    References
    ----------
    Benjamini, Y. & Hochberg, Y. Controlling the false discovery rate. J. R. Stat. Soc. B 57, 289-300 (1995).

    Examples
    --------
    >>> tl.validate(adata, "section.tif")  # doctest: +SKIP
    >>> adata.var_names[adata.var["validation_believed"]]  # doctest: +SKIP
    """
    check_arguments(locals(), _RULES)
    check_text("key_added", key_added)
    check_keywords("enhance_kwargs", enhance_kwargs, enhance, ENHANCE_RULES, excluded=_EXCLUDED)
    given = {**enhance_kwargs, "image": image, "library_key": library_key, "n_samples": n_samples}
    merged = _merged(adata, factor, given)
    adata = writable(adata, copy=copy)
    scores, strength = _scores(merged, given)
    for name, values in scores.items():
        missing = False if values.dtype == bool else np.nan
        adata.var[f"{key_added}_{name}"] = values.reindex(adata.var_names, fill_value=missing)
    adata.uns[key_added] = {
        "version": version("soscope-scverse"),
        "factor": factor,
        "n_spots": len(merged.block),
        "n_merged": merged.adata.n_obs,
        "n_genes": len(scores),
        "n_believed": int(scores["believed"].sum()),
        "false_discovery_rate": FALSE_DISCOVERY_RATE,
        "image_strength": strength,
        **{name: _median(values) for name, values in scores.drop(columns=["p_adjusted", "believed"]).items()},
    }
    return adata if copy else None


def _merged(adata: AnnData, factor: int, given: Mapping[str, Any]) -> Merged:
    """Merge the spots that :func:`~soscope_scverse.tl.enhance` would enhance, with the genes that it would choose."""
    if isinstance(adata, MuData):
        msg = "Expected an AnnData or a SpatialData, found MuData. Validate a modality: an AnnData with its positions."
        raise TypeError(msg)
    options = DEFAULTS | dict(given)
    read.read_anndata(adata)
    check_options(adata, options)
    every = {"genes": adata.var_names.tolist()} if is_every(options["genes"]) else {}
    found = read_input(read.on_tissue(adata, keep=options["keep_off_tissue"]), options | {"quality": "best"} | every)
    spots, (x,) = found.spots, found.profiles
    usual = "sum" if LIKELIHOODS[options["likelihood"]].is_counts else "mean"
    aggregate: Any = (options["model_kwargs"] or {}).get("aggregate") or usual
    merged = merge_spots(spots, x, factor, aggregate, (options["library_key"], options["batch_key"]))
    logger.info("Merged %d of %d spots into %d to recover them.", len(merged.block), spots.n, merged.adata.n_obs)
    return merged


def _scores(merged: Merged, given: Mapping[str, Any]) -> tuple[pd.DataFrame, float]:
    """Scores of every gene, and how strongly the image was used."""
    low, truth, block = merged
    fast = {"quality": "fast"} if is_every(given.get("genes")) else {}
    options = {**given, **fast, "genes": low.var_names.tolist(), "layer": None, "keep_off_tissue": True}
    recovered = enhance(low, **options)
    record = recovered.uns[keys.RESULT]
    strength = record["image_strength"]
    is_counts = LIKELIHOODS[given.get("likelihood", "nb")].is_counts
    scores = verdict(truth, recovered.X, linear(low, given["library_key"]), block, is_counts=is_counts)
    scores.index = low.var_names
    scores.insert(0, "pearson", metrics.pearson(recovered.X, truth))
    has_image = "encoder" in record
    gain = np.zeros(low.n_vars) if has_image else np.full(low.n_vars, np.nan)
    if has_image and strength > 0:
        without = enhance(low, **{**options, "image": None, "sources": "positions", "n_samples": 0})
        gain = scores["within_r"] - metrics.within_r(without.X, truth, block)
    lower, upper = (recovered.layers[name] for name in (keys.Q05, keys.Q95))
    coverage, width = metrics.coverage(truth, lower, upper), _relative_width(lower, upper, truth)
    scores = scores.assign(image_gain=gain, interval_width=width, coverage=coverage)
    return scores, strength


def _median(values: pd.Series) -> float:
    """Median of the known values; NaN if there are none."""
    return float(values.median()) if values.notna().any() else np.nan


def _relative_width(lower: np.ndarray, upper: np.ndarray, truth: Any) -> np.ndarray:
    """Mean width of intervals relative to the standard deviation of the truth; NaN where that is constant."""
    deviation = per_feature(lambda x: x.std(axis=0), truth)
    return np.divide((upper - lower).mean(axis=0), deviation, out=np.full_like(deviation, np.nan), where=deviation > 0)
