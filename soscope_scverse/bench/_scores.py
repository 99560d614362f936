"""Scores of a prediction against the truth, as rows of the table of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse import metrics
from soscope_scverse._regions import Marker
from soscope_scverse.metrics._agreement import Matrix

Score: TypeAlias = Callable[[Any, AnnData], Any]
"""Values of all features, or one for the section, from the prediction and the truth."""

METRICS = ("pearson", "within_r", "mse", "normalized_pearson", "normalized_within_r", "seam_index")
"""Those of a comparison that names no others."""


def _normalized_within_r(prediction: Any, truth: AnnData) -> np.ndarray:
    return metrics.normalized_within_r(prediction, truth.X, truth.obs[keys.SPOT])


def _seam_index(prediction: Any, truth: AnnData) -> np.ndarray:
    """Of the prediction alone; NaN without positions of the subspots."""
    if keys.SPATIAL not in truth.obsm:
        return np.full(truth.n_vars, np.nan)
    return metrics.seam_index(prediction, read.positions(truth), truth.obs[keys.SPOT])


SCORES: Mapping[str, Score] = {
    "pearson": lambda prediction, truth: metrics.pearson(prediction, truth.X),
    "within_r": lambda prediction, truth: metrics.within_r(prediction, truth.X, truth.obs[keys.SPOT]),
    "mse": lambda prediction, truth: metrics.mse(prediction, truth.X),
    "normalized_pearson": lambda prediction, truth: metrics.normalized_pearson(prediction, truth.X),
    "normalized_within_r": _normalized_within_r,
    "seam_index": _seam_index,
    "compactness": lambda prediction, truth: metrics.high_expression_compactness(prediction, read.positions(truth)),
    "correlation_r": lambda prediction, truth: metrics.correlation_agreement(prediction, truth.X).r,
    "correlation_mse": lambda prediction, truth: metrics.correlation_agreement(prediction, truth.X).mse,
    "kmeans_ari_3": lambda prediction, truth: metrics.cluster_ari(prediction, truth.X, 3),
    "kmeans_ari_4": lambda prediction, truth: metrics.cluster_ari(prediction, truth.X, 4),
}
"""All scores that have a name."""

KS_DISTANCE = "ks_distance"
"""Score of markers, for each the distance between its region and the others."""
ALL_GENES = "(all)"
"""Stands for the gene in rows with one value for the section."""

_OF_PARTS = METRICS[:2]
_MEASURED = 0.5  # share of a subspot that was captured, from which on it counts as measured
_OF_SECTION = ("correlation_r", "correlation_mse", "kmeans_ari_3", "kmeans_ari_4")


class Scorer(NamedTuple):
    """What predictions of one section are scored by."""

    truth: AnnData
    functions: Mapping[str, Score]
    parts: Mapping[str, np.ndarray]
    """Subspots that are scored again on their own, by the suffix of their metrics."""
    markers: Sequence[Marker]

    def table(self, name: str, prediction: Matrix | None) -> pd.DataFrame:
        """Return the columns gene, metric and value of one run; None is a training that diverged."""
        genes, truth = self.truth.var_names, self.truth
        if prediction is None:
            values = {metric: np.nan if metric in _OF_SECTION else np.full(len(genes), np.nan) for metric in self.names}
            distances = [np.nan] * len(self.markers)
        else:
            _check_prediction(name, prediction, truth)
            values = {metric: score(prediction, truth) for metric, score in self.functions.items()}
            for part, rows in self.parts.items():
                some = truth[rows]
                values |= {f"{m}{part}": SCORES[m](prediction[rows], some) for m in _OF_PARTS if m in self.functions}
            distances = [self._ks_distance(prediction, marker) for marker in self.markers]
        tables = [_rows(metric, values[metric], genes, name) for metric in self.names]
        if self.markers:
            marked = pd.DataFrame({"gene": [marker.gene for marker in self.markers], "value": distances})
            tables.append(marked.assign(metric=KS_DISTANCE))
        return pd.concat(tables, ignore_index=True)[["gene", "metric", "value"]]

    @property
    def names(self) -> list[str]:
        """Names of the metrics, those of parts last."""
        return [*self.functions, *(f"{m}{part}" for part in self.parts for m in _OF_PARTS if m in self.functions)]

    def _ks_distance(self, prediction: Matrix, marker: Marker) -> float:
        column = self.truth.var_names.get_indexer([marker.gene])
        return float(metrics.ks_distance(prediction[:, column], marker.inside)[0])


def named_scores(given: Sequence[str] | Mapping[str, Score]) -> Mapping[str, Score]:
    """Return scores by name.

    Raises
    ------
    ValueError
        If there are none, names are unknown, or what stands by a name is no function.
    """
    if isinstance(given, Mapping):
        wrong = {name: score for name, score in given.items() if not callable(score)}
        if wrong or not given:
            msg = f"Expected functions of prediction and truth in `metrics`, found {wrong or 'none'}."
            raise ValueError(msg)
        return dict(given)
    names = np.atleast_1d(np.asarray(given, dtype=object)).tolist()
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        msg = (
            f"Expected `metrics` out of {list(SCORES)}, found {unknown or 'none'}. Use these names, or pass a dict "
            "from names to functions of the prediction and the truth."
        )
        raise ValueError(msg)
    return {name: SCORES[name] for name in names}


def measured_parts(low: AnnData) -> dict[str, np.ndarray]:
    """Which subspots were measured and which were not, by the suffix of their metrics; {} if all were."""
    exposure = read.exposures(low)
    area = read.areas(low, exposure)
    if area is exposure:
        return {}
    measured = exposure[area > 0] >= _MEASURED * area[area > 0]
    return {"_measured": measured, "_unmeasured": ~measured}


def _check_prediction(name: str, prediction: Matrix, truth: AnnData) -> None:
    if np.shape(prediction) != truth.shape:
        msg = (
            f"Expected method {name!r} to return n_targets x n_features = {truth.shape}, found shape "
            f"{np.shape(prediction)}. Its rows are the subspots, spot by spot."
        )
        raise ValueError(msg)


def _rows(metric: str, value: Any, genes: pd.Index, name: str) -> pd.DataFrame:
    """Return one row per gene, or one for the section."""
    values = read.numbers(f"what metric {metric!r} returns", value)
    if values.ndim and values.shape != (len(genes),):
        msg = (
            f"Expected metric {metric!r} to return {len(genes)} values, one per feature, or one for the section, found "
            f"shape {values.shape} for method {name!r}."
        )
        raise ValueError(msg)
    return pd.DataFrame(
        {"gene": genes if values.ndim else [ALL_GENES], "metric": metric, "value": np.atleast_1d(values)}
    )
