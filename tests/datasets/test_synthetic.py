import anndata as ad
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from soscope_scverse import datasets

DIVISIONS = [("hex", 7), ("hex", 19), ("hex", 37), ("square", 4), ("square", 9), ("square", 16)]


@pytest.fixture(scope="module")
def section():
    return datasets.synthetic_section(400, seed=1)


def by_subspot(section):
    """Noise-free log expression relative to the library size, subspots x genes."""
    truth = section.truth
    return np.log(truth.layers["mean"] / truth.obs["library_size"].to_numpy()[:, None])


def darkness(section):
    """Absorption of red light, which hematoxylin takes and eosin hardly does, around each subspot."""
    absorbed = -np.log((section.image[..., 0] + 1.0) / 256)
    x, y = section.truth.obsm["spatial"].T
    return ndimage.map_coordinates(ndimage.gaussian_filter(absorbed, 6), (y, x), order=1)


def within(values, groups):
    """Take the mean of each group off."""
    means = np.stack([values[groups == g].mean(axis=0) for g in range(groups.max() + 1)])
    return values - means[groups]


def correlations(columns, vector):
    columns, vector = columns - columns.mean(axis=0), vector - vector.mean()
    scale = np.linalg.norm(columns, axis=0) * np.linalg.norm(vector)
    return columns.T @ vector / np.where(scale > 0, scale, 1)


@pytest.mark.parametrize(("lattice", "n_subspots"), DIVISIONS)
def test_subspots_add_up_to_their_spot(lattice, n_subspots):
    adata, _, truth = datasets.synthetic_section(31, lattice=lattice, n_subspots=n_subspots, n_genes=12)
    assert adata.shape == (31, 12)
    assert truth.shape == (31 * n_subspots, 12)
    summed = truth.X.toarray().reshape(31, n_subspots, 12).sum(axis=1)
    np.testing.assert_array_equal(summed, adata.X.toarray())
    for counts in (adata.X, truth.X):
        assert counts.format == "csr"
        assert counts.dtype == np.int32
    assert list(truth.obs["spot"]) == list(np.repeat(adata.obs_names, n_subspots))
    assert list(truth.obs["subspot"]) == list(range(n_subspots)) * 31
    assert truth.var.equals(adata.var)


@pytest.mark.parametrize(("lattice", "n_subspots"), DIVISIONS)
def test_subspots_tile_the_section(lattice, n_subspots):
    adata, image, truth = datasets.synthetic_section(60, lattice=lattice, n_subspots=n_subspots, n_genes=1)
    spots, xy = adata.obsm["spatial"], truth.obsm["spatial"]
    pitch = cKDTree(spots).query(spots, k=2)[0][:, 1]
    np.testing.assert_allclose(pitch, 36)
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]  # over the borders of spots too: no gap, no overlap
    np.testing.assert_allclose(nearest, 36 / np.sqrt(n_subspots))
    np.testing.assert_allclose(xy.reshape(60, n_subspots, 2).mean(axis=1), spots)
    assert (xy >= 0).all()
    assert (xy <= np.array(image.shape[1::-1]) - 1).all()
    scales = truth.uns["spatial"]["synthetic"]["scalefactors"]
    assert scales["spot_diameter_fullres"] == pytest.approx(36 / np.sqrt(n_subspots))


def test_an_inner_subspot_of_a_flower_has_six_neighbours_at_one_distance():
    truth = datasets.synthetic_section(60, n_genes=1).truth
    xy = truth.obsm["spatial"]
    centre = np.abs(xy - xy.mean(axis=0)).max(axis=1) < 60
    distances = cKDTree(xy).query(xy[centre], k=7)[0][:, 1:]
    np.testing.assert_allclose(distances, 36 / np.sqrt(7))


def test_square_subspots_run_row_by_row():
    adata, _, truth = datasets.synthetic_section(4, lattice="square", n_subspots=4, n_genes=1)
    offsets = truth.obsm["spatial"][:4] - adata.obsm["spatial"][0]
    np.testing.assert_allclose(offsets, [[-9, -9], [9, -9], [-9, 9], [9, 9]])


@pytest.mark.parametrize("n_spots", [1, 2, 7, 100, 399])
@pytest.mark.parametrize("lattice", ["hex", "square"])
def test_exact_number_of_spots_in_a_square_section(n_spots, lattice):
    adata = datasets.synthetic_section(n_spots, lattice=lattice, n_genes=3).adata
    assert adata.n_obs == n_spots
    assert adata.obs_names.is_unique
    assert (adata.obs["in_tissue"] == 1).all()
    if n_spots >= 100:
        width, height = np.ptp(adata.obsm["spatial"], axis=0)
        assert 0.8 < width / height < 1.25


def test_hex_lattice_is_numbered_as_visium(section):
    row, col = section.adata.obs["array_row"].to_numpy(), section.adata.obs["array_col"].to_numpy()
    assert ((row + col) % 2 == 0).all()
    expected = np.column_stack([36 * (1 + col / 2), 36 * (1 + row * np.sqrt(0.75))])
    np.testing.assert_allclose(section.adata.obsm["spatial"], expected)
    neighbours = cKDTree(section.adata.obsm["spatial"]).query_pairs(36.01, output_type="ndarray")
    steps = {(abs(r), abs(c)) for r, c in zip(*(np.diff(v[neighbours])[:, 0] for v in (row, col)), strict=True)}
    assert steps == {(0, 2), (1, 1)}


def test_square_lattice_is_numbered_by_row_and_column():
    adata = datasets.synthetic_section(50, lattice="square", n_genes=1).adata
    xy = 36 * (1 + adata.obs[["array_col", "array_row"]].to_numpy())
    np.testing.assert_allclose(adata.obsm["spatial"], xy)


def test_one_seed_one_section(section):
    again = datasets.synthetic_section(400, seed=1)
    other = datasets.synthetic_section(400, seed=2)
    np.testing.assert_array_equal(section.image, again.image)
    np.testing.assert_array_equal(section.truth.X.toarray(), again.truth.X.toarray())
    np.testing.assert_array_equal(section.truth.layers["mean"], again.truth.layers["mean"])
    assert not np.array_equal(section.image, other.image)
    assert not np.array_equal(section.adata.X.toarray(), other.adata.X.toarray())


@pytest.mark.parametrize("level", ["subspot", "spot"])
def test_counts_are_overdispersed_by_the_stated_amount(section, level):
    mean, counts = section.truth.layers["mean"].astype(float), section.truth.X.toarray()
    if level == "spot":  # the family is closed under sums
        mean, counts = mean.reshape(400, 7, -1).sum(axis=1), section.adata.X.toarray()
    factor = ((counts - mean) ** 2).sum(axis=0) / mean.sum(axis=0)
    phi = section.adata.var["dispersion"].to_numpy()
    assert ((phi >= 0.3) & (phi <= 1)).all()
    assert (factor > 1).all()
    assert np.mean(factor / (1 + phi)) == pytest.approx(1, abs=0.05)


def test_library_size_varies_from_spot_to_spot_and_is_shared_inside(section):
    library_size = section.truth.obs["library_size"].to_numpy().reshape(400, 7)
    assert (np.ptp(library_size, axis=1) == 0).all()
    assert np.std(np.log(library_size[:, 0])) == pytest.approx(0.35, abs=0.05)
    noise = (section.adata.var["kind"] == "noise").to_numpy()
    total = section.adata.X[:, noise].toarray().sum(axis=1)
    assert np.corrcoef(total, library_size[:, 0])[0, 1] > 0.7


def test_image_looks_stained(section):
    image = section.image
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    red, green, blue = image.reshape(-1, 3).mean(axis=0)
    assert red > blue > green > 100  # pink on the whole
    dark = image[image.mean(axis=2) < 110]
    assert 0.005 < len(dark) / image[..., 0].size < 0.3
    assert (dark[:, 2] > dark[:, 0]).mean() > 0.9  # nuclei are blue
    assert image.max() > 225


def test_image_reaches_one_pitch_beyond_the_spots(section):
    spots = section.adata.obsm["spatial"]
    np.testing.assert_allclose(spots.min(axis=0), 36)
    beyond = np.array(section.image.shape[1::-1]) - 1 - spots.max(axis=0)
    assert ((beyond > 35) & (beyond <= 36)).all()


def test_regions_are_contiguous_and_all_there(section):
    region = section.truth.obs["region"].cat.codes.to_numpy()
    assert set(region) == {0, 1, 2, 3}
    xy = section.truth.obsm["spatial"]
    neighbour = cKDTree(xy).query(xy, k=2)[1][:, 1]
    assert (region == region[neighbour]).mean() > 0.9
    spot = section.adata.obs["region"].cat.codes.to_numpy()
    assert (np.repeat(spot, 7) == region).mean() > 0.85


def test_each_kind_of_gene_follows_what_it_says(section):
    kind = section.adata.var["kind"].to_numpy()
    log = by_subspot(section)
    region = section.truth.obs["region"].cat.codes.to_numpy()
    explained = 1 - within(log, region).var(axis=0) / np.maximum(log.var(axis=0), 1e-9)
    assert explained[kind == "region"].min() > 0.8
    assert explained[kind == "image"].max() < 0.1
    assert log[:, kind == "noise"].std(axis=0).max() < 1e-5
    # A gradient is smooth: subspots next to each other barely differ.
    xy = section.truth.obsm["spatial"]
    step = log - log[cKDTree(xy).query(xy, k=2)[1][:, 1]]
    smooth = step.std(axis=0) / np.maximum(log.std(axis=0), 1e-9)
    assert smooth[kind == "gradient"].max() < 0.2 < smooth[kind == "image"].min()
    fold = np.exp(np.ptp(log, axis=0))
    assert fold[kind == "region"].min() > 2.5
    assert fold[kind == "region"].max() < 8.5


def test_image_shows_what_image_genes_follow(section):
    """Also inside spots and regions, in the counts as well as in the means; noise genes show nothing of it."""
    kind = section.adata.var["kind"].to_numpy()
    region = section.truth.obs["region"].cat.codes.to_numpy()
    dark = within(darkness(section), region)
    shown = np.abs(correlations(within(by_subspot(section), region), dark))
    assert shown[kind == "image"].min() > 0.6
    assert shown[kind == "gradient"].max() < 0.2
    spot = np.repeat(np.arange(400), 7)
    counts = np.abs(correlations(within(section.truth.X.toarray().astype(float), spot), within(dark, spot)))
    assert np.median(counts[kind == "image"]) > 0.2
    assert counts[kind == "noise"].max() < 0.06


def test_kinds_of_genes(section):
    assert section.adata.var["kind"].value_counts().to_dict() == {
        "region": 25,
        "gradient": 13,
        "image": 7,
        "noise": 5,
    }
    assert all(
        name.startswith(kind) for name, kind in zip(section.adata.var_names, section.adata.var["kind"], strict=True)
    )
    for n_genes in (1, 2, 3, 5, 11):
        adata = datasets.synthetic_section(2, n_genes=n_genes).adata
        assert adata.n_vars == n_genes
        assert adata.var_names.is_unique
        assert "region" in set(adata.var["kind"])


def test_level_of_expression(section):
    noise_free = section.truth.layers["mean"].reshape(400, 7, -1).sum(axis=1)
    typical = np.median(noise_free, axis=0)
    assert 8 < np.median(typical) < 30
    assert typical.min() > 0.5
    assert typical.max() < 300


def test_sections_survive_a_file(section, tmp_path):
    for name in ("adata", "truth"):
        path = tmp_path / f"{name}.h5ad"
        getattr(section, name).write_h5ad(path)
        back = ad.read_h5ad(path)
        np.testing.assert_array_equal(back.X.toarray(), getattr(section, name).X.toarray())
        assert back.uns["spatial"]["synthetic"]["scalefactors"]["tissue_hires_scalef"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lattice": "triangle"}, "`lattice` to be one of"),
        ({"n_subspots": 9}, "hex lattice, found 9"),
        ({"n_subspots": 1}, "hex lattice, found 1"),
        ({"n_subspots": 0}, "on a hex lattice, found 0"),
        ({"lattice": "square", "n_subspots": 7}, "on a square lattice, found 7"),
        ({"lattice": "square", "n_subspots": 1}, "on a square lattice, found 1"),
        ({"lattice": "square", "n_subspots": -4}, "on a square lattice, found -4"),
        ({"n_spots": 0}, "`n_spots` to be at least 1, found 0"),
        ({"n_genes": 0}, "`n_genes` to be at least 1, found 0"),
    ],
)
def test_impossible_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.synthetic_section(**arguments)
