"""Results that are written piece by piece."""

import resource
import shutil
from contextlib import contextmanager, suppress
from threading import Thread
from types import SimpleNamespace

import anndata as ad
import dask.array
import numpy as np
import pytest
import scanpy as sc
import zarr

from helpers import seeded
from soscope_scverse import SoScope, tl
from soscope_scverse._files import completed
from soscope_scverse.model.inference import result as prediction
from soscope_scverse.model.inference import store


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["enhanced.zarr", "enhanced.h5ad"])
@pytest.mark.parametrize("n_samples", [0, 3])
def test_what_is_written_is_what_is_returned(padded, tmp_path, name, n_samples):
    options = {"n_samples": n_samples, "batch_size": 7, "uns": {"note": "mine"}}
    expected = seeded(padded.get_enhanced, **options)
    lazy = seeded(padded.get_enhanced, out=tmp_path / name, **options)
    assert names(tmp_path) == [name]
    read = ad.read_zarr(tmp_path / name) if name.endswith("zarr") else ad.read_h5ad(tmp_path / name)
    for result in (lazy, read):
        assert result.shape == expected.shape == (360, 8)
        np.testing.assert_array_equal(np.asarray(result.X), expected.X)
        layers = {"denoised", *(("std", "q05", "q95", "sampled_counts") if n_samples else ())}
        assert set(result.layers) - {None} == set(expected.layers) - {None} == layers
        for layer in layers:
            np.testing.assert_array_equal(np.asarray(result.layers[layer]), expected.layers[layer])
        for slot in ("spatial", "image_features"):
            np.testing.assert_array_equal(np.asarray(result.obsm[slot]), expected.obsm[slot])
        assert result.obs.astype(str).equals(expected.obs.astype(str))
        assert list(result.var_names) == list(expected.var_names)
        assert result.uns["note"] == "mine"
        assert set(result.uns["spatial"]) == set(expected.uns["spatial"])
    for array in (lazy.X, *lazy.layers.values(), lazy.obsm["image_features"]):
        assert isinstance(array, dask.array.Array)


def test_the_store_is_zarr_3_in_chunks(padded, tmp_path):
    padded.get_enhanced(out=tmp_path / "enhanced.zarr", batch_size=10)
    x = zarr.open_group(tmp_path / "enhanced.zarr", mode="r")["X"]
    assert x.metadata.zarr_format == 3
    assert x.chunks == (70, 8)


@pytest.mark.parametrize("batch_size", [1, 11, 1000])
def test_the_result_does_not_depend_on_the_blocks(padded, batch_size):
    blocks = padded.get_enhanced(batch_size=batch_size)
    np.testing.assert_allclose(blocks.X, padded.get_enhanced().X, rtol=1e-5, atol=1e-6)


def test_many_draws_take_smaller_blocks(padded):
    tiles = padded._tiles(padded._section(padded._inputs))
    assert prediction.block_spots(tiles, 1000, 0) == 5_000_000 // 7000
    assert prediction.block_spots(tiles, 1000, 200) == 250_000 // 7000
    assert prediction.block_spots(tiles, 10**9, 0) == 1


@pytest.mark.parametrize("name", ["enhanced.zarr", "enhanced.h5ad"])
@pytest.mark.parametrize(
    "fault", [KeyboardInterrupt("stop"), OSError("No space left on device"), RuntimeError("killed")]
)
def test_an_interrupted_run_leaves_nothing(padded, tmp_path, monkeypatch, name, fault):
    generative, calls = padded.module.generative, []

    def broken(*args, **kwargs):
        calls.append(args)
        if len(calls) > 2:
            raise fault
        return generative(*args, **kwargs)

    monkeypatch.setattr(padded.module, "generative", broken)
    with pytest.raises(BaseException, match=str(fault)):
        padded.get_enhanced(out=tmp_path / name, batch_size=10)
    assert names(tmp_path) == []

    monkeypatch.undo()
    padded.get_enhanced(out=tmp_path / name)
    before = store.open_lazily(tmp_path / name).X.compute()
    calls.clear()
    monkeypatch.setattr(padded.module, "generative", broken)
    with pytest.raises(BaseException, match=str(fault)):
        padded.get_enhanced(out=tmp_path / name, batch_size=10, overwrite=True, expectation="decoded")
    assert names(tmp_path) == [name]
    np.testing.assert_array_equal(store.open_lazily(tmp_path / name).X.compute(), before)


@pytest.mark.parametrize("name", ["enhanced.zarr", "enhanced.h5ad"])
def test_overwriting(padded, tmp_path, name):
    padded.get_enhanced(out=tmp_path / name)
    with pytest.raises(ValueError, match="overwrite=True"):
        padded.get_enhanced(out=tmp_path / name)
    prior = padded.get_enhanced(out=tmp_path / name, overwrite=True, expectation="decoded")
    np.testing.assert_array_equal(prior.X.compute(), padded.get_enhanced(expectation="decoded").X)
    assert names(tmp_path) == [name]


def test_denoised_profiles_are_streamed(padded, tmp_path):
    written = padded.get_enhanced(out=tmp_path / "enhanced.zarr", batch_size=7)
    expected = padded.get_enhanced(expectation="denoised").X
    np.testing.assert_allclose(written.layers["denoised"].compute(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "message"), [("enhanced.csv", r"\.zarr"), ("nowhere/enhanced.zarr", "nowhere")])
def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(section, tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(SoScope, "train", lambda *args, **kwargs: pytest.fail("training started"))
    with pytest.raises(ValueError, match=message):
        tl.enhance(section.adata, image=section.image, out=tmp_path / name)
    (tmp_path / "there.zarr").mkdir()
    with pytest.raises(ValueError, match="new path"):
        tl.enhance(section.adata, image=section.image, out=tmp_path / "there.zarr")


def test_one_call_from_file_to_file(section, tmp_path):
    adata = section.adata
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "spots.h5ad")
    options = {
        "image": section.image,
        "max_epochs": 4,
        "accelerator": "cpu",
        "train_kwargs": {"enable_progress_bar": False},
    }
    backed = ad.read_h5ad(tmp_path / "spots.h5ad", backed="r")
    for layer in (None, "counts"):
        enhanced = tl.enhance(backed, out=tmp_path / "enhanced.zarr", overwrite=True, layer=layer, **options)
        assert backed.isbacked
        expected = tl.enhance(adata, layer=layer, **options)
        np.testing.assert_array_equal(enhanced.X.compute(), expected.X)
        assert enhanced.uns["soscope"]["arguments"] == expected.uns["soscope"]["arguments"]
        image = enhanced.uns["spatial"]["synthetic"]["images"]["hires"]
        np.testing.assert_array_equal(image, expected.uns["spatial"]["synthetic"]["images"]["hires"])


def test_scanpy_goes_on_without_reading_everything(padded, tmp_path):
    lazy = padded.get_enhanced(out=tmp_path / "enhanced.zarr", batch_size=7)
    plain = padded.get_enhanced(batch_size=7)
    for adata in (lazy, plain):
        sc.pp.normalize_total(adata, target_sum=100)
        sc.pp.log1p(adata)
    assert isinstance(lazy.X, dask.array.Array)
    np.testing.assert_allclose(lazy.X.compute(), plain.X, rtol=1e-5)


@contextmanager
def full_disk(size):
    """No file may grow beyond this many bytes, as on a disk that fills up."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_what_was_there(padded, tmp_path):
    path = tmp_path / "enhanced.zarr"
    with full_disk(300), pytest.raises(OSError, match="File too large"):
        padded.get_enhanced(out=path)
    assert names(tmp_path) == []
    expected = padded.get_enhanced(out=path).X.compute()
    with full_disk(300), pytest.raises(OSError, match="File too large"):
        padded.get_enhanced(out=path, overwrite=True)
    np.testing.assert_array_equal(ad.read_zarr(path).X, expected)
    assert names(tmp_path) == ["enhanced.zarr"]


def test_threads_that_still_write_hide_no_error(tmp_path):
    def write(folder):
        for i in range(300):
            with suppress(FileNotFoundError):
                file = folder / f"{i}.partial"
                file.write_bytes(b"pixels")
                file.unlink()

    def write_and_fail():
        with completed(tmp_path / "enhanced.zarr") as part:
            part.mkdir()
            threads.extend(Thread(target=write, args=[part]) for _ in range(4))
            for thread in threads:
                thread.start()
            raise OSError("disk full")

    threads = []
    with pytest.raises(OSError, match="disk full"):
        write_and_fail()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == []


def test_no_room_for_an_h5ad_is_reported_before_it_is_written(padded, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"No space left on device.* needs 0\.0 MB"):
        padded.get_enhanced(out=tmp_path / "enhanced.h5ad")
    assert names(tmp_path) == []
