"""Results of other tools, written as those tools write them, against the values at the subspots."""

import pickle

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose
from scipy.sparse import csr_matrix

from soscope_scverse import bench, datasets

N = 16
GENES = ["G0", "G1"]


@pytest.fixture
def low() -> AnnData:
    """16 spots of 4 subspots each, 36 pixels apart."""
    section = datasets.synthetic_section(64, lattice="square", n_subspots=4, n_genes=2)
    low = bench.simulate_low_resolution(section.adata).adata
    low.var_names = GENES
    return low


def positions(low) -> np.ndarray:
    return low.obsm["subspots"].reshape(-1, 2)


def plane(xy) -> np.ndarray:
    """Two genes that are linear in the position, so that the mean of positions has their mean."""
    return np.column_stack([1 + xy[:, 0] / 100, 2 + xy[:, 1] / 50])


def checked(result, low) -> np.ndarray:
    """The values, once the rows are those of the subspots."""
    assert result.obs["spot"].tolist() == np.repeat(low.obs_names, 4).tolist()
    assert result.obs["subspot"].tolist() == [0, 1, 2, 3] * N
    assert result.obs_names[:2].tolist() == [f"{low.obs_names[0]}_0", f"{low.obs_names[0]}_1"]
    np.testing.assert_array_equal(result.obsm["spatial"], positions(low))
    assert result.var_names.tolist() == GENES
    return result.X


# ---------------------------------------------------------------------------------------------------------- BayesSpace


def bayesspace(low, per_edge=2) -> AnnData:
    """Log counts of an enhanced SingleCellExperiment: all first subspots, then all second ones, and so on."""
    offsets = (np.arange(per_edge) + 0.5) / per_edge - 0.5
    shift = np.stack(np.meshgrid(offsets, offsets), -1).reshape(-1, 2)
    centre, array = low.obsm["spatial"], low.obs[["array_col", "array_row"]].to_numpy()
    xy = np.concatenate([centre + 72 * step for step in shift])
    index = np.tile(np.arange(1, N + 1), len(shift))
    number = np.repeat(np.arange(1, len(shift) + 1), N)
    names = [f"subspot_{i}.{k}" for i, k in zip(index, number, strict=True)]
    on_array = np.concatenate([array + step for step in shift])
    obs = pd.DataFrame(
        {"spot.idx": index, "subspot.idx": number, "array_col": on_array[:, 0], "array_row": on_array[:, 1]},
        index=names,
    )
    obs[["pxl_row_in_fullres", "pxl_col_in_fullres"]] = xy[:, ::-1]
    return AnnData(np.log2(1 + plane(xy)), obs=obs, var=pd.DataFrame(index=GENES))


def test_bayesspace_from_h5ad_and_in_memory(low, tmp_path):
    enhanced = bayesspace(low)
    assert_allclose(checked(bench.read_bayesspace(enhanced, low), low), plane(positions(low)), rtol=1e-5)
    enhanced.X = csr_matrix(enhanced.X)
    enhanced.write_h5ad(tmp_path / "enhanced.h5ad")
    assert_allclose(bench.read_bayesspace(tmp_path / "enhanced.h5ad", low).X, plane(positions(low)), rtol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_bayesspace_from_csv(low, tmp_path, transposed):
    enhanced = bayesspace(low)
    table = enhanced.to_df().sample(frac=1, random_state=0)
    (table.T if transposed else table).to_csv(tmp_path / "logcounts.csv")
    enhanced.obs.to_csv(tmp_path / "coldata.csv")
    found = bench.read_bayesspace(tmp_path / "logcounts.csv", low, coldata=tmp_path / "coldata.csv")
    assert_allclose(checked(found, low), plane(positions(low)), rtol=1e-5)


@pytest.mark.parametrize("suffix", [".csv.gz", ".tsv", ".tsv.gz", ".txt"])
def test_tables_may_be_compressed_or_separated_by_tabs(low, tmp_path, suffix):
    enhanced = bayesspace(low)
    sep = "," if suffix.startswith(".csv") else "\t"
    paths = tmp_path / f"logcounts{suffix}", tmp_path / f"coldata{suffix}"
    for table, path in zip((enhanced.to_df().T, enhanced.obs), paths, strict=True):
        table.to_csv(path, sep=sep)
    found = bench.read_bayesspace(paths[0], low, coldata=paths[1])
    assert_allclose(checked(found, low), plane(positions(low)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.csv", b""), ("x.csv", bytes(range(256))), ("x.csv", b"a,b\n1,2,3,4\n1\n"), ("x.csv.gz", b"no gzip")],
)
def test_files_that_are_no_tables_are_named(low, spahdmap, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    bayesspace(low).obs.to_csv(tmp_path / "coldata.csv")
    with pytest.raises(ValueError, match="`result` to be a table of text"):
        bench.read_bayesspace(tmp_path / name, low, coldata=tmp_path / "coldata.csv")
    (score, _), where = spahdmap
    with pytest.raises(ValueError, match="`metagene` to be a table of text"):
        bench.read_spahdmap(score, tmp_path / name, low, **where)


def test_a_damaged_h5ad_is_named(low, tmp_path):
    (tmp_path / "x.h5ad").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="which cannot be read"):
        bench.read_tesla(tmp_path / "x.h5ad", low)


@pytest.mark.parametrize(
    "names",
    [
        {"pxl_col_in_fullres": "imagecol", "pxl_row_in_fullres": "imagerow"},  # before 1.12
        {"pxl_col_in_fullres": "other", "pxl_row_in_fullres": "another"},  # ST: on the array alone
        {"pxl_col_in_fullres": "other", "pxl_row_in_fullres": "another", "array_col": "col", "array_row": "row"},
    ],
)
def test_positions_of_bayesspace_have_several_names(low, names):
    enhanced = bayesspace(low)
    enhanced.obs = enhanced.obs.rename(columns=names)
    assert_allclose(checked(bench.read_bayesspace(enhanced, low), low), plane(positions(low)), rtol=1e-5)


def test_subspots_of_another_partition_are_matched_by_position(low):
    """Nine for four: each has one of the corners."""
    corner = positions(low) + (positions(low) - np.repeat(low.obsm["spatial"], 4, axis=0)) / 3
    found = checked(bench.read_bayesspace(bayesspace(low, per_edge=3), low), low)
    assert_allclose(found, plane(corner), rtol=1e-5)


def test_logarithms_are_taken_back_and_negative_values_are_none(low):
    enhanced = bayesspace(low)
    as_they_are = bench.read_bayesspace(enhanced, low, log_base=None)
    assert_allclose(as_they_are.X, np.log2(1 + plane(positions(low))), rtol=1e-5)
    enhanced.X = -enhanced.X
    assert not bench.read_bayesspace(enhanced, low).X.any()


# --------------------------------------------------------------------------------------------------------------- iStar


@pytest.fixture
def istar(low, tmp_path):
    """Maps of blocks of 16 pixels of an image rescaled to half a micrometre, from one of 4 micrometres a pixel."""
    folder = tmp_path / "section"
    (folder / "cnts-super").mkdir(parents=True)
    (folder / "pixel-size-raw.txt").write_text("4.0\n")
    (folder / "pixel-size.txt").write_text("0.5")
    height, width = (positions(low).max(axis=0)[::-1] // 2 + 20).astype(int)
    rows, cols = np.indices((height, width))
    maps = plane(np.column_stack([cols.ravel() + 0.5, rows.ravel() + 0.5]) * 16 * 0.5 / 4).reshape(height, width, 2)
    maps[:3] = np.nan  # off the tissue
    for j, gene in enumerate(GENES):
        with open(folder / "cnts-super" / f"{gene}.pickle", "wb") as file:
            pickle.dump(maps[..., j].astype(np.float32), file)
    return folder


def test_maps_of_istar_are_averaged_in_the_subspots(low, istar):
    assert_allclose(checked(bench.read_istar(istar, low), low), plane(positions(low)), rtol=0.02)
    some = bench.read_istar(str(istar), low, genes="G1")
    assert_allclose(some.X[:, 0], bench.read_istar(istar, low).X[:, 1])


class Harmful:
    def __reduce__(self):
        return (print, ("this was run",))


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_are_read_in_every_protocol(low, istar, protocol):
    path = istar / "cnts-super" / "G0.pickle"
    expected = bench.read_istar(istar, low).X
    found = pickle.loads(path.read_bytes())
    for array in (found, np.asfortranarray(found), np.stack([found, found], -1)[..., 0]):
        path.write_bytes(pickle.dumps(array, protocol=protocol))
        np.testing.assert_array_equal(bench.read_istar(istar, low).X, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Harmful()), "builtins.print. Nothing of it was run"),
        (pickle.dumps(np.array([[Harmful()]], dtype=object)), "builtins.print"),
        (pickle.dumps(np.array([["a"]], dtype=object)), "an array of object"),
        (pickle.dumps([1, 2]), "found list"),
        (pickle.dumps(pd.Series([1.0])), "it calls pandas"),
        (b"cos\nsystem\n(S'echo'\ntR.", r"it calls os\.system"),
        (b"not a pickle", "G0.pickle"),
        (b"", "G0.pickle"),
        (pickle.dumps(np.ones((5, 5)))[:-40], "G0.pickle"),
        (pickle.dumps(np.ones(5)), r"height x width with values, found shape \(5,\)"),
        (pickle.dumps(np.full((5, 5), np.nan)), "map of height x width with values"),
    ],
)
def test_pickles_of_anything_else_are_refused(low, istar, content, message, capsys):
    (istar / "cnts-super" / "G0.pickle").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        bench.read_istar(istar, low)
    assert "this was run" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------ SpaHDmap


@pytest.fixture
def spahdmap(low, tmp_path):
    """Scores of three metagenes on a crop of the image, at half the resolution, and weights of the genes."""
    first, last = positions(low).min(axis=0) // 2 - 15, positions(low).max(axis=0) // 2 + 15
    rows, cols = np.indices((last - first).astype(int)[::-1])
    xy = (np.stack([cols + first[0], rows + first[1]]) + 1) * 2
    np.save(
        tmp_path / "SpaHDmap_score.npy", np.stack([np.ones_like(xy[0]), xy[0] / 100, xy[1] / 50]).astype(np.float32)
    )
    weights = pd.DataFrame([[1, 1, 0], [2, 0, 1]], index=GENES, columns=[f"Embedding_{i}" for i in (1, 2, 3)])
    weights.to_csv(tmp_path / "metagene.csv")
    paths = tmp_path / "SpaHDmap_score.npy", tmp_path / "metagene.csv"
    return paths, {"origin": (first[1], first[0]), "scale_rate": 2}


def test_scores_of_spahdmap_become_genes(low, spahdmap):
    paths, where = spahdmap
    found = checked(bench.read_spahdmap(*paths, low, **where, log_base=None), low)
    assert_allclose(found, plane(positions(low)), rtol=0.01)
    exponents = bench.read_spahdmap(*paths, low, **where)
    assert_allclose(exponents.X, np.expm1(found), rtol=1e-5)


# ----------------------------------------------------------------------------------------------------- TESLA and FineST


def superpixels(low, step=6) -> np.ndarray:
    low_end, high_end = positions(low).min(axis=0) - 20, positions(low).max(axis=0) + 20
    return np.stack(np.meshgrid(*(np.arange(a, b, step) for a, b in zip(low_end, high_end, strict=True))), -1).reshape(
        -1, 2
    )


def test_superpixels_of_tesla_have_rows_as_x(low, tmp_path):
    xy = superpixels(low)
    obs = pd.DataFrame({"x": xy[:, 1] / 2, "y": xy[:, 0] / 2, "color": 0.0, "z": 0.0})
    with pytest.warns(UserWarning, match="Transforming to str"):
        enhanced = AnnData(np.log1p(plane(xy)), obs=obs, var=pd.DataFrame({"n": 1}, index=GENES))
    assert_allclose(checked(bench.read_tesla(enhanced, low, scale=2), low), plane(positions(low)), rtol=0.02)
    enhanced.write_h5ad(tmp_path / "enhanced_exp.h5ad")
    again = bench.read_tesla(tmp_path / "enhanced_exp.h5ad", low, scale=2)
    assert_allclose(again.X, bench.read_tesla(enhanced, low, scale=2).X)


def test_sub_spots_of_finest_are_at_their_positions(low):
    xy = superpixels(low)
    enhanced = AnnData(np.log1p(plane(xy)), obs=pd.DataFrame(index=[*map(str, range(len(xy)))]))
    enhanced.var_names, enhanced.obsm["spatial"] = GENES, xy
    expected = checked(bench.read_finest(enhanced, low), low)
    assert_allclose(expected, plane(positions(low)), rtol=0.02)
    enhanced.obs[["x", "y"]] = xy
    del enhanced.obsm["spatial"]
    np.testing.assert_array_equal(bench.read_finest(enhanced, low).X, expected)
    assert "spatial" not in enhanced.obsm  # what was passed is as it was
    enhanced.obs_names = ["spot"] * len(xy)  # FineST may name them after their spots
    np.testing.assert_array_equal(bench.read_finest(enhanced, low).X, expected)


def test_results_are_scored_beside_other_methods(low):
    truth = bench.read_bayesspace(bayesspace(low), low)
    low.X = csr_matrix(truth.X.reshape(N, 4, 2).sum(axis=1))
    methods = {"itself": truth[:, ::-1].copy(), "repeat": bench.BASELINES["repeat"]}
    df = bench.compare(low, truth, methods=methods, metrics="pearson", progress=False)
    assert df.loc[df["method"] == "itself", "value"].to_numpy() == pytest.approx(1)
    assert df.loc[df["method"] == "repeat", "value"].max() < 1
    assert df.loc[df["method"] == "itself", "seconds"].isna().all()


# ------------------------------------------------------------------------------------------------------------ refusals


def elsewhere(low) -> AnnData:
    enhanced = bayesspace(low)
    enhanced.obs["pxl_col_in_fullres"] += 500
    return enhanced


def without_positions(low) -> AnnData:
    enhanced = bayesspace(low)
    enhanced.obs = enhanced.obs[["spot.idx"]]
    return enhanced


def in_words(low) -> AnnData:
    enhanced = bayesspace(low)
    enhanced.obs["pxl_row_in_fullres"] = "left"
    enhanced.obs["x"], enhanced.obs["y"] = "left", "top"
    return enhanced


def with_nan(low) -> AnnData:
    enhanced = bayesspace(low)
    enhanced.X[3] = np.nan
    return enhanced


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda low: bench.read_bayesspace(elsewhere(low), low),
            ValueError,
            "BayesSpace at all 64 subspots, found none near",
        ),
        (
            lambda low: bench.read_bayesspace(without_positions(low), low),
            ValueError,
            r"positions of BayesSpace.*\['spot.idx'\]",
        ),
        (lambda low: bench.read_bayesspace(in_words(low), low), TypeError, "positions of BayesSpace.*real numbers"),
        (lambda low: bench.read_tesla(in_words(low), low), TypeError, "positions of TESLA.*real numbers"),
        (lambda low: bench.read_finest(in_words(low), low), TypeError, "positions of FineST.*real numbers"),
        (lambda low: bench.read_bayesspace(with_nan(low), low), ValueError, "found 2 NaN or infinite"),
        (lambda low: bench.read_bayesspace("no.h5ad", low), ValueError, "`result` to be an AnnData or an '.h5ad' file"),
        (lambda low: bench.read_bayesspace(3, low), TypeError, "`result` to be a path, found 3"),
        (lambda low: bench.read_bayesspace("x.csv", low, coldata="y.csv"), ValueError, "`result` to be a '.csv' file"),
        (lambda low: bench.read_bayesspace(bayesspace(low), low, coldata="y"), ValueError, "Omit `coldata`"),
        (lambda low: bench.read_bayesspace(bayesspace(low), low, log_base=1), ValueError, "`log_base` to be above 1"),
        (lambda low: bench.read_tesla(bayesspace(low), low), ValueError, "columns 'x' and 'y' of `obs`"),
        (lambda low: bench.read_tesla(bayesspace(low), low, scale=0), ValueError, "`scale` to be above 0"),
        (lambda low: bench.read_finest(bayesspace(low), low), ValueError, "spot coordinates in"),
        (
            lambda low: bench.read_finest(AnnData(obs=pd.DataFrame(index=["a"])), low),
            ValueError,
            "profiles in `adata.X`",
        ),
        (lambda low: bench.read_istar("nowhere", low), ValueError, "cnts-super/<gene>.pickle' in 'nowhere', found 0"),
        (lambda low: bench.read_istar(None, low), TypeError, "`path` to be a path"),
        (
            lambda low: bench.read_finest(bayesspace(low), without_subspots(low)),
            ValueError,
            "Run `soscope_scverse.pp.subspots`",
        ),
    ],
)
def test_what_does_not_fit_is_named(low, call, error, message):
    with pytest.raises(error, match=message):
        call(low)


def without_subspots(low) -> AnnData:
    low = low.copy()
    del low.obsm["subspots"]
    return low


@pytest.mark.parametrize(
    ("change", "kwargs", "message"),
    [
        (lambda folder: (folder / "pixel-size.txt").unlink(), {}, "size of a pixel.*'pixel-size.txt', found none"),
        (lambda folder: (folder / "pixel-size-raw.txt").write_text("big"), {}, "'pixel-size-raw.txt'"),
        (
            lambda folder: (folder / "pixel-size-raw.txt").write_text("0.1"),
            {},
            "iStar at all 64 subspots, found none near",
        ),
        (lambda folder: None, {"genes": ["G0", "G7"]}, "found 2, none of 'G7'"),
        (
            lambda folder: (folder / "cnts-super/G1.pickle").write_bytes(pickle.dumps(np.ones((3, 3)))),
            {},
            "others in 'G1",
        ),
    ],
)
def test_folders_of_istar_that_do_not_fit_are_named(low, istar, change, kwargs, message):
    change(istar)
    with pytest.raises(ValueError, match=message):
        bench.read_istar(istar, low, **kwargs)


@pytest.mark.parametrize(
    ("score", "metagene", "kwargs", "message"),
    [
        (np.ones((2, 50, 50)), None, {}, r"for the 3 metagenes, found shape \(2, 50, 50\)"),
        (np.full((3, 50, 50), np.nan), None, {}, "finite numbers"),
        (np.array([[["a"]]], dtype=object), None, {}, "the scores of SpaHDmap"),
        (None, "gene,a\nG0,x\n", {}, "n_genes x n_metagenes numbers"),
        (None, None, {"origin": ["a", 1]}, "`origin` to be an array of real numbers"),
        (None, None, {"origin": 3}, "first row and column of the map, found 3"),
        (None, None, {"origin": (500, 0)}, "SpaHDmap at all 64 subspots, found none near"),
        (None, None, {"scale_rate": 0}, "`scale_rate` to be above 0"),
    ],
)
def test_files_of_spahdmap_that_do_not_fit_are_named(low, spahdmap, score, metagene, kwargs, message):
    paths, where = spahdmap
    if score is not None:
        np.save(paths[0], score, allow_pickle=True)
    if metagene is not None:
        paths[1].write_text(metagene)
    with pytest.raises((TypeError, ValueError), match=message):
        bench.read_spahdmap(*paths, low, **where | kwargs)


def test_files_of_spahdmap_that_are_not_there(low, spahdmap):
    (score, metagene), where = spahdmap
    with pytest.raises(ValueError, match=r"'SpaHDmap_score.npy', found"):
        bench.read_spahdmap("no.npy", metagene, low, **where)
    with pytest.raises(ValueError, match=r"`metagene` to be a '.csv' file that exists, found 'no.csv'"):
        bench.read_spahdmap(score, "no.csv", low, **where)


def test_tables_of_bayesspace_that_do_not_fit_each_other(low, tmp_path):
    enhanced = bayesspace(low)
    enhanced.obs[3:].to_csv(tmp_path / "coldata.csv")
    enhanced.to_df().to_csv(tmp_path / "logcounts.csv")
    with pytest.raises(ValueError, match=r"names of the 61 rows of `coldata`.*found 61 of 64"):
        bench.read_bayesspace(tmp_path / "logcounts.csv", low, coldata=tmp_path / "coldata.csv")
    enhanced.obs.to_csv(tmp_path / "coldata.csv")
    enhanced.to_df().assign(G0="high").to_csv(tmp_path / "logcounts.csv")
    with pytest.raises(ValueError, match="numbers in"):
        bench.read_bayesspace(tmp_path / "logcounts.csv", low, coldata=tmp_path / "coldata.csv")
