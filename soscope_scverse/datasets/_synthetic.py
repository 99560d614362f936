"""Synthetic tissue sections with an H&E-like image: spots with known subspots, and fine beads to merge."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import ndimage, sparse

from soscope_scverse import _keys as keys
from soscope_scverse._validators import NON_NEGATIVE, POSITIVE_INTEGER, SEED, Choice, Number, Rules, check_arguments
from soscope_scverse.pp._capture import CaptureArea
from soscope_scverse.pp._geometry import measured_shares, resolve_n_subspots, subspot_offsets
from soscope_scverse.pp._lattice import Lattice, LatticeKind

PITCH = 36.0
"""Centre-to-centre distance of spots in pixels."""

KINDS = {"region": 0.5, "gradient": 0.25, "image": 0.15, "noise": 0.1}
"""Kinds of genes, named after the pattern of their expression, and their shares."""

FOLD = {"region": (3.0, 8.0), "gradient": (3.0, 8.0), "image": (3.0, 6.0), "noise": (1.0, 1.0)}
"""Range of the fold change F_g of a gene, between the extremes of its pattern."""

REGION_SCALE, REGION_BORDER = 2.5, 0.05
"""Smoothing of the region fields in pitches, and softmax temperature, which determines the width of the borders."""

CELLULARITY_SCALE = 0.3
"""Smoothing of the cellularity, which is visible in the image and varies within spots, in pitches."""

LIBRARY_SIZE_SD = 0.35
"""Standard deviation of the log of the relative library sizes of the spots."""

BEAD_PITCH = PITCH / 6
"""Centre-to-centre distance of beads in pixels: 6 x 6 beads cover a spot."""

GRADIENT = 0.5
"""Standard deviation of the gradient of a component, relative to that of its region levels."""

HEMATOXYLIN = np.array([0.563, 0.720, 0.406])
EOSIN = np.array([0.216, 0.801, 0.558])
"""Optical densities of the two stains in red, green and blue (Macenko et al. 2009)."""

# Appearance of the regions, one value per region.
NUCLEI = np.array([5.0, 10.0, 16.0, 2.5])  # nuclei per 1,000 square pixels
RADIUS = np.array([2.1, 2.7, 2.0, 2.2])  # of nuclei, in pixels
ELONGATION = np.array([1.7, 1.15, 1.0, 2.2])  # ratio of the axes of nuclei
CHROMATIN = np.array([1.3, 1.0, 1.6, 1.2])  # hematoxylin of nuclei
CYTOPLASM = np.array([0.45, 0.38, 0.28, 0.62])  # eosin of the cytoplasm
N_REGIONS = len(NUCLEI)

_BASES = {"hex": np.array([[1, 0], [0.5, np.sqrt(0.75)]]), "square": np.eye(2)}
"""Basis vectors (x, y) of the lattices, in pitches."""

_SECTION_RULES: Rules = {
    "n_spots": POSITIVE_INTEGER,
    "lattice": Choice(("hex", "square")),
    "n_genes": POSITIVE_INTEGER,
    "capture": Number(0, PITCH, above=True).or_(None),
    "seed": SEED,
}
_COMPONENTS_RULES: Rules = {
    "n_beads": POSITIVE_INTEGER,
    "n_components": POSITIVE_INTEGER,
    "noise": NON_NEGATIVE,
    "seed": SEED,
}


class SyntheticSection(NamedTuple):
    """Synthetic section, see :func:`synthetic_section`."""

    adata: AnnData
    """The spots: n_spots x n_genes counts, the observed data."""

    image: np.ndarray
    """The image: height x width x 3, uint8, RGB. All positions are in its pixels."""

    truth: AnnData
    """The subspots: (n_spots * n_subspots) x n_genes; row ``n * n_subspots + k`` is subspot k of spot n."""


class SyntheticComponents(NamedTuple):
    """Synthetic section of fine beads, see :func:`synthetic_components`."""

    adata: AnnData
    """The beads: n_beads x n_components."""

    image: np.ndarray
    """The image: height x width x 3, uint8, RGB. All positions are in its pixels."""


class _Tissue(NamedTuple):
    """Structure of the tissue as maps over the pixels of the image, or values at positions."""

    regions: np.ndarray
    """N_REGIONS x height x width (or x n_positions) memberships, which sum to 1."""
    cellularity: np.ndarray
    """height x width (or n_positions), mean 0 and standard deviation 1 over the image."""

    def at(self, xy: np.ndarray) -> _Tissue:
        """Interpolate the maps at positions."""

        def sample(field: np.ndarray) -> np.ndarray:
            return ndimage.map_coordinates(field, xy.T[::-1], order=1, mode="nearest")

        return _Tissue(np.stack([sample(region) for region in self.regions]), sample(self.cellularity))


def synthetic_section(
    n_spots: int = 400,
    *,
    lattice: Literal["hex", "square"] = "hex",
    n_subspots: int | None = None,
    n_genes: int = 50,
    capture: float | None = None,
    seed: int = 0,
) -> SyntheticSection:
    r"""Simulate a tissue section with an H&E-like image and known subspots.

    Parameters
    ----------
    n_spots
        Number of spots, in a roughly square section.
    lattice
        ``"hex"``: lattice and numbering of Visium, where ``array_row + array_col`` is even. ``"square"``: rows and
        columns.
    n_subspots
        Number of subspots per spot. Hexagonal lattice: 7 (default), 19, 37, ..., a centre with one, two, three, ...
        rings; square lattice: 9 (default), or 4, 16, 25, ..., square cells. The subspots of all spots tile the section
        without gaps or overlaps.
    n_genes
        Number of genes.
    capture
        Diameter in pixels of the circle that a spot captures, at most 36; None: spots capture their whole lattice cell.
        That of Visium is 19.8.
    seed
        Seed of the random generator; results with the same arguments are identical.

    Returns
    -------
    SyntheticSection
        A named tuple ``(adata, image, truth)``.

        ``adata``, the spots: ``X`` (integer counts, CSR), ``obs["in_tissue"]``, ``obs["array_row"]``,
        ``obs["array_col"]``, ``obs["region"]`` (the region of most of its subspots), ``obsm["spatial"]`` (x, y in
        pixels of the image), ``uns["spatial"]["synthetic"]`` (no image, but ``scalefactors``), ``var["kind"]``
        (``"region"``, ``"gradient"``, ``"image"`` or ``"noise"``) and ``var["dispersion"]`` (phi).

        ``image``, the image: height x width x 3, uint8. The centre-to-centre distance of spots is 36 pixels, and the
        image extends 36 pixels beyond the outermost spots.

        ``truth``, the subspots: ``X``, ``obsm["spatial"]``, ``uns["spatial"]`` and ``var`` as above, ``layers["mean"]``
        (the noise-free mean mu), ``obs["spot"]`` (name of the spot), ``obs["subspot"]`` (k), ``obs["region"]``,
        ``obs["cellularity"]`` (u), ``obs["library_size"]`` (d) and ``obs["measured"]``, the share of the subspot that
        was captured. Summed over the subspots of a spot, ``truth.X`` equals ``adata.X`` if all of them were captured.

    Raises
    ------
    ValueError
        If the lattice is unknown or has no partition into ``n_subspots``, or a number is below 1.

    Notes
    -----
    *Tissue.* Four smooth Gaussian random fields :math:`h_r` (white noise smoothed over 2.5 pitches, scaled to variance
    1) define regions with soft borders, :math:`m_r(p) = \mathrm{softmax}_r(h_r(p) / 0.05)` at pixel p. A fifth, fine
    field u(p) (0.3 pitches), the cellularity, is independent of the regions and varies within spots.

    *Image.* Nuclei follow a Poisson process of intensity :math:`e^{0.7 u - 0.245} \sum_r m_r \lambda_r`. They are
    ellipses whose size, elongation and staining depend on the region; staining also increases with u. The eosin of the
    cytoplasm depends on the region and its hematoxylin on u. With the amounts H(p) and E(p) of the two stains and their
    optical densities :math:`s_H` and :math:`s_E`, the intensity of a pixel is :math:`250 \exp(-H s_H - E s_E)`
    (Beer-Lambert) with Gaussian noise.

    *Genes.* The mean of gene g in subspot k of spot n, at position :math:`p_{nk}`, is

    .. math:: \mu_{nkg} = \frac{1}{K} \, d_n \, b_g \, F_g^{\, s_g(p_{nk})}

    with the relative library size :math:`d_n = e^{0.35 \epsilon_n}` of the spot (technical, shared by its subspots),
    the level :math:`b_g = 15 \, e^{0.9 \epsilon_g}` in counts per spot (about 2 to 100), a fold change :math:`F_g` and
    a pattern :math:`s_g` of unit range. By kind of gene:

    ======== ===== ======= =====================================================================================
    kind     share fold    pattern
    ======== ===== ======= =====================================================================================
    region   50 %  3 to 8  :math:`\sum_r m_r(p) e_{gr}`; :math:`e_g`: random permutation of -1/2, -1/6, 1/6, 1/2
    gradient 25 %  3 to 8  :math:`\pm (|p - c_g| / \mathrm{diagonal} - 1/2)`; :math:`c_g`: uniform in the image
    image    15 %  3 to 6  :math:`\pm u(p) / 2`; the fold change is that between u = -1 and u = 1
    noise    10 %  1       0
    ======== ===== ======= =====================================================================================

    *Counts.* The counts of a subspot are negative binomial with variance :math:`(1 + \phi_g) \mu_{nkg}`, where
    :math:`\phi_g` is uniform in 0.3 to 1. This family is closed under summation; a spot is the sum of its subspots.
    With a capture area, a spot is the sum of the counts in the captured shares :math:`m_k` of its subspots: negative
    binomial with mean :math:`m_k \mu_{nkg}`, and beta-binomial given the counts of the whole subspots.

    Examples
    --------
    >>> adata, image, truth = synthetic_section(100, n_genes=20)
    >>> adata.shape, truth.shape
    ((100, 20), (700, 20))
    """
    check_arguments(locals(), _SECTION_RULES)
    offsets = _offsets(lattice, n_subspots)
    rng = np.random.default_rng(seed)

    rows, cols, spots = _spots(n_spots, lattice)
    subspots = (spots[:, None] + offsets).reshape(-1, 2)
    height, width = _extent(spots)
    tissue = _tissue(rng, (height, width))
    image = _image(rng, tissue)

    var = _genes(rng, n_genes)
    here = tissue.at(subspots)
    library_size = np.repeat(np.exp(rng.normal(0, LIBRARY_SIZE_SD, n_spots)), len(offsets))
    log_fold = rng.uniform(*np.log([FOLD[kind] for kind in var["kind"]]).T)
    level = np.exp(rng.normal(np.log(15), 0.9, n_genes))
    patterns = _patterns(rng, var["kind"], here, subspots, (height, width))
    mean = library_size[:, None] / len(offsets) * level * np.exp(log_fold * patterns)
    counts = _negative_binomial(rng, mean, var["dispersion"].to_numpy())
    measured = np.tile(_measured(lattice, len(offsets), capture), n_spots)

    truth = _subspot_anndata(counts, mean, var, subspots, here, library_size, n_spots)
    truth.obs[keys.MEASURED_SHARE] = measured
    captured = counts if capture is None else _captured(rng, truth, measured)
    adata = _spot_anndata(truth, captured, rows, cols, spots, PITCH if capture is None else float(capture))
    return SyntheticSection(adata, image, truth)


def synthetic_components(
    n_beads: int = 3600, *, n_components: int = 2, noise: float = 1.0, seed: int = 0
) -> SyntheticComponents:
    r"""Simulate a section of fine square beads with principal components instead of counts, as in slide-DNA-seq.

    Merge beads by their mean with ``bench.simulate_low_resolution(adata, factor, aggregate="mean")`` and factors of 2
    to 6. The image is simulated as in :func:`synthetic_section`; 6 x 6 beads have the size of a spot there.

    Parameters
    ----------
    n_beads
        Number of beads, in a roughly square section.
    n_components
        Number of components.
    noise
        Standard deviation of the measurement noise; that of the noise-free components is 1.
    seed
        Seed of the random generator; results with the same arguments are identical.

    Returns
    -------
    SyntheticComponents
        A named tuple ``(adata, image)``. ``adata``, the beads: ``X`` (float32), ``layers["mean"]`` (noise-free),
        ``obs["array_row"]``, ``obs["array_col"]``, ``obs["region"]`` (the clone), ``obsm["spatial"]`` (x, y in pixels
        of the image) and ``uns["spatial"]["synthetic"]`` (no image, but ``scalefactors``).

    Raises
    ------
    ValueError
        If a number is below 1 or the noise below 0.

    Notes
    -----
    Clones are the regions :math:`m_r(p)` of :func:`synthetic_section`, with soft borders; they are visible in the
    image. With a level :math:`e_{cr} \sim \mathcal N(0, 1)` of each clone and a direction :math:`v_c` of unit length,

    .. math:: x_c(p) \sim \mathcal N\big(\mu_c(p), \mathrm{noise}^2\big), \qquad
        \mu_c(p) \propto \sum_r m_r(p) e_{cr} + \frac12 \frac{v_c^\top p}{\mathrm{sd}}

    where the region and the gradient term are scaled to a standard deviation of 1 over the beads before they are added
    with these weights, and their sum is scaled again.

    Examples
    --------
    >>> adata, image = synthetic_components(900)
    >>> adata.shape, image.shape
    ((900, 2), (192, 192, 3))
    """
    check_arguments(locals(), _COMPONENTS_RULES)
    rng = np.random.default_rng(seed)
    rows, cols, spots = _spots(n_beads, "square")
    beads = PITCH + (spots - PITCH) * BEAD_PITCH / PITCH
    tissue = _tissue(rng, _extent(beads))
    image = _image(rng, tissue)

    here = tissue.at(beads)
    clones = here.regions.T @ rng.standard_normal((N_REGIONS, n_components))
    gradients = beads @ _unit_columns(rng.standard_normal((2, n_components)))
    mean = _standardised(_standardised(clones) + GRADIENT * _standardised(gradients))
    values = mean + noise * rng.standard_normal(mean.shape)

    obs = pd.DataFrame(
        {"array_row": rows, "array_col": cols, "region": _region_names(here.regions.argmax(axis=0))},
        index=[f"bead_{n:0{len(str(n_beads))}d}" for n in range(1, n_beads + 1)],
    )
    var = pd.DataFrame(index=[f"PC{c}" for c in range(1, n_components + 1)])
    adata = AnnData(values.astype(np.float32), obs=obs, var=var, layers={"mean": mean.astype(np.float32)})
    return SyntheticComponents(_with_positions(adata, beads, BEAD_PITCH), image)


def _unit_columns(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=0)


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Scale columns to mean 0 and standard deviation 1; constant columns become 0."""
    deviation = columns.std(axis=0)
    return (columns - columns.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1)


def _extent(positions: np.ndarray) -> tuple[int, int]:
    """Height and width of the image, which extends one pitch beyond the outermost positions."""
    width, height = (int(extent) + 1 for extent in positions.max(axis=0) + PITCH)
    return height, width


def _offsets(kind: LatticeKind, n_subspots: int | None) -> np.ndarray:
    """Return the n_subspots x 2 positions (x, y) of the subspots relative to their spot, in pixels."""
    lattice = Lattice(kind, PITCH * _BASES[kind])
    return subspot_offsets(lattice, resolve_n_subspots("auto" if n_subspots is None else n_subspots, kind))


def _spots(n_spots: int, lattice: LatticeKind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return array_row, array_col and the n_spots x 2 positions (x, y) in pixels of a roughly square section."""
    row_step, col_step = (np.sqrt(0.75), 0.5) if lattice == "hex" else (1.0, 1.0)
    n_rows = max(round(np.sqrt(n_spots / row_step)), 1)
    in_row = [len(part) for part in np.array_split(np.arange(n_spots), n_rows)]
    rows = np.repeat(np.arange(n_rows), in_row)
    cols = np.concatenate([np.arange(n) for n in in_row])
    if lattice == "hex":
        cols = 2 * cols + rows % 2
    return rows, cols, PITCH * (1 + np.column_stack([cols * col_step, rows * row_step]))


def _field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Sample white noise smoothed with a Gaussian of ``scale`` pixels and scaled to mean 0 and variance 1."""
    step, pad = scale / 4, 16  # four knots per scale, padded by four scales on each side
    knots = rng.standard_normal([int(n / step) + 2 * pad + 2 for n in shape])
    smooth = ndimage.gaussian_filter(knots, 4)
    field = ndimage.affine_transform(smooth, [1 / step, 1 / step], offset=pad, output_shape=shape, order=1)
    return ((field - field.mean()) / field.std()).astype(np.float32)


def _tissue(rng: np.random.Generator, shape: tuple[int, int]) -> _Tissue:
    """Sample regions with soft borders and, independently, the cellularity."""
    heights = np.stack([_field(rng, shape, REGION_SCALE * PITCH) for _ in range(N_REGIONS)])
    weights = np.exp((heights - heights.max(axis=0)) / REGION_BORDER)
    return _Tissue(weights / weights.sum(axis=0), _field(rng, shape, CELLULARITY_SCALE * PITCH))


def _image(rng: np.random.Generator, tissue: _Tissue) -> np.ndarray:
    """Simulate the image of tissue stained with hematoxylin and eosin: height x width x 3, uint8."""
    u = tissue.cellularity
    nuclei = _nuclei(rng, tissue)
    texture = _field(rng, u.shape, 8) + _field(rng, u.shape, 3) + ndimage.gaussian_filter(rng.normal(0, 4, u.shape), 1)
    eosin = np.einsum("r,rhw->hw", CYTOPLASM, tissue.regions) * np.exp(0.12 * texture)
    hematoxylin = 0.08 * np.exp(0.6 * u) + nuclei
    density = hematoxylin[..., None] * HEMATOXYLIN + (eosin * (1 - 0.5 * np.minimum(nuclei, 1)))[..., None] * EOSIN
    light = 250 * np.exp(-density) + rng.normal(0, 2, density.shape)
    return light.clip(0, 255).round().astype(np.uint8)


def _nuclei(rng: np.random.Generator, tissue: _Tissue) -> np.ndarray:
    """Sample nuclei and return their hematoxylin: height x width."""
    half = 7  # half the width of the window around a nucleus, in pixels
    shape = tissue.cellularity.shape
    intensity = np.einsum("r,rhw->hw", NUCLEI / 1000, tissue.regions) * np.exp(0.7 * tissue.cellularity - 0.245)
    row, col = np.nonzero(rng.poisson(intensity))
    n_nuclei = len(row)
    region = tissue.regions[:, row, col].argmax(axis=0)
    stretch = np.sqrt(ELONGATION[region] * rng.uniform(1, 1.6, n_nuclei))
    radius = RADIUS[region] * rng.uniform(0.8, 1.2, n_nuclei)
    stain = CHROMATIN[region] * np.exp(0.15 * tissue.cellularity[row, col] + rng.normal(0, 0.15, n_nuclei))

    # elliptical distance of the pixels of the window from the centre: n_nuclei x window x window
    window = np.arange(-half, half + 1)
    dy, dx = (window - rng.uniform(-0.5, 0.5, (n_nuclei, 1)) for _ in range(2))
    angle = rng.uniform(0, np.pi, (n_nuclei, 1, 1))
    cos, sin = np.cos(angle), np.sin(angle)
    along = (cos * dx[:, None, :] + sin * dy[:, :, None]) / stretch[:, None, None]
    across = (cos * dy[:, :, None] - sin * dx[:, None, :]) * stretch[:, None, None]
    inside = (radius[:, None, None] - np.hypot(along, across) + 0.5).clip(0, 1)

    canvas = np.zeros((shape[0] + 2 * half, shape[1] + 2 * half))
    pixel = (row[:, None, None] + half + window[:, None]) * canvas.shape[1] + col[:, None, None] + half + window
    np.maximum.at(canvas.reshape(-1), pixel.reshape(-1), (stain[:, None, None] * inside).reshape(-1))
    return ndimage.gaussian_filter(canvas, 0.6)[half:-half, half:-half]


def _genes(rng: np.random.Generator, n_genes: int) -> pd.DataFrame:
    """Assign kinds and names to genes in the shares of ``KINDS``, and sample their dispersions."""
    ends = np.floor(np.cumsum(list(KINDS.values())) * n_genes + 0.5).astype(int)
    kinds = np.repeat(list(KINDS), np.diff(ends, prepend=0))
    number = pd.Series(kinds).groupby(kinds).cumcount() + 1
    names = [f"{kind}_{i:0{len(str(n_genes))}d}" for kind, i in zip(kinds, number, strict=True)]
    kind = pd.Categorical(kinds, categories=list(KINDS))
    return pd.DataFrame({"kind": kind, "dispersion": rng.uniform(0.3, 1, n_genes)}, index=names)


def _patterns(
    rng: np.random.Generator, kinds: pd.Series, here: _Tissue, xy: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Return the patterns of the genes, approximately of unit range: n_positions x n_genes."""
    n_genes = len(kinds)
    orders = rng.permuted(np.tile(np.linspace(-0.5, 0.5, N_REGIONS), (n_genes, 1)), axis=1)
    sources = rng.uniform(0, shape[::-1], (n_genes, 2))
    signs = rng.choice([-1.0, 1.0], n_genes)
    patterns = np.zeros((len(xy), n_genes))
    for g, kind in enumerate(kinds):
        if kind == "region":
            patterns[:, g] = (orders[g][:, None] * here.regions).sum(axis=0)
        elif kind == "gradient":
            patterns[:, g] = signs[g] * (np.hypot(*(xy - sources[g]).T) / np.hypot(*shape) - 0.5)
        elif kind == "image":
            patterns[:, g] = signs[g] * here.cellularity / 2
    return patterns


def _negative_binomial(rng: np.random.Generator, mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Sample counts of variance (1 + dispersion) mean as a gamma-Poisson mixture."""
    return rng.poisson(rng.gamma(mean / dispersion, dispersion)).astype(np.int32)


def _subspot_anndata(
    counts: np.ndarray,
    mean: np.ndarray,
    var: pd.DataFrame,
    xy: np.ndarray,
    here: _Tissue,
    library_size: np.ndarray,
    n_spots: int,
) -> AnnData:
    """Store the subspots with their true means."""
    n_subspots = len(xy) // n_spots
    spot = np.repeat([f"spot_{n:0{max(len(str(n_spots)), 4)}d}" for n in range(1, n_spots + 1)], n_subspots)
    subspot = np.tile(np.arange(n_subspots), n_spots)
    obs = pd.DataFrame(
        {
            keys.SPOT: pd.Categorical(spot),
            keys.SUBSPOT: subspot,
            "region": _region_names(here.regions.argmax(axis=0)),
            "cellularity": here.cellularity,
            "library_size": library_size,
        },
        index=[f"{name}_{k}" for name, k in zip(spot, subspot, strict=True)],
    )
    truth = AnnData(sparse.csr_matrix(counts), obs=obs, var=var, layers={"mean": mean.astype(np.float32)})
    return _with_positions(truth, xy, PITCH / np.sqrt(n_subspots))


def _measured(lattice: LatticeKind, n_subspots: int, capture: float | None) -> np.ndarray:
    """Captured share of every subspot of a spot, n_subspots."""
    area = None if capture is None else CaptureArea(float(capture), "circle", np.array([1.0, 0.0]))
    return measured_shares(Lattice(lattice, PITCH * _BASES[lattice]), n_subspots, area)


def _captured(rng: np.random.Generator, truth: AnnData, measured: np.ndarray) -> np.ndarray:
    """Sample how many of the counts of every subspot were captured, n_targets x n_genes."""
    concentration = truth.layers["mean"] / truth.var["dispersion"].to_numpy()
    share = np.broadcast_to(measured[:, None], truth.shape).copy()
    cut = (share > 0) & (share < 1)
    share[cut] = rng.beta((measured[:, None] * concentration)[cut], ((1 - measured[:, None]) * concentration)[cut])
    return rng.binomial(truth.X.toarray(), share).astype(np.int32)


def _spot_anndata(
    truth: AnnData, captured: np.ndarray, rows: np.ndarray, cols: np.ndarray, xy: np.ndarray, diameter: float
) -> AnnData:
    """Sum what was captured of the subspots of each spot."""
    spot, region = truth.obs[keys.SPOT].cat, truth.obs["region"].cat
    member = sparse.csr_matrix((np.ones(truth.n_obs, np.int32), (spot.codes, np.arange(truth.n_obs))))
    majority = (member @ np.eye(N_REGIONS)[region.codes]).argmax(axis=1)
    obs = pd.DataFrame(
        {"in_tissue": 1, "array_row": rows, "array_col": cols, "region": _region_names(majority)},
        index=spot.categories.to_numpy(),
    )
    adata = AnnData((member @ sparse.csr_matrix(captured)).tocsr(), obs=obs, var=truth.var.copy())
    return _with_positions(adata, xy, diameter)


def _region_names(codes: np.ndarray) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, categories=[f"region_{r}" for r in range(N_REGIONS)])


def _with_positions(adata: AnnData, xy: np.ndarray, diameter: float) -> AnnData:
    """Add the positions, and the scale factors that plotting functions need."""
    scales = {"spot_diameter_fullres": float(diameter), "tissue_hires_scalef": 1.0}
    adata.obsm[keys.SPATIAL] = xy
    adata.uns[keys.SPATIAL] = {"synthetic": {"images": {}, "scalefactors": scales}}
    return adata
