"""Results of iStar: one pickle per gene, with a map of the image in blocks of 16 x 16 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from anndata import AnnData

from soscope_scverse._validators import check_path
from soscope_scverse.bench.readers.pickles import read_array
from soscope_scverse.bench.readers.subspots import Subspots

BLOCK = 16
"""Width of a pixel of the maps in pixels of the rescaled image."""

_FOLDER = "cnts-super"
_SCALES = ("pixel-size-raw.txt", "pixel-size.txt")


def read_istar(path: str | PathLike, adata: AnnData, *, genes: Sequence[str] | None = None) -> AnnData:
    """Read the maps of iStar into the rows of the subspots.

    Every subspot is the mean of the pixels in a circle within it. Pickles are read without running code: only arrays
    of numbers are accepted.

    Parameters
    ----------
    path
        Folder that was the prefix of iStar, with ``cnts-super/<gene>.pickle``, ``pixel-size-raw.txt`` and
        ``pixel-size.txt``.
    adata
        Spots with subspots, e.g. of :func:`~soscope_scverse.bench.simulate_low_resolution`, in pixels of ``he-raw``.
    genes
        Genes to read. Default: those of `adata` that have a map.

    Returns
    -------
    AnnData
        n_subspots x n_genes, to be passed to :func:`~soscope_scverse.bench.compare` as a method; ``obs["spot"]``,
        ``obs["subspot"]``, ``obsm["spatial"]`` as in a result of :func:`~soscope_scverse.tl.enhance`.

    Raises
    ------
    TypeError, ValueError
        If files are missing, hold anything but maps of one shape, or have no values at some of the subspots.

    References
    ----------
    Zhang, D. et al. Inferring super-resolution tissue architecture by integrating spatial transcriptomics with
    histology. Nat. Biotechnol. (2024), doi:10.1038/s41587-023-02019-9. Files as in
    https://github.com/daviddaiweizhang/istar, December 2024.
    """
    check_path("path", path)
    subspots = Subspots(adata)
    maps = {file.stem: file for file in sorted((Path(path) / _FOLDER).glob("*.pickle"))}
    wanted = [gene for gene in adata.var_names if gene in maps] if genes is None else genes
    names = np.atleast_1d(np.asarray(wanted, dtype=object)).astype(str).tolist()
    missing = [gene for gene in names if gene not in maps]
    if missing or not names:
        msg = (
            f"Expected maps '{_FOLDER}/<gene>.pickle' in {str(path)!r}, found {len(maps)}, "
            f"{f'none of {missing[0]!r}' if missing else 'none of the genes of `adata`'}."
        )
        raise ValueError(msg)
    raw, rescaled = (_number(Path(path) / name) for name in _SCALES)
    first = _map(maps[names[0]])
    there = np.isfinite(first)
    rows, cols = np.nonzero(there)
    xy = (np.column_stack([cols, rows]) + 0.5) * BLOCK * rescaled / raw
    weights = subspots.weights(xy, "iStar")
    values = np.empty((len(subspots.positions), len(names)), dtype=np.float32)
    for j, gene in enumerate(names):
        found = _map(maps[gene])
        if found.shape != first.shape or not np.isfinite(found[there]).all():
            msg = f"Expected maps with values at the same pixels, found others in {maps[gene].name!r}: {found.shape}."
            raise ValueError(msg)
        values[:, j] = weights @ found[there]
    return subspots.result(values, names, "iStar")


def _map(path: Path) -> np.ndarray:
    found = read_array(path).astype(float)
    if found.ndim != 2 or not np.isfinite(found).any():
        msg = f"Expected a map of height x width with values, found shape {found.shape} in {path.name!r}."
        raise ValueError(msg)
    return found


def _number(path: Path) -> float:
    """Return the size of a pixel that iStar wrote, in micrometres."""
    try:
        size = float(path.read_text())
    except (OSError, ValueError):
        size = np.nan
    if not 0 < size < np.inf:
        msg = f"Expected the size of a pixel in micrometres in {path.name!r}, found none. Pass the folder of iStar."
        raise ValueError(msg)
    return size
