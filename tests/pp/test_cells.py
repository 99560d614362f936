"""Cells as subspots: which spot holds which cell, what is written, and what the model returns."""

import warnings

import anndata as ad
import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import torch
from anndata import AnnData

from soscope_scverse import SoScope, bench, metrics, pp, tl
from soscope_scverse.model.inference.result import SomeRows
from soscope_scverse.pp._graphs import image_similarity

PITCH = 10.0
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
HEX = np.array([[1, 0], [0.5, np.sqrt(0.75)]])


def spots_at(xy, n_features=3):
    adata = ad.AnnData(
        np.ones((len(xy), n_features), np.float32), obs=pd.DataFrame(index=[f"s{i}" for i in range(len(xy))])
    )
    adata.obsm["spatial"] = np.asarray(xy, dtype=float)
    return adata


def lattice(kind, n=7):
    """Spots of an n x n piece of a lattice."""
    index = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2)
    return spots_at(PITCH * index @ (np.eye(2) if kind == "square" else HEX))


def scattered(n=400, low=-12.0, high=80.0, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"x": rng.uniform(low, high, n), "y": rng.uniform(low, high, n), "area": rng.uniform(1, 9, n)},
        index=[f"cell_{i}" for i in range(n)],
    )


def divided(adata, cells, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pp.subspots(adata, cells=cells, copy=True, **options)


def held(adata):
    """Spot of every cell by its name."""
    names = adata.obsm["subspot_names"]
    spot, subspot = np.nonzero(names != "")
    return dict(zip(names[spot, subspot].tolist(), adata.obs_names[spot].tolist(), strict=True))


@pytest.mark.parametrize("kind", ["square", "hex"])
def test_a_cell_belongs_to_the_lattice_cell_it_lies_in(kind):
    """Against the distances to all points of the lattice, spots and not."""
    adata, cells = lattice(kind), scattered()
    found = held(divided(adata, cells))
    basis = PITCH * (np.eye(2) if kind == "square" else HEX)
    index = np.stack(np.meshgrid(np.arange(-9, 25), np.arange(-9, 25), indexing="ij"), axis=-1).reshape(-1, 2)
    distance = np.linalg.norm(cells[["x", "y"]].to_numpy()[:, None] - index @ basis, axis=2)
    order = np.sort(distance, axis=1)
    clear = order[:, 1] - order[:, 0] > 0.1 * PITCH  # the edge of a lattice cell has some slack
    is_spot = ((index >= 0) & (index < 7)).all(axis=1)
    number = np.cumsum(is_spot) - 1
    n_checked = 0
    for name, nearest in zip(cells.index[clear], distance.argmin(axis=1)[clear], strict=True):
        assert found.get(name) == (f"s{number[nearest]}" if is_spot[nearest] else None)
        n_checked += 1
    assert n_checked > 200


@pytest.mark.parametrize("kind", ["square", "hex"])
def test_every_cell_between_the_spots_is_held_by_the_nearest(kind):
    adata = lattice(kind, 9)
    adata.obsm["spatial"] += np.random.default_rng(1).normal(0, 0.01 * PITCH, (81, 2))
    centre = adata.obsm["spatial"].mean(axis=0)
    cells = pd.DataFrame(np.random.default_rng(2).uniform(-20, 20, (500, 2)) + centre, columns=["x", "y"]).set_axis(
        [f"c{i}" for i in range(500)]
    )
    found = held(divided(adata, cells))
    distance = np.linalg.norm(cells.to_numpy()[:, None] - adata.obsm["spatial"], axis=2)
    assert [found[name] for name in cells.index] == [f"s{i}" for i in distance.argmin(axis=1)]


@pytest.mark.parametrize("kind", ["square", "hex", "none"])
def test_spots_as_circles(kind):
    adata, cells = lattice("square" if kind == "none" else kind), scattered()
    if kind == "none":
        adata.obsm["spatial"] = np.random.default_rng(3).uniform(0, 70, (49, 2))
    distance = np.linalg.norm(cells[["x", "y"]].to_numpy()[:, None] - adata.obsm["spatial"], axis=2)
    inside = distance.min(axis=1) <= 3
    expected = {name: f"s{i}" for name, i in zip(cells.index[inside], distance.argmin(axis=1)[inside], strict=True)}
    assert held(divided(adata, cells, spot_diameter=6)) == expected


def test_without_a_lattice_the_nearest_spot_within_the_distance_of_spots():
    adata, cells = spots_at(np.random.default_rng(3).uniform(0, 70, (49, 2))), scattered()
    between = np.linalg.norm(adata.obsm["spatial"][:, None] - adata.obsm["spatial"], axis=2)
    reach = np.median(np.sort(between, axis=1)[:, 1])
    distance = np.linalg.norm(cells[["x", "y"]].to_numpy()[:, None] - adata.obsm["spatial"], axis=2)
    inside = distance.min(axis=1) <= reach
    expected = {name: f"s{i}" for name, i in zip(cells.index[inside], distance.argmin(axis=1)[inside], strict=True)}
    result = divided(adata, cells)
    assert held(result) == expected
    assert result.uns["subspots"]["pitch"] == pytest.approx(reach)


@pytest.mark.parametrize("exposure", ["equal", "area"])
def test_slots(exposure):
    adata, cells = lattice("square"), scattered()
    result = divided(adata, cells, exposure=exposure)
    names, positions, share = (result.obsm[key] for key in ("subspot_names", "subspots", "subspot_exposure"))
    info = result.uns["subspots"]
    found = pd.Series(held(result))
    n_cells = found.value_counts().reindex(adata.obs_names, fill_value=0).to_numpy()
    assert info["geometry"] == "cells"
    assert info["exposure"] == exposure
    assert info["n_subspots"] == names.shape[1] == n_cells.max()
    assert info["subspot_diameter"] == pytest.approx(PITCH / np.sqrt(n_cells[n_cells > 0].mean()))
    assert positions.shape == (49, n_cells.max(), 2)
    np.testing.assert_array_equal(np.isfinite(positions[..., 0]), share > 0)
    np.testing.assert_allclose(share.sum(axis=1), 1)
    amount = pd.Series(1.0, cells.index) if exposure == "equal" else cells["area"]
    total = amount[found.index].groupby(found.to_numpy()).sum()
    for n, k in zip(*np.nonzero(names != ""), strict=True):
        cell = names[n, k]
        np.testing.assert_array_equal(positions[n, k], cells.loc[cell, ["x", "y"]].to_numpy(float))
        assert share[n, k] == pytest.approx(amount[cell] / total[f"s{n}"])
    size = total.reindex(adata.obs_names, fill_value=amount[found.index].mean())
    np.testing.assert_allclose(result.obs["relative_cell_number"], size / size.mean())
    assert result.obs["relative_cell_number"].mean() == pytest.approx(1)


def test_empty_spots_and_cells_outside_are_kept_and_reported():
    adata = lattice("square")
    cells = pd.DataFrame({"x": [1.0, 9.0, 200.0], "y": [0.0, 1.0, 5.0]}, index=["a", "b", "far"])
    with pytest.warns(UserWarning, match=r"47 of 49 spots hold no cell \(first: 's1'\).*1 of 3 cells.*'far'") as caught:
        pp.subspots(adata, cells=cells)
    assert len(caught) == 1
    assert held(adata) == {"a": "s0", "b": "s7"}
    empty = np.setdiff1d(np.arange(49), [0, 7])
    np.testing.assert_array_equal(adata.obsm["subspots"][empty, 0], adata.obsm["spatial"][empty])
    np.testing.assert_array_equal(adata.obsm["subspot_exposure"], np.ones((49, 1)))
    outside = adata.uns["subspots"]["cells_outside"]
    pd.testing.assert_frame_equal(outside, cells.loc[["far"]])


def test_nothing_is_reported_where_nothing_is_left_over():
    adata = lattice("square")
    cells = pd.DataFrame(adata.obsm["spatial"] + 1, columns=["x", "y"], index=adata.obs_names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pp.subspots(adata, cells=cells)
    assert not len(adata.uns["subspots"]["cells_outside"])
    np.testing.assert_array_equal(adata.obs["relative_cell_number"], 1)


def test_the_order_of_the_cells_does_not_matter():
    adata, cells = lattice("hex"), scattered()
    cells = pd.concat([cells, cells.iloc[:20].set_axis([f"twin_{i}" for i in range(20)])])  # at one place
    one, other = divided(adata, cells), divided(adata, cells.sample(frac=1, random_state=4))
    for key in ("subspots", "subspot_exposure", "subspot_names"):
        np.testing.assert_array_equal(one.obsm[key], other.obsm[key])
    np.testing.assert_array_equal(one.obs["relative_cell_number"], other.obs["relative_cell_number"])


def test_all_kinds_of_tables_say_the_same():
    adata, cells = lattice("square"), scattered()
    points = gpd.points_from_xy(cells["x"], cells["y"])
    table = ad.AnnData(obs=cells[["area"]].copy(), obsm={"spatial": cells[["x", "y"]].to_numpy()})
    circles = gpd.GeoDataFrame({"radius": np.sqrt(cells["area"] / np.pi)}, geometry=points, index=cells.index)
    half = np.sqrt(cells["area"].to_numpy()) / 2
    boxes = [shapely.box(x - h, y - h, x + h, y + h) for x, y, h in zip(cells["x"], cells["y"], half, strict=True)]
    polygons = gpd.GeoDataFrame(geometry=[shapely.MultiPolygon([b]) if i % 2 else b for i, b in enumerate(boxes)])
    polygons.index = cells.index
    expected = divided(adata, cells, exposure="area")
    for kind in (table, circles, polygons):
        found = divided(adata, kind, exposure="area")
        np.testing.assert_array_equal(found.obsm["subspot_names"], expected.obsm["subspot_names"])
        np.testing.assert_allclose(found.obsm["subspots"], expected.obsm["subspots"])
        np.testing.assert_allclose(found.obsm["subspot_exposure"], expected.obsm["subspot_exposure"])
        outside = expected.uns["subspots"]["cells_outside"]
        pd.testing.assert_frame_equal(found.uns["subspots"]["cells_outside"], outside)


def test_points_without_a_radius_have_no_area():
    adata, cells = lattice("square"), scattered()
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy(cells["x"], cells["y"]), index=cells.index)
    np.testing.assert_array_equal(divided(adata, points).obsm["subspots"], divided(adata, cells).obsm["subspots"])
    with pytest.raises(ValueError, match="areas of the cells"):
        pp.subspots(adata, cells=points, exposure="area")


def test_shapes_of_spatialdata():
    models = pytest.importorskip("spatialdata.models")
    cells = scattered(60)
    shapes = models.ShapesModel.parse(cells[["x", "y"]].to_numpy(), geometry=0, radius=2.0, index=cells.index)
    adata = lattice("square")
    assert held(divided(adata, shapes, exposure="area")) == held(divided(adata, cells))


def in_pixels(kind, n=7):
    """Spots whose lattice lies in a label mask of 100 x 100 pixels, and that mask."""
    adata = lattice(kind, n)
    adata.obsm["spatial"] += 15
    rng = np.random.default_rng(3)
    mask = np.zeros((100, 100), np.int32)
    for label in range(1, 120):
        row, column = rng.integers(0, 96, 2)
        mask[row : row + rng.integers(1, 5), column : column + rng.integers(1, 5)] = label
    return adata, mask


@pytest.mark.parametrize("kind", ["square", "hex"])
@pytest.mark.parametrize("capture", [None, 6.0])
def test_masks_are_the_polygons_of_their_pixels(tmp_path, kind, capture):
    adata, mask = in_pixels(kind)
    labels = np.setdiff1d(mask, [0])
    outlines = []
    for label in labels:
        row, column = np.nonzero(mask == label)
        outlines.append(shapely.union_all(shapely.box(column, row, column + 1, row + 1)))
    expected = divided(
        adata, gpd.GeoDataFrame(geometry=outlines, index=labels.astype(str)), exposure="area", capture=capture
    )
    np.save(tmp_path / "mask.npy", mask)
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    for cells in (mask, da.from_array(mask, chunks=30), tmp_path / "mask.npy", str(tmp_path / "mask.tif")):
        found = divided(adata, cells, exposure="area", capture=capture)
        assert held(found) == held(expected)
        for slot in ("subspots", "subspot_exposure", "subspot_measured"):
            np.testing.assert_allclose(found.obsm[slot], expected.obsm[slot], atol=1e-12)
        outside = expected.uns["subspots"]["cells_outside"]
        pd.testing.assert_frame_equal(found.uns["subspots"]["cells_outside"], outside)
    assert len(held(found)) > 40


def test_masks_of_several_sections():
    adata, mask = in_pixels("square")
    spots = ad.concat({"a": adata, "b": adata}, label="section", index_unique="-")
    with pytest.raises(ValueError, match=r"columns \['section'\] of the cells.* dict by section"):
        pp.subspots(spots, cells=mask, library_key="section")
    with pytest.raises(ValueError, match=r"by the sections \['a', 'b'\] of 'section', found \['a', 'c'\]"):
        pp.subspots(spots, cells={"a": mask, "c": mask}, library_key="section")
    found = held(divided(spots, {"a": mask, "b": mask.T}, library_key="section"))
    for section, part in (("a", mask), ("b", mask.T)):
        alone = {f"{cell}-{section}": f"{spot}-{section}" for cell, spot in held(divided(adata, part)).items()}
        assert {cell: spot for cell, spot in found.items() if cell.endswith(section)} == alone


def test_cells_elsewhere_are_told_by_both_extents():
    adata, mask = in_pixels("square")
    adata.obsm["spatial"] += 500
    extents = r"Cells span x = [\d.]+ to [\d.]+ and y = .*, spots x = 515 to 575 and y = 515 to 575\."
    with pytest.raises(ValueError, match=rf"none of \d+ cells in any of 49 spots.* {extents}"):
        pp.subspots(adata, cells=mask)


@pytest.mark.parametrize("kind", ["square", "hex"])
def test_a_mask_of_another_resolution_is_noticed(kind):
    """Of the image at a tenth: some of its cells lie in the first spots."""
    adata, mask = in_pixels(kind)
    adata.obsm["spatial"] = 10 * adata.obsm["spatial"]
    scales = {"tissue_lowres_scalef": 0.05, "tissue_hires_scalef": 0.1, "spot_diameter_fullres": 55.0}
    adata.uns["spatial"] = {"section": {"images": {}, "scalefactors": scales}}
    mask[14:18, 14:18] = 500
    adata.obsm["spatial"] -= 140
    with pytest.warns(UserWarning, match=r"Cells span .* Divided by `tissue_hires_scalef` = 0.1 cells would fit"):
        pp.subspots(adata, cells=mask)
    adata.uns["spatial"]["section"]["scalefactors"] = {}
    with pytest.warns(UserWarning, match=r"Cells span .*, spots x = .*\.$"):
        pp.subspots(adata, cells=mask)


def test_cells_over_the_spots_are_not_said_to_lie_elsewhere():
    adata, mask = in_pixels("square")
    with pytest.warns(UserWarning, match="lie in no spot") as warned:
        pp.subspots(adata, cells=mask)
    assert "span" not in str(warned[0].message)


def test_sections_do_not_mix():
    """Two sections over each other: a cell goes to the spots of its own."""
    spots = ad.concat([lattice("square"), lattice("square")], label="section", keys=["a", "b"], index_unique="-")
    spots.obsm["spatial"][49:] += 3
    cells = scattered().assign(section=np.where(np.arange(400) % 2, "a", "b"))
    cells.loc["cell_0", "section"] = "unknown"
    result = divided(spots, cells, library_key="section")
    for section in ("a", "b"):
        alone = divided(spots[spots.obs["section"] == section].copy(), cells[cells["section"] == section])
        part = {cell: spot for cell, spot in held(result).items() if spot.endswith(section)}
        assert part == held(alone)
    outside = result.uns["subspots"]["cells_outside"]
    assert "cell_0" in outside.index
    assert set(outside["section"]) == {"a", "b", "unknown"}


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_names_stay_with_their_spots(tmp_path, suffix):
    adata = divided(lattice("square"), scattered())
    names, share = adata.obsm["subspot_names"], adata.obsm["subspot_exposure"]
    path = tmp_path / f"spots.{suffix}"
    adata.write_h5ad(path) if suffix == "h5ad" else adata.write_zarr(path)
    read = ad.read_h5ad(path) if suffix == "h5ad" else ad.read_zarr(path)
    np.testing.assert_array_equal(np.asarray(read.obsm["subspot_names"]).astype(object), names)
    pd.testing.assert_frame_equal(
        read.uns["subspots"]["cells_outside"], adata.uns["subspots"]["cells_outside"], check_index_type=False
    )
    some = read[20:5:-2].copy()
    np.testing.assert_array_equal(np.asarray(some.obsm["subspot_names"]).astype(object), names[20:5:-2])
    both = ad.concat([read[:9], read[30:]])
    np.testing.assert_array_equal(
        np.asarray(both.obsm["subspot_names"]).astype(object), np.concatenate([names[:9], names[30:]])
    )
    np.testing.assert_array_equal(both.obsm["subspot_exposure"], np.concatenate([share[:9], share[30:]]))
    assert "relative_cell_number" in both.obs


def test_another_division_forgets_the_cells():
    adata = divided(lattice("square"), scattered())
    pp.subspots(adata)
    assert "subspot_names" not in adata.obsm
    assert "relative_cell_number" not in adata.obs


@pytest.mark.parametrize(
    ("cells", "options", "error", "message"),
    [
        (scattered(), {"n_subspots": 9}, ValueError, "one of `n_subspots`, `positions` and `cells`"),
        (scattered(), {"positions": np.zeros((49, 2, 2))}, ValueError, "one of `n_subspots`, `positions` and `cells`"),
        (scattered(), {"exposure": "mass"}, ValueError, "`exposure` to be one of"),
        (scattered(), {"library_key": "section"}, ValueError, r"columns \['section'\] of the cells"),
        (scattered()[["x", "y"]], {"exposure": "area"}, ValueError, "areas of the cells"),
        (scattered().assign(area=0.0), {"exposure": "area"}, ValueError, "above 0, found 400"),
        (scattered()[["x"]], {}, ValueError, r"found no \['y'\]"),
        (scattered().assign(x=np.nan), {}, ValueError, "finite positions of cells, found 400"),
        (scattered().set_axis(["same"] * 400), {}, ValueError, "unique names of cells, found 399"),
        (scattered() + 1e6, {}, ValueError, "found none of 400 cells in any of 49 spots"),
        ([[1, 2]], {}, TypeError, "found list"),
        (None, {"exposure": "area"}, ValueError, "Expected `cells` with"),
        (None, {"spot_diameter": 3}, ValueError, "Expected `cells` with"),
    ],
)
def test_errors(cells, options, error, message):
    adata = lattice("square")
    adata.obs["section"] = "a"
    with pytest.raises(error, match=message):
        pp.subspots(adata, cells=cells, **options)
    assert not set(adata.obsm) - {"spatial"}


def test_cells_are_joined_to_their_nearest():
    """W of irregular cells: their six nearest, none across a gap."""
    rng = np.random.default_rng(5)
    xy = np.concatenate([rng.uniform(0, 100, (300, 2)), rng.uniform(0, 100, (300, 2)) + np.array([200, 0])])
    features = rng.normal(size=(600, 2))
    i, j, weight = image_similarity(xy, features, np.zeros(600))
    distance = np.linalg.norm(xy[:, None] - xy, axis=2)
    np.fill_diagonal(distance, np.inf)
    order = np.sort(distance, axis=1)
    close = np.minimum(order[:, 5], 3 * np.median(order[:, 1]))
    expected = np.argwhere(np.triu((distance <= close[:, None]) | (distance <= close)))
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == {tuple(pair) for pair in expected.tolist()}
    assert len(np.unique(np.r_[i, j])) == 600
    assert ((i < 300) == (j < 300)).all()
    assert ((weight > 0) & (weight <= 1)).all()


@pytest.fixture(scope="module")
def cells_of_section(_section):
    """Three cells in most spots, at most one in some, and cells far away."""
    rng = np.random.default_rng(6)
    xy = _section.adata.obsm["spatial"]
    pitch = np.sort(np.linalg.norm(xy[:, None] - xy[0], axis=2).ravel())[1]
    at = np.concatenate([xy[5:], xy[5:], xy[20:], xy[:4] + np.array([0, 1e4])])
    at = at + rng.uniform(-0.3, 0.3, at.shape) * pitch
    return pd.DataFrame(at, columns=["x", "y"], index=[f"cell {i}" for i in range(len(at))])


@pytest.fixture(scope="module")
def trained(_section, cells_of_section):
    adata = divided(_section.adata.copy(), cells_of_section)
    pp.spot_graph(adata)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SoScope.setup_anndata(adata)
        model = SoScope(adata)
        model.train(4, **QUIET)
    return model


def test_the_result_has_the_cells_names(trained, cells_of_section):
    enhanced, adata = trained.get_enhanced(), trained.adata
    assert held(adata) == enhanced.obs["spot"].to_dict()
    assert enhanced.n_obs == len(cells_of_section) - 4
    np.testing.assert_array_equal(
        enhanced.obsm["spatial"], cells_of_section.loc[enhanced.obs_names, ["x", "y"]].to_numpy()
    )
    total = pd.DataFrame(enhanced.X, enhanced.obs_names).groupby(enhanced.obs["spot"].to_numpy(), sort=False).sum()
    np.testing.assert_allclose(total, adata[total.index].X.toarray(), rtol=1e-4, atol=1e-4)
    assert set(adata.obs_names[:5]).isdisjoint(enhanced.obs["spot"])
    diameter = next(iter(enhanced.uns["spatial"].values()))["scalefactors"]["spot_diameter_fullres"]
    nearest = np.linalg.norm(enhanced.obsm["spatial"][:, None] - enhanced.obsm["spatial"], axis=2)
    assert diameter == pytest.approx(np.median(np.sort(nearest, axis=1)[:, 1]))


@pytest.mark.parametrize("name", ["cells.zarr", "cells.h5ad"])
@pytest.mark.parametrize("batch_size", [3, 1000])
def test_the_result_on_disk(trained, tmp_path, name, batch_size):
    expected = trained.get_enhanced()
    trained.get_enhanced(out=tmp_path / name, batch_size=batch_size)
    read = ad.read_zarr(tmp_path / name) if name.endswith("zarr") else ad.read_h5ad(tmp_path / name)
    np.testing.assert_array_equal(read.obs_names, expected.obs_names)
    np.testing.assert_allclose(read.X, expected.X, rtol=1e-5)


def test_some_rows():
    target = np.zeros((3, 2))
    rows = SomeRows(target, np.array([False, True, False, True, True]))
    rows[0:3] = np.arange(6).reshape(3, 2)
    rows[3:5] = np.arange(6, 10).reshape(2, 2)
    np.testing.assert_array_equal(target, [[2, 3], [6, 7], [8, 9]])


def test_empty_spots_teach_the_model(section, cells_of_section):
    """Their counts change what neighbours are said to be."""
    results = []
    for factor in (1, 3):
        adata = divided(section.adata.copy(), cells_of_section)
        adata.X = adata.X.toarray()
        adata.X[:5] *= factor
        pp.spot_graph(adata)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            SoScope.setup_anndata(adata)
            model = SoScope(adata)
            model.train(2, **QUIET)
        results.append(model.get_enhanced().X)
    assert not np.allclose(*results)


def test_cells_in_one_call(section, cells_of_section):
    with pytest.warns(UserWarning, match="hold no cell"):
        enhanced = tl.enhance(
            section.adata,
            image=section.image,
            cells=cells_of_section,
            max_epochs=1,
            accelerator="cpu",
            train_kwargs={"enable_progress_bar": False},
        )
    assert set(enhanced.obs_names) < set(cells_of_section.index)
    assert "image_features" in enhanced.obsm
    with pytest.raises(ValueError, match="one of `n_subspots`"):
        tl.enhance(section.adata, image=section.image, cells=cells_of_section, n_subspots=9)
    with pytest.raises(ValueError, match="into cells"):
        tl.enhance(divided(section.adata, cells_of_section), image=section.image, cells=cells_of_section)


@pytest.mark.parametrize("sized", [True, False])
def test_cells_that_are_alike_have_one_rate(sized):
    """However many of them share a spot; without the sizes the rate follows their number."""
    rng = np.random.default_rng(7)
    adata = lattice("square", 9)
    n_cells = rng.integers(1, 9, 81)
    spot = np.repeat(np.arange(81), n_cells)
    xy = adata.obsm["spatial"][spot] + rng.uniform(-4, 4, (len(spot), 2))
    cells = pd.DataFrame(xy, columns=["x", "y"], index=[f"c{i}" for i in range(len(spot))])
    adata.X = rng.poisson(20 * n_cells[:, None], (81, 3)).astype(np.float32)
    pp.subspots(adata, cells=cells)
    np.testing.assert_allclose(adata.obs["relative_cell_number"], n_cells / n_cells.mean())
    if not sized:
        del adata.obs["relative_cell_number"]
    pp.spot_graph(adata)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SoScope.setup_anndata(adata)
        model = SoScope(adata, likelihood="poisson")
        model.train(max_steps=60, **QUIET)
    found = model.get_enhanced(expectation="decoded").X
    if sized:
        assert model.module.library_size_noise == pytest.approx(0.01)
        np.testing.assert_allclose(found, 20, rtol=0.15)
    else:
        assert np.abs(found / 20 - 1).max() > 0.5


def test_sizes_of_one_change_nothing(prepared):
    results = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            SoScope.setup_anndata(prepared)
            model = SoScope(prepared)
            model.train(3, **QUIET)
        results.append(model.get_enhanced().X)
        prepared.obs["relative_cell_number"] = 1.0
    np.testing.assert_array_equal(*results)


def test_sizes_do_not_matter_to_a_mean(prepared):
    """Intensities of a large spot are not larger."""
    results = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            SoScope.setup_anndata(prepared)
            model = SoScope(prepared, likelihood="gaussian")
            model.train(3, **QUIET)
        results.append(model.get_enhanced().X)
        prepared.obs["relative_cell_number"] = np.linspace(0.5, 1.5, prepared.n_obs)
    np.testing.assert_allclose(*results, rtol=1e-5, atol=5e-4)  # shares times size over size: rounding


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan])
def test_sizes_must_be_above_zero(prepared, size):
    prepared.obs["relative_cell_number"] = size
    with pytest.raises(ValueError, match=r"obs\['relative_cell_number'\]` to be above 0"):
        SoScope.setup_anndata(prepared)


def test_what_is_left_over_goes_through_files(section, cells_of_section, tmp_path):
    with pytest.warns(UserWarning, match="4 of 154 cells lie in no spot"):
        enhanced = tl.enhance(
            section.adata,
            image=section.image,
            cells=cells_of_section,
            max_epochs=1,
            accelerator="cpu",
            train_kwargs={"enable_progress_bar": False},
        )
    enhanced.write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert len(read.uns["soscope"]["geometry"]["cells_outside"]) == 4


@pytest.fixture(scope="module")
def bins(data_dir):
    """Cells of the mouse cortex, and their square bins of 700 units."""
    cells = ad.read_h5ad(data_dir / "osmfish" / "osmfish.h5ad")
    return cells, *bench.simulate_low_resolution(cells, 700, cells=True)


@pytest.mark.realdata
@pytest.mark.parametrize("indexed", [True, False])
def test_real_cells_find_their_bins(bins, indexed):
    """Square spots are known by their centres alone; cells of bins that were dropped lie in none, but for the slack."""
    cells, low, truth = bins
    adata = low.copy() if indexed else AnnData(low.X, obs=low.obs[[]])
    origin = cells.obsm["spatial"].min(axis=0)
    adata.obsm["spatial"] = (np.floor((low.obsm["subspots"][:, 0] - origin) / 700) + 0.5) * 700 + origin
    found, expected = held(divided(adata, cells)), truth.obs["spot"].astype(str).to_dict()
    assert expected.items() <= found.items()
    centre = pd.DataFrame(adata.obsm["spatial"], adata.obs_names)
    for cell in found.keys() - expected.keys():
        offset = np.abs(cells[cell].obsm["spatial"][0] - centre.loc[found[cell]])
        assert 350 < offset.max() <= 1.05 * 350


@pytest.mark.realdata
def test_real_cells_from_positions_alone(bins):
    """A cell is told better than by the mean of its bin, with and without its depth."""
    _, low, truth = bins
    model_input = pp.spot_graph(low, copy=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SoScope.setup_anndata(model_input)
        model = SoScope(model_input)
        model.train(max_steps=120, **QUIET)
    found, repeated = model.get_enhanced().X, bench.BASELINES["repeat"](low)
    for score in (metrics.pearson, metrics.normalized_pearson):
        assert np.median(score(found, truth.X)) > np.median(score(repeated, truth.X))
    assert np.median(metrics.within_r(found, truth.X, truth.obs["spot"])) > 0.04
