"""Tissue domains of subspots: a mixture of Gaussians, smoothed over neighbours, that counts spots and not subspots."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy.sparse import csr_matrix, diags_array
from scipy.special import softmax

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import dense, in_memory, spread
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._containers.slots import writable
from soscope_scverse._read import Spots
from soscope_scverse._touching import touching
from soscope_scverse._validators import POSITIVE_INTEGER, SEED, Rules, check_arguments, check_finite, check_text

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture
    from spatialdata import SpatialData

_MOST_DOMAINS = 15
"""Largest number of domains that ``"auto"`` compares."""
_N_COMPONENTS = 15
"""Principal components, as in BayesSpace."""
_SMOOTHING = 3.0
"""gamma of the Potts field, as in BayesSpace for Visium."""
_MOST_FITTED = 10_000
"""Subspots that the mixture is fitted to; all are assigned."""
_MOST_COMPARED = 2_000
"""Spots whose subspots are compared with each other for the silhouette."""
_N_DRAWS = 3
"""Subspots of every spot that the silhouette is averaged over, one at a time."""
_N_STARTS = 3
"""Fits of a mixture from different starts, of which the most likely is kept."""
_N_ROUNDS = 30
"""Largest number of updates of the field."""
_RULES: Rules = {"n_domains": POSITIVE_INTEGER.or_("auto"), "seed": SEED}


@accepts_containers()
def domains(
    enhanced: AnnData | MuData | SpatialData,
    n_domains: int | Literal["auto"] = "auto",
    *,
    layer: str | Mapping[str, str | None] | None = None,
    use_rep: str | None = None,
    library_key: str | None = None,
    key_added: str = "domain",
    seed: int = 0,
    copy: bool = False,
    table_key: str = "table",
    shapes_key: str | None = None,
) -> AnnData | MuData | None:
    r"""Cluster subspots into tissue domains.

    The 15 principal components of the log-normalised profiles follow a mixture of Gaussians with a common covariance,
    and the domain of a subspot depends on those of the subspots that it touches by a Potts field, as in BayesSpace.
    Subspots of a spot are parts of one observation: the number of domains is chosen by the mean silhouette of one
    subspot of every spot, so it does not grow with the number of subspots, and no number of neighbours is needed.

    Parameters
    ----------
    enhanced
        Subspots, as :func:`enhance` returns them, or spots, to compare. Of a MuData, the components of all modalities
        have equal total variance. Of a SpatialData the table `table_key`, e.g. ``"enhanced"``.
    n_domains
        Number of domains, q of BayesSpace's ``spatialCluster``. ``"auto"`` chooses 2 to 15 by the silhouette, which
        prefers few domains that are well separated: pass a number for finer ones.
    layer
        Layer with the profiles, of a MuData a dict by modality; None is ``X``. They are scaled to equal library size
        and log1p-transformed unless they have negative values, are of the Gaussian likelihood, or ``uns["log1p"]``
        shows that ``X`` has been.
    use_rep
        Slot of ``obsm`` that is clustered instead, n_targets x n_components, such as embeddings after integration.
    library_key
        Column of ``obs`` with the sections, whose subspots do not touch each other. Domains are common to all.
    key_added
        Column of ``obs``, and key of ``uns``, to write to.
    seed
        Of the starts of the mixture.
    copy
        Return a changed copy instead of writing to `enhanced`.
    table_key, shapes_key
        Elements of a SpatialData, see :func:`enhance`.

    Returns
    -------
    AnnData, MuData or None
        None, or with `copy` the changed copy. Written are the slots below.
    ``obs[key_added]``
        Domains as categories ``"0"``, ``"1"``, ..., the largest first.
    ``uns[key_added]``
        ``"n_domains"``, those that were compared, and their ``"silhouette"``, largest for the chosen number.

    Raises
    ------
    TypeError, ValueError
        If positions, profiles or `use_rep` are missing or not finite, or there are fewer spots than domains.

    References
    ----------
    Zhao, Stone, Ren et al. Spatial transcriptomics at subspot resolution with BayesSpace. Nature Biotechnology 39, 1375
    (2021). Rousseeuw. Silhouettes: a graphical aid to the interpretation and validation of cluster analysis. Journal of
    Computational and Applied Mathematics 20, 53 (1987).

    Examples
    --------
    >>> adata, image, truth = sos.datasets.synthetic_section()  # doctest: +SKIP
    >>> enhanced = sos.tl.enhance(adata, image=image)  # doctest: +SKIP
    >>> sos.tl.domains(enhanced)  # doctest: +SKIP
    >>> sos.pl.spatial_clusters(enhanced, "domain")  # doctest: +SKIP
    """
    check_arguments(locals(), _RULES)
    check_text("key_added", key_added)
    spots = read.read_sections(spots_of(read.read_data(enhanced)), library_key)
    spot = _spot_of(spots.adata)
    n_spots = spot.max() + 1
    if n_domains != "auto" and n_domains > n_spots:
        msg = f"Expected `n_domains` of at most the number of spots, {n_spots}, found {n_domains}. Choose fewer."
        raise ValueError(msg)
    components = _components(enhanced, layer, n_spots) if use_rep is None else _representation(spots.adata, use_rep)
    numbers = _numbers(components, n_spots) if n_domains == "auto" else [n_domains]
    fits = [_fit(components, number, seed) for number in numbers]
    scores = _silhouettes(components, [fit.predict(components) for fit in fits], spot, seed)
    best = fits[0] if len(fits) == 1 else fits[int(np.argmax(scores))]
    labels = _smoothed(best.predict_proba(components), _neighbors(spots))
    enhanced = writable(enhanced, copy=copy)
    enhanced.obs[key_added] = _by_size(labels)
    enhanced.uns[key_added] = {"n_domains": np.array(numbers), "silhouette": np.array(scores)}
    return enhanced if copy else None


def _spot_of(adata: AnnData) -> np.ndarray:
    """Number of the spot of every subspot; spots are their own."""
    if keys.SPOT not in adata.obs:
        return np.arange(adata.n_obs)
    return np.unique(adata.obs[keys.SPOT].astype(str), return_inverse=True)[1]


def _numbers(components: np.ndarray, n_spots: int) -> list[int]:
    """Numbers of domains to compare: 1 alone if nothing can be separated."""
    if n_spots <= 2 or not components.any():
        return [1]
    return list(range(2, min(_MOST_DOMAINS, n_spots - 1) + 1))


def _representation(adata: AnnData, use_rep: str) -> np.ndarray:
    """The slot of ``obsm`` to cluster."""
    if not isinstance(use_rep, str) or use_rep not in adata.obsm:
        msg = f"Expected `use_rep` to be a slot of `obsm`, one of {sorted(adata.obsm)}, found {use_rep!r}."
        raise ValueError(msg)
    found = read.numbers(f"`obsm[{use_rep!r}]`", dense(in_memory(adata.obsm[use_rep]))).astype(float)
    if found.ndim != 2 or not found.shape[1] or not np.isfinite(found).all():
        msg = f"Expected finite `obsm[{use_rep!r}]`, n_targets x n_components, found shape {found.shape}."
        raise ValueError(msg)
    return _of_unit_variance(found)


def _components(data: AnnData | MuData, layer: Any, n_spots: int) -> np.ndarray:
    """Principal components of the profiles, of all modalities side by side."""
    if isinstance(data, AnnData):
        return _principal(data, layer, n_spots, _is_logged(data, layer))
    layers = read.by_modality("layer", layer)
    parts = []
    for name in data.mod:
        part = data.mod[name][data.obs_names]
        parts.append(_principal(part, layers.get(name), n_spots, _is_logged(part, layers.get(name), name)))
    return np.concatenate(parts, axis=1)


def _principal(adata: AnnData, layer: str | None, n_spots: int, is_logged: bool) -> np.ndarray:
    """Principal components of the comparable profiles, fitted to a part of them, and computed in chunks."""
    from sklearn.decomposition import PCA

    profiles = read.profiles(adata, layer)
    sample = dense(in_memory(profiles[spread(adata.n_obs, _MOST_FITTED)])).astype(float)
    check_finite(sample)
    # counts of a subspot are few: at the library size of a spot, log1p changes more than their scale
    size = None if is_logged or (sample < 0).any() else sample.sum(axis=1).mean() * adata.n_obs / n_spots
    sample = _comparable(sample, size)
    if not np.ptp(sample, axis=0).any():
        return np.zeros((adata.n_obs, 1))
    n_components = max(1, min(_N_COMPONENTS, adata.n_vars, n_spots - 1))
    projection = PCA(n_components, random_state=0).fit(sample)
    parts = []
    for start in range(0, adata.n_obs, _MOST_FITTED):
        x = dense(in_memory(profiles[start : start + _MOST_FITTED])).astype(float)
        check_finite(x)
        parts.append(projection.transform(_comparable(x, size)))
    return _of_unit_variance(np.concatenate(parts))


def _is_logged(adata: AnnData, layer: str | None, modality: str | None = None) -> bool:
    """Whether profiles are recorded to be no counts: they are log-transformed, or of the Gaussian likelihood."""
    recorded = read.record(adata, keys.RESULT).get("arguments")
    likelihood = json.loads(recorded).get("likelihood") if isinstance(recorded, str) else None
    if isinstance(likelihood, Mapping):
        likelihood = likelihood.get(modality)
    return likelihood == "gaussian" or (layer is None and "log1p" in adata.uns)


def _comparable(x: np.ndarray, size: float | None) -> np.ndarray:
    """log1p of counts at a library size; None keeps the values."""
    if size is None:
        return x
    total = x.sum(axis=1, keepdims=True)
    return np.log1p(x * (size / np.where(total > 0, total, 1)))


def _of_unit_variance(components: np.ndarray) -> np.ndarray:
    """Components of a total variance of 1, so that modalities have equal weight and no unit matters."""
    variance = components.var(axis=0).sum()
    return components / np.sqrt(variance) if variance > 0 else np.zeros_like(components)


def _fit(components: np.ndarray, n_domains: int, seed: int) -> GaussianMixture:
    """Fit a mixture to a part of the subspots."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    sample = components[spread(len(components), _MOST_FITTED)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct profiles than domains
        options: dict[str, Any] = {"covariance_type": "tied", "n_init": _N_STARTS, "random_state": seed % 2**32}
        return GaussianMixture(n_domains, **options).fit(sample)


def _silhouettes(components: np.ndarray, labels: list[np.ndarray], spot: np.ndarray, seed: int) -> list[float]:
    """Mean silhouette of each labelling over one subspot of every spot, averaged over draws; -1 for a single domain."""
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(seed)
    scores = np.full((_N_DRAWS, len(labels)), -1.0)
    for draw in scores:
        order = rng.permutation(len(spot))
        rows = order[np.unique(spot[order], return_index=True)[1]]
        rows = rows[spread(len(rows), _MOST_COMPARED)]
        for i, label in enumerate(labels):
            if 2 <= len(np.unique(label[rows])) < len(rows):
                draw[i] = silhouette_score(components[rows], label[rows])
    return scores.mean(axis=0).tolist()


def _neighbors(spots: Spots) -> csr_matrix:
    """Mean over the touching subspots of every one, n_targets x n_targets; nothing for those that touch none."""
    i, j = np.concatenate([rows[touching(spots.positions[rows])] for rows in spots.rows.values()]).T
    joined = csr_matrix((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), shape=(spots.n, spots.n))
    return csr_matrix(diags_array(1 / np.maximum(np.asarray(joined.sum(axis=1)).ravel(), 1)) @ joined)


def _smoothed(probability: np.ndarray, neighbors: csr_matrix) -> np.ndarray:
    """Most probable domain of every subspot in a Potts field, by mean-field updates."""
    evidence = np.log(np.maximum(probability, np.finfo(float).tiny))
    labels = probability.argmax(axis=1)
    for _ in range(_N_ROUNDS):
        probability = softmax(evidence + 2 * _SMOOTHING * (neighbors @ probability), axis=1)
        before, labels = labels, probability.argmax(axis=1)
        if (before == labels).all():
            break
    return labels


def _by_size(labels: np.ndarray) -> pd.Categorical:
    """Labels as categories, the largest first."""
    _, number, size = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-size, kind="stable"))
    return pd.Categorical.from_codes(rank[number], [str(i) for i in range(len(size))])
