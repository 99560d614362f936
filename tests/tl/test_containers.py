"""Objects as other tools and files bring them: flags beside sections, data on disk, points, instances of any type."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from anndata.experimental import read_lazy
from spatialdata.models import PointsModel, TableModel
from spatialdata.transformations import Scale

from helpers import QUICK, QUIET, as_visium
from soscope_scverse import SoScope, bench, datasets, im, pp, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse._read import libraries

pytestmark = pytest.mark.filterwarnings("ignore:No image given", "ignore:The index of the dataframe is not monotonic")


# ---- flags in uns["spatial"] ----------------------------------------------------------------------------------------


def with_flags(section, flags, first=True):
    adata = section.adata.copy()
    library = {
        "images": {"hires": section.image},
        "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": 36.0},
    }
    adata.uns["spatial"] = {**flags, "slide": library} if first else {"slide": library, **flags}
    return adata


@pytest.mark.parametrize(
    "flags",
    [
        {"is_single": np.bool_(True)},
        {"is_single": False, "version": "5.1", "n": 1, "a": np.array(3)},
        {"metadata": {"a": 1, "by": {"name": "us"}}, "transform": np.eye(3), "none": {}},
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_flags_beside_sections_are_ignored(section, tmp_path, flags, first):
    expected = tl.enhance(with_flags(section, {}), **QUICK)
    adata = with_flags(section, flags, first)
    adata.write_h5ad(tmp_path / "a.h5ad")
    for spots in (adata, ad.read_h5ad(tmp_path / "a.h5ad")):
        for kwargs in ({}, {"image": section.image}):
            found = tl.enhance(spots, **kwargs, **QUICK)
            np.testing.assert_array_equal(found.X, expected.X)
            assert list(found.uns["spatial"]) == ["slide"]
        assert im.embedded_image(spots)[1] == 1.0
    assert set(adata.uns["spatial"]) == {"slide", *flags}
    low, _ = bench.simulate_low_resolution(adata)
    assert list(low.uns["spatial"]) == ["slide"]


def test_flags_alone_are_no_sections(section):
    """As CELLxGENE has for a dataset of several sections."""
    adata = section.adata.copy()
    adata.uns["spatial"] = {"is_single": np.bool_(False)}
    found = tl.enhance(adata, image=section.image, **QUICK)
    assert list(found.uns["spatial"]) == ["section"]


@pytest.mark.parametrize("beside", [[1, 2], pd.DataFrame({"a": [1]}), np.array(["a", "b"]), {"a": np.zeros(2)}])
def test_anything_beside_sections_is_ignored(section, beside):
    adata = with_flags(section, {"beside": beside})
    assert list(libraries(adata)) == ["slide"]
    adata.uns["spatial"]["slide"] = {"images": 3}
    with pytest.raises(TypeError, match="found int instead of one of these"):
        libraries(adata)


@pytest.mark.parametrize("entry", [[1], np.zeros(3), {"images": 3}, {"scalefactors": "a"}])
def test_what_is_no_section_and_no_flag_is_refused(section, entry):
    section.adata.uns["spatial"] = {"slide": entry}
    with pytest.raises(TypeError, match=r"uns\['spatial'\]` to be a dict of sections"):
        tl.enhance(section.adata, **QUICK)


# ---- profiles and slots on disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("dense", [False, True])
def test_lazy_anndata(section, tmp_path, suffix, dense):
    adata, path = section.adata, tmp_path / f"a.{suffix}"
    adata.layers["counts"] = adata.X.copy()
    adata.obs["slide"] = "A"
    if dense:
        adata.X = adata.X.toarray()
    getattr(adata, f"write_{suffix}")(path)
    options = {"image": section.image, "library_key": "slide", **QUICK}
    adata.uns["spatial"] = {"A": adata.uns["spatial"].pop("synthetic")}
    lazy = read_lazy(path)
    lazy.uns["spatial"] = {"A": lazy.uns["spatial"]["synthetic"]}
    for layer in (None, "counts"):
        np.testing.assert_array_equal(
            tl.enhance(lazy, layer=layer, **options).X, tl.enhance(adata, layer=layer, **options).X
        )
    assert "subspots" not in lazy.obsm


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_steps_write_to_lazy_anndata(section, tmp_path, suffix):
    getattr(section.adata, f"write_{suffix}")(tmp_path / f"a.{suffix}")
    lazy = read_lazy(tmp_path / f"a.{suffix}")
    assert "subspots" in pp.subspots(lazy, copy=True).obsm
    assert "subspots" not in lazy.obsm
    for spots in (lazy, section.adata):
        pp.subspots(spots)
        pp.spot_graph(spots)
        im.features(spots, section.image)
    read = lazy.to_memory()
    for slot in ("subspots", "subspot_exposure", "subspot_features"):
        np.testing.assert_array_equal(read.obsm[slot], section.adata.obsm[slot])
    np.testing.assert_array_equal(read.obsp["spot_graph"].toarray(), section.adata.obsp["spot_graph"].toarray())
    assert pp.spatial_genes(lazy) == pp.spatial_genes(section.adata)


def test_lazy_anndata_is_named_where_it_cannot_be_used(section, tmp_path):
    section.adata.write_h5ad(tmp_path / "a.h5ad")
    lazy = read_lazy(tmp_path / "a.h5ad")
    for call in (SoScope.setup_anndata, tl.to_spatialdata, bench.BASELINES["repeat"]):
        with pytest.raises(TypeError, match=r"`anndata.experimental.read_lazy`. Call `adata.to_memory\(\)`"):
            call(lazy)


def test_a_file_of_which_only_x_is_written(section, tmp_path):
    section.adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r+")
    expected = tl.enhance(section.adata, image=section.image, **QUICK)
    np.testing.assert_array_equal(tl.enhance(backed, image=section.image, **QUICK).X, expected.X)
    for call in (pp.subspots, pp.spot_graph, lambda a: im.features(a, section.image)):
        with pytest.warns(
            UserWarning, match=r"mode 'r\+', in which anndata writes only `X` to .*a\.h5ad.*stays in mem"
        ):
            call(backed)
    copied = pp.subspots(backed, copy=True)
    assert not copied.isbacked
    with pytest.raises(ValueError, match=r"a view of the file .*Call `.to_memory\(\)`"):
        pp.subspots(backed[:30])
    backed.file.close()
    assert "subspots" not in ad.read_h5ad(tmp_path / "a.h5ad").obsm
    reading = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    pp.subspots(reading)  # nobody expects that it is written
    assert "subspots" in reading.obsm


# ---- MuData ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mdata(section):
    with columns_apart():
        return md.MuData({"rna": section.adata[:, :5].copy(), "prot": section.adata[:, 5:].copy()})


LIKELIHOODS = {"rna": "nb", "prot": "nb"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda xy: xy + np.array([0, 40]), "'prot' and 'rna' up to 40 apart"),
        (lambda xy: xy / 4, "'prot' and 'rna' up to .* apart"),
        (lambda xy: xy[:, ::-1], "'prot' and 'rna' up to .* apart"),
        (lambda xy: np.column_stack([xy, xy[:, 0]]), r"'prot' and 'rna' \(60, 3\)"),
    ],
)
def test_modalities_at_different_positions_are_named(mdata, change, message):
    xy = mdata["prot"].obsm["spatial"]
    mdata["prot"].obsm["spatial"] = change(xy)
    for call in (lambda: tl.enhance(mdata, likelihood=LIKELIHOODS, **QUICK), lambda: pp.subspots(mdata)):
        with pytest.raises(ValueError, match=message):
            call()
    mdata.obsm["spatial"] = xy
    assert tl.enhance(mdata, likelihood=LIKELIHOODS, **QUICK).n_obs == 420


def test_rounded_positions_of_a_modality_are_the_same(mdata):
    mdata["prot"].obsm["spatial"] = mdata["prot"].obsm["spatial"].astype(np.float32)
    pp.subspots(mdata)
    del mdata["prot"].obsm["spatial"]
    pp.subspots(mdata)


# ---- SpatialData ----------------------------------------------------------------------------------------------------


@pytest.fixture
def as_points():
    """Bins as `spatialdata_io.stereoseq` makes them: points that a table annotates, in no order."""
    section = datasets.synthetic_section(49, lattice="square", n_genes=4)
    order = np.random.default_rng(0).permutation(section.adata.n_obs)
    xy = section.adata.obsm["spatial"][order]
    points = PointsModel.parse(
        pd.DataFrame(xy, columns=["x", "y"], index=order),
        transformations={"global": Scale([0.5, 0.5], axes=("x", "y"))},
    )
    table = ad.AnnData(section.adata.X, obs=pd.DataFrame(index=section.adata.obs_names), var=section.adata.var)
    table.obs["instance_id"] = np.arange(table.n_obs)
    table.obs["region"] = pd.Categorical(["bin8_genes"] * table.n_obs)
    table = TableModel.parse(table, region="bin8_genes", region_key="region", instance_key="instance_id")
    return section, sd.SpatialData(points={"bin8_genes": points}, tables={"bin8_table": table})


@pytest.mark.parametrize("on_disk", [False, True])
def test_tables_that_annotate_points(as_points, tmp_path, on_disk):
    section, sdata = as_points
    if on_disk:
        sdata.write(tmp_path / "a.zarr")
        sdata = sd.read_zarr(tmp_path / "a.zarr")
    tl.enhance(sdata, n_subspots=4, **QUICK)  # of the only table
    del section.adata.uns["spatial"]
    expected = tl.enhance(section.adata, n_subspots=4, **QUICK)
    np.testing.assert_allclose(sdata["enhanced"].X, expected.X, rtol=1e-5, atol=1e-6)
    extents = [sd.get_extent(sdata[name]) for name in ("bin8_genes", "enhanced_subspots")]
    pitch = np.diff(np.unique(section.adata.obsm["spatial"][:, 0].round(6))).min()
    np.testing.assert_allclose(np.subtract(extents[0]["x"], extents[1]["x"]), np.array([1, -1]) * pitch / 4, rtol=1e-6)
    if on_disk:
        assert "enhanced" in sd.read_zarr(tmp_path / "a.zarr").tables


def test_points_of_one_name_are_refused(as_points):
    _, sdata = as_points
    points = sdata["bin8_genes"].compute()
    points.index = [0, *points.index[1:]]
    sdata["bin8_genes"] = PointsModel.parse(points)
    with pytest.raises(ValueError, match="one instance of each name in 'bin8_genes', found 1 repeated"):
        tl.enhance(sdata, **QUICK)


@pytest.mark.parametrize("side", ["table", "shapes"])
@pytest.mark.parametrize("kind", [str, float, "category"])
def test_instances_of_another_type(section, side, kind):
    sdata = as_visium(section)
    expected = tl.enhance(as_visium(section), image_key="visium_full_image", **QUICK)["enhanced"].X
    if side == "table":
        ids = sdata["table"].obs["spot_id"]
        sdata["table"].obs["spot_id"] = ids.astype(str).astype(kind)
    elif kind != "category":
        sdata["visium"].index = sdata["visium"].index.astype(kind)
    else:
        sdata["table"].obs["spot_id"] = sdata["table"].obs["spot_id"].astype(str)
        sdata["visium"].index = sdata["visium"].index.astype(float)
    tl.enhance(sdata, image_key="visium_full_image", **QUICK)
    np.testing.assert_array_equal(sdata["enhanced"].X, expected)


def test_instances_that_are_elsewhere_are_shown(section):
    sdata = as_visium(section)
    sdata["visium"].index = [f"spot {i}" for i in range(60)]
    with pytest.raises(
        ValueError, match=r"60 of 60 missing \(first: 0, where 'visium' has \['spot 0', 'spot 1', 'spot 2'"
    ):
        tl.enhance(sdata, image_key="visium_full_image", **QUICK)


# ---- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["64-true", 64, "bf16-true", "16-true"])
def test_precisions_of_the_weights_are_refused_by_name(section, prepared, precision):
    message = r"`precision` to be one of \['32-true', '16-mixed', 'bf16-mixed'\], found '.*-true'"
    with pytest.raises(ValueError, match=message):
        tl.enhance(section.adata, image=section.image, train_kwargs={"precision": precision})
    SoScope.setup_anndata(prepared)
    with pytest.raises(ValueError, match=message):
        SoScope(prepared).train(max_epochs=1, precision=precision, **QUIET)


@pytest.mark.parametrize("precision", [32, "32-true", "bf16-mixed"])
def test_other_precisions_work(section, precision):
    options = {**QUICK, "train_kwargs": {"precision": precision, "enable_progress_bar": False}}
    found = tl.enhance(section.adata, image=section.image, **options)
    np.testing.assert_allclose(found.X.sum(), section.adata.X.sum(), rtol=1e-4)
