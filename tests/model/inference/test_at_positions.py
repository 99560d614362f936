"""The model at positions that are no subspots."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from helpers import flat, train
from soscope_scverse import datasets, im, pp


@pytest.fixture(scope="module")
def square():
    """A square section divided by four, its image, and a model of it."""
    section = datasets.synthetic_section(64, lattice="square", n_subspots=4, n_genes=8)
    adata = section.adata
    pp.subspots(adata, 4)
    pp.spot_graph(adata)
    im.features(adata, section.image)
    return train(adata, max_epochs=150), section.image


def test_at_the_subspots_it_is_the_prior_expectation(square):
    model, _ = square
    adata = model.adata
    predicted = model.predict(flat(adata.obsm["subspots"]), flat(adata.obsm["subspot_features"]))
    expected = model.get_enhanced(expectation="decoded")
    np.testing.assert_allclose(predicted.X, expected.X, rtol=1e-5)
    np.testing.assert_array_equal(predicted.obsm["spatial"], expected.obsm["spatial"])
    assert list(predicted.var_names) == list(adata.var_names)
    assert list(predicted.obs_names[:2]) == ["position_0", "position_1"]
    assert predicted.uns["soscope"]["version"]
    blocks = model.predict(flat(adata.obsm["subspots"]), flat(adata.obsm["subspot_features"]), batch_size=7)
    np.testing.assert_allclose(blocks.X, predicted.X, rtol=1e-5)


def test_a_finer_division_agrees_with_the_one_trained_on(square):
    """Sums over the four parts of every subspot: of predictions, and of spots that are divided by sixteen."""
    model, image = square
    coarse = model.adata
    fine = pp.subspots(coarse, 16, copy=True)
    im.features(fine, image, context=coarse.uns["subspot_features"]["context"])
    part = ((fine.obsm["subspots"][:, :, None] - coarse.obsm["subspots"][:, None]) ** 2).sum(axis=3).argmin(axis=2)
    assert (np.sort(part) == np.repeat(range(4), 4)).all()

    def pooled(values):
        return np.stack(
            [
                [x[own == k].sum(axis=0) for k in range(4)]
                for x, own in zip(values.reshape(64, 16, -1), part, strict=True)
            ]
        )

    def agreement(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1], np.abs(a - b).sum() / np.abs(a).sum()

    prior = model.get_enhanced(expectation="decoded").X.reshape(64, 4, -1)
    predicted = model.predict(flat(fine.obsm["subspots"]), flat(fine.obsm["subspot_features"]), 1 / 16).X
    r, error = agreement(prior, pooled(predicted))
    assert r > 0.98
    assert error < 0.1

    conditional = pooled(model.get_enhanced(fine).X)
    np.testing.assert_allclose(conditional.sum(axis=1), coarse.X.toarray(), rtol=1e-4)
    r, error = agreement(model.get_enhanced().X.reshape(64, 4, -1), conditional)
    assert r > 0.98
    assert error < 0.1


def test_features_of_positions_are_those_of_the_same_subspots(square):
    model, image = square
    adata = model.adata
    positions = flat(adata.obsm["subspots"])
    np.testing.assert_array_equal(im.features_at(adata, positions, image), flat(adata.obsm["subspot_features"]))
    # how far apart the positions lie plays no part, but the grid that "texture" lays may start elsewhere
    some = np.random.default_rng(0).permutation(len(positions))[:9]
    found, expected = im.features_at(adata, positions[some], image), flat(adata.obsm["subspot_features"])[some]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_features_of_positions_in_one_of_several_sections(section):
    two = ad.concat({"a": section.adata, "b": section.adata}, label="library", index_unique="-")
    pp.subspots(two, library_key="library")
    images = {"a": section.image, "b": section.image[::-1].copy()}
    im.features(two, images, library_key="library")
    of_b = (two.obs["library"] == "b").to_numpy()
    found = im.features_at(two, flat(two.obsm["subspots"][of_b]), images, library_id="b", library_key="library")
    np.testing.assert_array_equal(found, flat(two.obsm["subspot_features"][of_b]))
    with pytest.raises(ValueError, match=r"`library_id` to be one of the sections \['a', 'b'\]"):
        im.features_at(two, [[0, 0]], images, library_key="library")


def test_features_of_positions_need_a_record(section):
    with pytest.raises(ValueError, match=r"im\.features"):
        im.features_at(section.adata, [[0, 0]], section.image)


def test_exposure_is_a_share_of_the_counts(square):
    model, _ = square
    adata = model.adata
    xy, features = flat(adata.obsm["subspots"])[:5], flat(adata.obsm["subspot_features"])[:5]
    quarter = model.predict(xy, features)
    np.testing.assert_allclose(model.predict(xy, features, 1.0).X, 4 * quarter.X, rtol=1e-5)
    own = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(model.predict(xy, features, own).X, 4 * own[:, None] * quarter.X, rtol=1e-5)


def test_cells_keep_their_names(prepared):
    del prepared.obsm["subspot_features"]
    model = train(prepared)
    spots = prepared.obsm["spatial"]
    middle = (spots[0] + spots[1]) / 2
    cells = pd.DataFrame({"x": [middle[0]], "y": [middle[1]], "area": [3.0]}, index=["cell_7"])
    predicted = model.predict(cells)
    assert list(predicted.obs_names) == ["cell_7"]
    assert predicted.obs["area"].tolist() == [3.0]
    between = ad.AnnData(obs=pd.DataFrame({"type": ["T"]}, index=["c"]), obsm={"spatial": middle[None]})
    assert model.predict(between).obs["type"].tolist() == ["T"]
    np.testing.assert_array_equal(model.predict(between).X, predicted.X)
    np.testing.assert_array_equal(model.predict(middle[None]).X, predicted.X)


def test_far_from_the_spots_it_warns(prepared):
    del prepared.obsm["subspot_features"]
    model = train(prepared, max_epochs=4)
    xy = prepared.obsm["spatial"]
    with pytest.warns(UserWarning, match="1 of 2 positions"):
        predicted = model.predict(np.stack([xy[0], xy.max(axis=0) + 1000]))
    assert np.isfinite(predicted.X).all()


def test_positions_of_a_section(prepared):
    del prepared.obsm["subspot_features"]
    second = prepared.copy()
    second.X = second.X[::-1]
    two = ad.concat({"a": prepared, "b": second}, label="library", index_unique="-", pairwise=True)
    model = train(two, setup={"library_key": "library", "batch_key": "library"})
    prior = model.get_enhanced(expectation="decoded")
    for name in ("a", "b"):
        expected = prior[prior.obs["library"] == name]
        predicted = model.predict(expected.obsm["spatial"], library_id=name)
        np.testing.assert_allclose(predicted.X, expected.X, rtol=1e-5)
        assert set(predicted.obs["library"]) == {name}
        assert set(predicted.uns["spatial"]) == {name}
    with pytest.raises(ValueError, match=r"one of the sections \['a', 'b'\] .* found None"):
        model.predict(expected.obsm["spatial"])


def test_positions_of_a_section_that_was_not_trained_on(prepared):
    del prepared.obsm["subspot_features"]
    model = train(prepared.copy())
    prepared.X = prepared.X[::-1]
    expected = model.get_enhanced(prepared, expectation="decoded")
    predicted = model.predict(expected.obsm["spatial"], adata=prepared)
    np.testing.assert_allclose(predicted.X, expected.X, rtol=1e-5)


def test_without_interpolation_it_is_the_nearest_spot(prepared):
    del prepared.obsm["subspot_features"]
    model = train(prepared, max_epochs=4, interpolation="none")
    expected = model.get_enhanced(expectation="decoded")
    np.testing.assert_allclose(model.predict(expected.obsm["spatial"]).X, expected.X, rtol=1e-5)


def test_means_do_not_depend_on_exposure(prepared):
    del prepared.obsm["subspot_features"]
    prepared.X = np.log1p(prepared.X.toarray())
    model = train(prepared, max_epochs=4, likelihood="gaussian")
    xy = prepared.obsm["spatial"][:3]
    np.testing.assert_allclose(model.predict(xy).X, model.predict(xy, exposure=1.0).X, rtol=1e-5)


@pytest.mark.parametrize("name", ["predicted.zarr", "predicted.h5ad"])
def test_written_piece_by_piece(square, tmp_path, name):
    model, _ = square
    xy, features = flat(model.adata.obsm["subspots"]), flat(model.adata.obsm["subspot_features"])
    on_disk = model.predict(xy, features, batch_size=50, out=tmp_path / name)
    np.testing.assert_allclose(np.asarray(on_disk.X), model.predict(xy, features).X, rtol=1e-5)
    with pytest.raises(ValueError, match="overwrite"):
        model.predict(xy, features, out=tmp_path / name)


@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        (np.zeros((0, 2)), {}, r"shape \(0, 2\)"),
        (np.zeros((2, 3)), {}, r"shape \(2, 3\)"),
        ([[0.0, np.nan]], {}, "1 not finite"),
        (pd.DataFrame({"x": [1.0]}), {}, "'x' and 'y'"),
        ([[50.0, 50.0]], {}, r"found none.*im\.features_at"),
        ([[50.0, 50.0]], {"image_features": np.zeros((1, 3))}, r"shape \(1, 3\)"),
        ([[50.0, 50.0]], {"image_features": np.zeros((1, 76)), "exposure": 0}, "`exposure`"),
        ([[50.0, 50.0]], {"image_features": np.zeros((1, 76)), "exposure": [0.1, 0.2]}, "`exposure`"),
        ([[50.0, 50.0]], {"library_id": "b"}, "'b'"),
        ([[50.0, 50.0]], {"batch_size": 0}, "batch_size"),
    ],
)
def test_what_does_not_fit_is_refused(square, positions, options, message):
    with pytest.raises(ValueError, match=message):
        square[0].predict(positions, **options)


def test_cells_outside_of_all_spots(section, tmp_path):
    """What `pp.subspots(cells=)` could not place is predicted under its own names, after a round trip, too."""
    adata = section.adata
    rng = np.random.default_rng(0)
    xy = np.repeat(adata.obsm["spatial"], 3, axis=0) + rng.uniform(-25, 25, size=(180, 2))
    cells = pd.DataFrame(xy, columns=["x", "y"], index=[f"cell_{i}" for i in range(180)])
    pp.subspots(adata, cells=cells)
    pp.spot_graph(adata)
    adata.write_h5ad(tmp_path / "spots.h5ad")
    adata = ad.read_h5ad(tmp_path / "spots.h5ad")
    outside = adata.uns["subspots"]["cells_outside"]
    assert 0 < len(outside) < 180
    model = train(adata, max_epochs=4)
    predicted = model.predict(outside)
    inside = model.get_enhanced()
    assert not set(predicted.obs_names) & set(inside.obs_names)
    assert set(predicted.obs_names) | set(inside.obs_names) == set(cells.index)
    together = ad.concat([inside, predicted])
    assert together.n_obs == 180
    assert np.isfinite(together.X).all()
