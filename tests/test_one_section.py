"""Several sections in one table, and array indices as positions."""

import warnings

import anndata as ad
import numpy as np
import pytest

from lattices import LATTICES, PITCH, hexagonal, quincunx, rotation, spots, square
from soscope_scverse import bench, datasets, pp, tl
from soscope_scverse._read import read_sections
from soscope_scverse.pp._several import holds_several

pytestmark = pytest.mark.filterwarnings("ignore:Observation names")

FRAMES = {
    "the same frame": lambda xy: xy,
    "shifted": lambda xy: xy + np.array([0.2, -0.15]) * PITCH,
    "turned": lambda xy: (xy - xy.mean(axis=0)) @ rotation(33) + xy.mean(axis=0),
    "side by side": lambda xy: xy + np.array([50, 0]) * PITCH,
}
JOINED = {
    "suffix": {"index_unique": "-"},
    "another suffix": {"index_unique": "_"},
    "made unique": {"index_unique": None},
}


def joined(frame, lattice="hex", how="suffix", column="slide", indices=True):
    """Two sections of one array in any order of rows."""
    xy, array = LATTICES[lattice](10, 9)
    parts = {}
    for name, place in (("a", xy), ("b", FRAMES[frame](xy))):
        parts[name] = spots(place, array if indices else None)
        parts[name].obs["patch"] = np.arange(len(xy)) % 3
    both = ad.concat(parts, label=column, **JOINED[how])
    both.obs_names_make_unique()
    return both[np.random.default_rng(0).permutation(both.n_obs)].copy()


@pytest.mark.parametrize("indices", [True, False])
@pytest.mark.parametrize("how", JOINED)
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("lattice", LATTICES)
def test_several_sections_name_their_column(lattice, frame, how, indices):
    both = joined(frame, lattice, how, column="donor", indices=indices)
    with pytest.raises(ValueError, match=r"one section without `library_key`, found .*`library_key='donor'`"):
        pp.subspots(both)
    assert read_sections(both, "donor").n == both.n_obs
    del both.obs["donor"]
    to_make = r".*obs_names.str.rsplit\('[-_]', n=1\)" if "suffix" in how else "label them"
    with pytest.raises(ValueError, match=f"to make one: {to_make}"):
        read_sections(both)


@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize("frame", ["shifted", "turned"])
def test_lattices_one_over_the_other(lattice, frame):
    """No names, no indices: positions alone."""
    both = joined(frame, lattice, column="slide", indices=False)
    both.obs_names = [f"spot {i}" for i in range(both.n_obs)]
    for function in (pp.subspots, pp.spot_graph):
        with pytest.raises(ValueError, match=r"several lattices.*library_key='slide'"):
            function(both)
        function(both, library_key="slide", copy=True)


def test_a_column_of_several_sections_is_no_section():
    both = joined("shifted", column="slide")
    both.obs["donor"] = "d1"
    with pytest.raises(ValueError, match=r"where `adata.obs\['donor'\]` is 'd1'.*library_key='slide'"):
        pp.subspots(both, library_key="donor")


def test_prefixes_of_barcodes():
    both = joined("turned", indices=False)
    both.obs_names = both.obs_names.str.replace(r"(.*)-(.*)", r"\2_\1", regex=True)
    del both.obs["slide"]
    with pytest.raises(ValueError, match=r"obs_names.str.split\('_', n=1\).str\[0\]"):
        read_sections(both)


@pytest.mark.parametrize("lattice", ["hex", "square"])
def test_single_sections_are_none(lattice):
    section = datasets.synthetic_section(100, lattice=lattice, n_genes=3)
    low, truth = bench.simulate_low_resolution(section.adata)
    for adata in (section.adata, section.truth, low, truth):
        read_sections(adata)
        read_sections(adata[:7].copy())
    for adata in (section.adata, low):
        assert not holds_several(read_sections(adata).positions)


@pytest.mark.parametrize("name", LATTICES)
@pytest.mark.parametrize("jitter", [0, 0.05, 0.09])
def test_single_lattices_are_not_several(name, jitter):
    rng = np.random.default_rng(0)
    xy = LATTICES[name](14, 12)[0]
    xy = xy + rng.normal(0, jitter * PITCH, xy.shape)
    assert not holds_several(xy)
    assert not holds_several(xy[rng.random(len(xy)) < 0.7])
    assert not holds_several(np.vstack([xy, xy + np.array([40, 0.3]) * PITCH]))  # two pieces


@pytest.mark.parametrize("step", [2, 3, 5, 7])
@pytest.mark.parametrize("name", LATTICES)
def test_some_spots_of_an_array_are_one_section(name, step):
    """Every n-th spot of rows is several lattices by positions alone; array indices show that it is one."""
    xy, array = LATTICES[name](20, 20)
    part = spots(xy[::step] @ rotation(7), array[::step])
    for function in (pp.subspots, pp.spot_graph):
        function(part)
    assert part.uns["subspots"]["pitch"] == pytest.approx(PITCH)
    order = np.random.default_rng(0).permutation(part.n_obs)
    part.obs[["array_col", "array_row"]] = part.obs[["array_col", "array_row"]].to_numpy()[order]
    if holds_several(part.obsm["spatial"]):  # of indices that explain nothing the positions decide
        with pytest.raises(ValueError, match=r"several lattices.*array_row"):
            pp.subspots(part)


def test_partitioned_spots_need_no_lattice():
    xy, _ = hexagonal(20, 20)
    part = spots(xy[::2])
    with pytest.raises(ValueError, match="several lattices"):
        pp.spot_graph(part)
    pp.subspots(part, positions=part.obsm["spatial"][:, None] + np.array([[-1.0, 0], [1, 0]]))
    pp.spot_graph(part)


def test_cells_and_names_of_rows_and_columns_are_no_sections():
    rng = np.random.default_rng(0)
    assert not holds_several(rng.random((2000, 2)))
    xy, array = square(12, 12)
    adata = spots(xy + rng.normal(0, 0.3, xy.shape))
    for separator in "-_":
        adata.obs_names = [f"{col}{separator}{row}" for col, row in array]
        read_sections(adata)


def test_real_sections_are_single(data_dir):
    for path in sorted(data_dir.glob("*/*.h5ad")):
        adata = ad.read_h5ad(path)
        spots_ = read_sections(adata)
        assert not holds_several(spots_.positions), path.name
        read_sections(ad.AnnData(obs=adata.obs[[]], obsm={"spatial": spots_.positions}))


@pytest.mark.parametrize("n_spots", [1, 2])
def test_a_section_of_too_few_spots_is_named(n_spots):
    xy, array = hexagonal()
    a = spots(xy, array, x=np.ones((90, 2)))
    both = ad.concat({"liver": a, "rest": a[:n_spots].copy()}, label="organ", index_unique="-")
    for call in (lambda: pp.subspots(both, library_key="organ"), lambda: tl.enhance(both, library_key="organ")):
        with pytest.raises(ValueError, match=rf"{n_spots} spots .*section 'rest'.*\['organ'\] != 'rest'\].copy"):
            call()


# ------------------------------------------------------------------------------------------- array indices as positions


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@pytest.mark.parametrize("change", [lambda a: a, lambda a: a - 30, lambda a: a * [1, -1]])
@pytest.mark.parametrize("make", [hexagonal, quincunx])
def test_indices_of_a_staggered_array_are_no_positions(make, change, order):
    array = make()[1]
    with pytest.raises(ValueError, match=r"array indices.*in `adata.obsm\['spatial'\]`.*tissue_positions"):
        read_sections(spots(change(array)[:, order], array))
    with pytest.warns(UserWarning, match="array indices"):
        read_sections(spots(change(array)[:, order]))


def test_indices_of_a_square_array_are_positions_in_other_units():
    xy, array = square()
    with pytest.warns(UserWarning, match="array indices.*no image fits"):
        pp.subspots(spots(array, array))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_sections(spots(xy, array))
        read_sections(spots(array.astype(float)))
        read_sections(spots(np.round(np.random.default_rng(0).random((50, 2)) * 1000)))
