"""Zero inflation of spot counts relative to a negative binomial: prints a table for ``docs/likelihoods.md``.

``python benchmarks/zero_inflation.py``; real sections are read from ``../shared/data`` or the folder in
``SOSCOPE_TEST_DATA``.

The mean of a gene in a spot is estimated from its eight nearest neighbours, relative to library size, with one
pseudo-spot at the section mean. Poisson, negative binomial (variance (1 + phi) mean, as in the model) and zero-inflated
negative binomial are fitted gene by gene to four fifths of the spots by maximum likelihood and scored on the others.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from quality import DATA
from quality_report import markdown
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.stats import nbinom

from soscope_scverse import bench, pp

N_NEIGHBORS, N_FOLDS, N_GENES, LEAST_SHARE = 8, 5, 200, 0.05
SECTIONS = ("her2st/C2", "mouse_ob/MOB1", "embryo/embryo", "humanskin/humanskin_prot")


def expected(counts: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Expected counts from the neighbours of each spot, n_spots x n_genes; the spot itself is excluded."""
    library_size = counts.sum(axis=1, keepdims=True)
    near = cKDTree(xy).query(xy, k=N_NEIGHBORS + 1)[1][:, 1:]
    rate = counts.sum(axis=0) / library_size.sum()
    pseudo = library_size.mean()
    return library_size * (counts[near].sum(axis=1) + pseudo * rate) / (library_size[near].sum(axis=1) + pseudo)


def log_prob(counts: np.ndarray, mean: np.ndarray, log_phi: float, logit: float = -np.inf) -> np.ndarray:
    """Log probability under a zero-inflated negative binomial; `logit` -inf means no zero inflation."""
    phi, extra = np.exp(log_phi), 1 / (1 + np.exp(-logit))
    plain = nbinom.logpmf(counts, mean / phi, 1 / (1 + phi)) + np.log1p(-extra)
    return np.where(counts == 0, np.logaddexp(plain, np.log(extra)) if extra > 0 else plain, plain)


FAMILIES: dict[str, tuple[float, ...]] = {"poisson": (), "nb": (0.0,), "zinb": (0.0, -3.0)}
"""Starting values of the parameters: log phi, and the log odds of an extra zero."""


def fit(family: str, counts: np.ndarray, mean: np.ndarray) -> tuple[float, ...]:
    start = FAMILIES[family]
    if not start:
        return (-10.0,)
    loss = lambda theta: -log_prob(counts, mean, *theta).sum()  # noqa: E731
    found = minimize(loss, start, method="L-BFGS-B", bounds=[(-8, 8), (-12, 6)][: len(start)])
    return tuple(found.x)


def gene(counts: np.ndarray, mean: np.ndarray) -> dict[str, float]:
    """Held-out scores and expected zeros of one gene."""
    fold = np.random.default_rng(0).integers(N_FOLDS, size=len(counts))
    row: dict[str, float] = {"zeros": (counts == 0).mean()}
    for family in FAMILIES:
        score, zeros = np.zeros(len(counts)), np.zeros(len(counts))
        for held in (fold == f for f in range(N_FOLDS)):
            theta = fit(family, counts[~held], mean[~held])
            score[held] = log_prob(counts[held], mean[held], *theta)
            zeros[held] = np.exp(log_prob(np.zeros(held.sum()), mean[held], *theta))
        row |= {f"{family} zeros": zeros.mean(), f"{family} score": score.mean()}
    return row


def section(name: str) -> dict[str, object]:
    _, truth = bench.simulate_low_resolution(ad.read_h5ad(DATA / f"{name}.h5ad"))
    counts = truth.X.toarray().astype(float)
    mean = expected(counts, truth.obsm["spatial"])
    genes = truth.var_names.get_indexer(pp.spatial_genes(truth, N_GENES))
    tested = [g for g in genes if LEAST_SHARE < (counts[:, g] == 0).mean() < 1 - LEAST_SHARE]
    df = pd.DataFrame([gene(counts[:, g], mean[:, g]) for g in tested])
    gain = df["zinb score"] - df["nb score"]
    return {
        "section": name,
        "spots": truth.n_obs,
        "genes": len(df),
        **{f"zeros, {f}": f"{df[f'{f} zeros'].mean():.3f}" for f in FAMILIES},
        "zeros, observed": f"{df['zeros'].mean():.3f}",
        "nb - poisson": f"{(df['nb score'] - df['poisson score']).mean():+.4f}",
        "zinb - nb": f"{gain.mean():+.5f}",
        "zinb better": f"{(gain > 0).mean():.0%}",
    }


def main() -> None:
    rows = [section(name) for name in SECTIONS]
    print(markdown(rows[0], [map(str, row.values()) for row in rows]))


if __name__ == "__main__":
    main()
