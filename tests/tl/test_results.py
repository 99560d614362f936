"""What a run leaves: what no file can hold is named before the training, and a writer that fails loses no result."""

from functools import wraps

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scipy import sparse

from helpers import QUICK, as_visium, train
from soscope_scverse import SoScope, tl
from soscope_scverse._containers.mudata import columns_apart

pytestmark = [
    pytest.mark.filterwarnings("ignore:Forward slashes"),
    pytest.mark.filterwarnings("ignore:No image given"),
    pytest.mark.filterwarnings("ignore:.* was written without encoding"),
]


def column(values):
    return lambda a: a.obs.insert(0, "noted", values(a.n_obs))


def entry(slot, key, value):
    return lambda a: getattr(a, slot).update({key: value(a)})


def index_named_as_a_column(a):
    a.obs["barcode"] = np.arange(a.n_obs)
    a.obs.index.name = "barcode"


def rows(a):
    return np.ones((a.n_obs, 2))


NOT_STORABLE = {  # what is changed, and what the message names
    "periods": (column(lambda n: pd.period_range("2024-01", periods=n, freq="M")), r"obs\['noted'\] \(period\[M\]"),
    "dates": (column(lambda n: pd.date_range("2024-01-01", periods=n)), r"obs\['noted'\] \(datetime64"),
    "times": (column(lambda n: pd.to_timedelta(np.arange(n), "s")), r"obs\['noted'\] \(timedelta64"),
    "intervals": (column(lambda n: pd.cut(np.arange(n), 4)), r"obs\['noted'\] \(values of type Interval"),
    "mixed types": (column(lambda n: [2.5, *["b"] * (n - 1)]), r"obs\['noted'\] \(values of type float, str"),
    "the last of another type": (column(lambda n: [*["b"] * (n - 1), 7]), r"obs\['noted'\] \(values of type int, str"),
    "mixed categories": (column(lambda n: pd.Categorical([1, "b"] * (n // 2))), r"obs\['noted'\]"),
    "lists": (column(lambda n: [[1, 2]] * n), r"obs\['noted'\] \(values of type list"),
    "a column that is a number": (lambda a: a.obs.insert(0, 3, 1.0), r"obs\[3\] \(a name of type int"),
    "an index of a column's name": (index_named_as_a_column, "obs .*index.*'barcode'"),
    "genes with mixed types": (lambda a: a.var.insert(0, "n", [1, *["b"] * (a.n_vars - 1)]), r"var\['n'\]"),
    "a number as key": (entry("uns", 7, lambda a: "red"), r"uns\[7\] \(a key of type int"),
    "a number as inner key": (entry("uns", "colours", lambda a: {"by": {2: "red"}}), r"uns\['colours'\]\['by'\]\[2\]"),
    "a path as key": (entry("uns", "CD3/CD8", lambda a: 1), r"uns\['CD3/CD8'\] \(a key that is a path"),
    "a path as key of positions": (entry("obsm", "umap/2", rows), r"obsm\['umap/2'\]"),
    "a path as inner key": (entry("uns", "by", lambda a: {"a/b": 1}), r"uns\['by'\]\['a/b'\] \(a key that is a path"),
    "an empty key": (entry("uns", "by", lambda a: {"": 1}), r"uns\['by'\]\[''\] \(a key that is a path"),
    "a set": (entry("uns", "seen", lambda a: {1, 2}), r"uns\['seen'\] \(set"),
    "a tuple": (entry("uns", "run", lambda a: {"shape": (3, 4)}), r"uns\['run'\]\['shape'\] \(tuple"),
    "a series": (entry("uns", "run", lambda a: pd.Series([1, 2])), r"uns\['run'\] \(int64"),
    "a table of text and NaN": (
        entry("uns", "runs", lambda a: pd.DataFrame({"by": ["a", np.nan]}, dtype=object)),  # of obs and var: categories
        r"uns\['runs'\]\['by'\] \(values of type float, str",
    ),
    "a table by dates": (
        entry("uns", "runs", lambda a: pd.DataFrame({"n": [1.0]}, index=pd.to_datetime(["2024-01-01"]))),
        r"uns\['runs'\] \(columns \['n'\], index None of datetime64",
    ),
    "an object": (entry("uns", "model", lambda a: object()), r"uns\['model'\] \(object"),
    "a table with periods": (
        entry("obsm", "times", lambda a: pd.DataFrame({"t": pd.period_range("2024", periods=a.n_obs)}, a.obs_names)),
        r"obsm\['times'\]\['t'\] \(period",
    ),
}
STORABLE = {
    "strings and NaN": column(lambda n: ["a", np.nan] * (n // 2)),
    "booleans and NA": column(lambda n: pd.array([True, None] * (n // 2))),
    "categories of numbers": column(lambda n: pd.Categorical(np.arange(n))),
    "dicts": entry("uns", "neighbors", lambda a: {"params": {"n": 5, "metric": "cosine"}, "none": None, "e": {}}),
    "a sparse graph": entry("obsp", "distances", lambda a: sparse.eye(a.n_obs, format="csr")),
    "a structured array": entry("uns", "genes", lambda a: np.zeros(3, dtype=[("g1", "f4"), ("g2", "i8")])),
    "a table": entry("obsm", "cells", lambda a: pd.DataFrame({"B": rows(a)[:, 0], "T": 1}, a.obs_names)),
}
OF_RESULT = ["genes with mixed types"]


@pytest.fixture
def untrained(monkeypatch):
    """No training may start."""
    monkeypatch.setattr(SoScope, "train", wraps(SoScope.train)(lambda *args, **kwargs: pytest.fail("training started")))


@pytest.mark.parametrize("name", NOT_STORABLE)
def test_what_no_file_can_hold_is_named_before_the_training(section, tmp_path, untrained, name):
    change, message = NOT_STORABLE[name]
    change(section.adata)
    with pytest.raises(ValueError, match=f"(?s)`save_model`, found {message}"):
        tl.enhance(section.adata, image=section.image, save_model=tmp_path / "model", **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("name", OF_RESULT)
def test_a_result_has_less_of_its_spots(section, tmp_path, untrained, name, suffix):
    change, message = NOT_STORABLE[name]
    change(section.adata)
    section.adata.var.index.name = "n"  # of which zarr, too, holds no second column
    with pytest.raises(ValueError, match=f"(?s)`out`, found {'var' if suffix == '.zarr' else message}"):
        tl.enhance(section.adata, image=section.image, out=tmp_path / f"enhanced{suffix}", **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_everything_else_is_written(section, tmp_path):
    for change in STORABLE.values():
        if "noted" in section.adata.obs:
            section.adata.obs = section.adata.obs.rename(columns={"noted": f"noted {len(section.adata.obs.columns)}"})
        change(section.adata)
    tl.enhance(section.adata, image=section.image, save_model=tmp_path / "model", out=tmp_path / "a.h5ad", **QUICK)
    saved = ad.read_h5ad(tmp_path / "model" / "adata.h5ad")
    assert set(section.adata.obs) <= set(saved.obs)
    assert set(section.adata.uns) <= set(saved.uns)


def test_models_and_results_name_it_themselves(prepared, tmp_path):
    model = train(prepared, 1)
    model.adata.uns["seen"] = {3}
    with pytest.raises(ValueError, match=r"`save_anndata`, found uns\['seen'\]"):
        model.save(tmp_path / "model", save_anndata=True)
    model.save(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.pt"]
    with pytest.raises(ValueError, match=r"`out`, found uns\['when'\]"):
        model.get_enhanced(out=tmp_path / "a.zarr", uns={"when": pd.Timestamp("2024-01-01")})


@pytest.mark.parametrize("argument", ["save_model", "out"])
def test_folders_that_cannot_be_written_to(section, tmp_path, untrained, monkeypatch, argument):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ValueError, match=f"`{argument}` in a folder that can be written to, found .*new"):
        tl.enhance(section.adata, image=section.image, **{argument: tmp_path / "new.h5ad"}, **QUICK)


def test_modalities(section, tmp_path, untrained):
    parts = {"rna": section.adata[:, :5].copy(), "prot": section.adata[:, 5:].copy()}
    parts["prot"].uns["panel"] = {1: "CD3"}
    with columns_apart():
        mdata = md.MuData(parts)
    with pytest.raises(ValueError, match=r"uns\['panel'\]\[1\]"):
        tl.enhance(mdata, likelihood={"rna": "nb", "prot": "nb"}, save_model=tmp_path / "model", **QUICK)


def test_a_store_of_spatialdata(section, tmp_path, untrained):
    sdata = as_visium(section)
    sdata.write(tmp_path / "a.zarr")
    sdata = sd.read_zarr(tmp_path / "a.zarr")
    sdata["table"].var.insert(0, 5, 1.0)
    with pytest.raises(ValueError, match=r"`sdata`, found var\[5\]"):
        tl.enhance(sdata, image_key="visium_full_image", **QUICK)


# ---- sections with a "/" in their names -----------------------------------------------------------------------------


@pytest.fixture
def slides(section):
    """Two sections that are called as folders are, and one within the other."""
    other = section.adata.copy()
    other.obs_names = [f"{name}-2" for name in other.obs_names]
    scales = section.adata.uns["spatial"]["synthetic"]["scalefactors"]
    both = ad.concat({"10x/A1": section.adata, "10x/A1/again": other}, label="slide")
    both.uns["spatial"] = {
        name: {
            "images": {"hires": section.image},
            "scalefactors": {**scales, "tissue_hires_scalef": 1.0},
            "metadata": {"by": "us"},
        }
        for name in ("10x/A1", "10x/A1/again")
    }
    return both


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_sections_come_back_under_their_names(slides, tmp_path, suffix):
    options = {"library_key": "slide", **QUICK}
    expected = tl.enhance(slides, save_model=tmp_path / "model", **options)
    written = tl.enhance(slides, out=tmp_path / f"a{suffix}", **options)
    for found in (expected, written, SoScope.load(tmp_path / "model").adata):
        assert list(found.uns["spatial"]) == ["10x/A1", "10x/A1/again"]
        assert set(found.obs["slide"]) == {"10x/A1", "10x/A1/again"}
        for entry in found.uns["spatial"].values():
            assert set(entry) == {"images", "scalefactors", "metadata"}
    read = (ad.read_h5ad if suffix == ".h5ad" else ad.read_zarr)(tmp_path / f"a{suffix}")
    assert "10x/A1" not in read.uns["spatial"]
    images = {name: entry["images"]["hires"] for name, entry in slides.uns["spatial"].items()}
    again = tl.enhance(slides, image=images, **options)
    np.testing.assert_array_equal(again.X, expected.X)


SECTIONS = {  # that files would lose
    "no name": (["", "B"], r"\[''\] \(a key that is a path"),
    "a dot": ([".", "B"], r"\['\.'\] \(a key that is a path"),
    "a slash at the end": (["A/", "B"], r"\['A/'\] \(a name of a section with a level that is no name"),
    "the folder above": (["A/../B", "B"], r"\['A/\.\./B'\] \(a name of a section with a level that is no name"),
    "images of another": (["A", "A/images"], r"\['A/images'\] .* 'images' of section 'A'"),
    "images of none": (["B", "A/images/C"], r"\['A/images/C'\] .* 'images' of section 'A'"),
    "notes of another": (["A/B", "A/B/metadata"], r"\['A/B/metadata'\] .* 'metadata' of section 'A/B'"),
}


@pytest.mark.parametrize("case", SECTIONS)
@pytest.mark.parametrize("options", [{"out": "a.h5ad"}, {"out": "a.zarr"}, {"save_model": "model"}])
def test_names_of_sections_that_files_lose_are_found_before_the_training(slides, tmp_path, untrained, case, options):
    names, message = SECTIONS[case]
    slides.obs["slide"] = np.repeat(names, slides.n_obs // 2)
    libraries = dict(zip(names, slides.uns["spatial"].values(), strict=True))
    options = {name: tmp_path / value for name, value in options.items()}
    needs_entry = case == "notes of another"
    for slides.uns["spatial"] in [libraries] if needs_entry else [libraries, {}]:
        with pytest.raises(ValueError, match=rf"`{next(iter(options))}`, found uns\['spatial'\]{message}"):
            tl.enhance(slides, library_key="slide", **options, **QUICK)
    assert list(tmp_path.iterdir()) == []
    assert [set(entry) for entry in libraries.values()] == [{"images", "scalefactors", "metadata"}] * 2
    assert [set(entry["images"]) for entry in libraries.values()] == [{"hires"}] * 2


def test_sections_that_others_nested_are_found(slides, tmp_path):
    try:
        slides.write_h5ad(tmp_path / "a.h5ad")  # anndata itself, with a warning
        nested = ad.read_h5ad(tmp_path / "a.h5ad")
    except ValueError:  # it does not from 0.13 on, but there are files
        nested = slides.copy()
        outer, inner = slides.uns["spatial"].values()
        nested.uns["spatial"] = {"10x": {"A1": {**outer, "again": inner}}}
    assert list(nested.uns["spatial"]) == ["10x"]
    np.testing.assert_array_equal(
        tl.enhance(nested, library_key="slide", **QUICK).X, tl.enhance(slides, library_key="slide", **QUICK).X
    )


# ---- writers that fail ----------------------------------------------------------------------------------------------


def failing(*args, **kwargs):
    raise OSError("No space left on device")


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_a_result_that_cannot_be_written_is_returned(section, tmp_path, monkeypatch, suffix):
    expected = tl.enhance(section.adata, image=section.image, **QUICK)
    monkeypatch.setattr(ad.AnnData, f"write_{suffix}", failing)
    with pytest.warns(UserWarning, match="could not be written .*No space left.* returned in memory"):
        found = tl.enhance(section.adata, image=section.image, out=tmp_path / f"a.{suffix}", **QUICK)
    np.testing.assert_array_equal(found.X, expected.X)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_saved_without_spots_that_cannot_be_written(section, tmp_path, monkeypatch):
    expected = tl.enhance(section.adata, image=section.image, **QUICK)
    monkeypatch.setattr(ad.AnnData, "write_h5ad", failing)
    monkeypatch.setattr(ad.AnnData, "write", failing)
    with pytest.warns(UserWarning, match="could not be saved .*without its spots"):
        found = tl.enhance(section.adata, image=section.image, save_model=tmp_path / "model", **QUICK)
    np.testing.assert_array_equal(found.X, expected.X)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.pt"]


def test_a_model_that_cannot_be_saved_costs_no_result(section, tmp_path, monkeypatch):
    monkeypatch.setattr(SoScope, "save", failing)
    with pytest.warns(UserWarning, match="could not be saved .*return_model=True"):
        found = tl.enhance(section.adata, image=section.image, save_model=tmp_path / "model", **QUICK)
    assert np.isfinite(found.X).all()


def test_a_store_whose_writer_fails_costs_no_result(section, tmp_path, monkeypatch):
    as_visium(section).write(tmp_path / "a.zarr")
    sdata = sd.read_zarr(tmp_path / "a.zarr")

    def broken(*args, **kwargs):
        raise RuntimeError("this writer is broken")

    monkeypatch.setattr("spatialdata._io.io_table.write_adata", broken)
    with pytest.warns(UserWarning, match="could not be written .*this writer is broken.*added in memory"):
        tl.enhance(sdata, image_key="visium_full_image", **QUICK)
    assert sdata["enhanced"].n_obs == 420
    assert set(sd.read_zarr(tmp_path / "a.zarr").tables) == {"table"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
