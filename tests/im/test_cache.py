"""Image features that are kept on disk."""

import multiprocessing
import os
import resource

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import tifffile
import torch
import zarr

import soscope_scverse.im as im

HEIGHT, WIDTH = 700, 120


class Counting(im.PatchEncoder):
    """Mean colours; counts the tiles that it sees and may be interrupted."""

    name = "counting"

    def __init__(self, gain=1.0):
        super().__init__(8)
        self.gain = gain

    def describe(self, tiles):
        counts["tiles"] += len(tiles)
        if counts["tiles"] > counts["limit"]:
            raise KeyboardInterrupt
        return self.gain * tiles.mean(axis=(1, 2))


counts = {"tiles": 0, "limit": float("inf")}


@pytest.fixture(autouse=True)
def _reset():
    counts.update(tiles=0, limit=float("inf"))


def section(shift=0.0):
    spots = np.stack(np.meshgrid([40.0, 70.0], np.arange(30.0, HEIGHT, 30.0)), axis=-1).reshape(-1, 2)
    adata = ad.AnnData(np.ones((len(spots), 1), dtype=np.float32))
    adata.obsm["spatial"] = spots
    adata.obsm["subspots"] = spots[:, None] + np.array([[-8.0, 0.0], [8.0 + shift, 0.0]])
    adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"spot_diameter_fullres": 20.0}}}
    return adata


def tissue(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def computed(image, folder, *, adata=None, encoder=None, context=2, **kwargs):
    adata = section() if adata is None else adata
    encoder = Counting() if encoder is None else encoder
    im.features(adata, image, encoder=encoder, context=context, cache=folder, **kwargs)
    return adata.obsm["subspot_features"], list(adata.uns["subspot_features"]["feature_names"])


def n_encoded(*args, **kwargs):
    before = counts["tiles"]
    computed(*args, **kwargs)
    return counts["tiles"] - before


N_TILES = 2 * section().n_obs


def test_features_are_computed_once(tmp_path):
    expected = computed(tissue(), None)
    first = computed(tissue(), tmp_path / "cache")
    counts["limit"] = counts["tiles"]
    second = computed(tissue(), tmp_path / "cache")
    for features, names in (first, second):
        np.testing.assert_array_equal(features, expected[0])
        assert names == expected[1]


def test_whatever_changes_features_is_told_apart(tmp_path):
    assert n_encoded(tissue(), tmp_path) == N_TILES
    assert n_encoded(tissue(1), tmp_path) == N_TILES
    assert n_encoded(tissue(), tmp_path, adata=section(1.0)) == N_TILES
    assert n_encoded(tissue(), tmp_path, encoder=Counting(2.0)) == N_TILES
    assert n_encoded(tissue(), tmp_path, context=3) == N_TILES
    assert n_encoded(im.open_image(tissue(), channels=[0]), tmp_path) == N_TILES
    assert n_encoded(tissue(), tmp_path) == 0


def test_an_interrupted_run_goes_on(tmp_path):
    counts["limit"] = N_TILES // 2
    with pytest.raises(KeyboardInterrupt):
        computed(tissue(), tmp_path)
    counts["limit"] = float("inf")
    assert 0 < n_encoded(tissue(), tmp_path) < N_TILES
    np.testing.assert_array_equal(computed(tissue(), tmp_path)[0], computed(tissue(), None)[0])


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            computed(tissue(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert n_encoded(tissue(), tmp_path) == N_TILES


def test_files_are_known_by_their_state(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tissue(), photometric="rgb", tile=(64, 64))
    assert n_encoded(path, tmp_path / "cache") == N_TILES
    assert n_encoded(path, tmp_path / "cache") == 0
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))
    assert n_encoded(path, tmp_path / "cache") == N_TILES


@pytest.mark.parametrize("wrapped", [da.from_zarr, lambda path: zarr.open_array(path, mode="r")])
def test_chunked_arrays_are_known_by_a_sample(wrapped, tmp_path):
    path = str(tmp_path / "a.zarr")
    zarr.create_array(path, data=tissue(), chunks=(64, 64, 3))
    assert n_encoded(wrapped(path), tmp_path / "cache") == N_TILES
    assert n_encoded(wrapped(path), tmp_path / "cache") == 0
    zarr.create_array(path, data=tissue(1), chunks=(64, 64, 3), overwrite=True)
    assert n_encoded(wrapped(path), tmp_path / "cache") == N_TILES


def test_modules_are_known_by_their_weights(tmp_path):
    class Module(torch.nn.Linear):
        def forward(self, tiles):
            counts["tiles"] += len(tiles)
            return super().forward(tiles.float().mean(dim=(2, 3)))

    torch.manual_seed(0)
    module = Module(3, 2)
    assert n_encoded(tissue(), tmp_path, encoder=module, device="cpu") == N_TILES
    assert n_encoded(tissue(), tmp_path, encoder=module, device="cpu", batch_size=5) == 0
    torch.nn.init.ones_(module.weight)
    assert n_encoded(tissue(), tmp_path, encoder=module, device="cpu") == N_TILES


def test_texture_from_the_cache(tmp_path):
    expected = computed(tissue(), None, encoder="texture", context=12.8)
    for _ in range(2):
        features, names = computed(tissue(), tmp_path, encoder="texture", context=12.8)
        np.testing.assert_array_equal(features, expected[0])
        assert names == expected[1]


def test_functions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Omit `cache`"):
        computed(tissue(), tmp_path, encoder=lambda tiles: tiles.mean(axis=(1, 2)))


def test_a_full_disk_leaves_whole_bands_only(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            computed(tissue(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(computed(tissue(), tmp_path)[0], computed(tissue(), None)[0])


def _fill(folder, start, results, number):
    start.wait()
    results.put((number, computed(tissue(), folder, encoder="texture", context=12.8)[0]))


def test_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_fill, args=(tmp_path, start, results, i)) for i in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=300)[1] for _ in processes]
    for process in processes:
        process.join()
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], computed(tissue(), None, encoder="texture", context=12.8)[0])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    n_bands = len(list(tmp_path.iterdir()))
    computed(tissue(), tmp_path, encoder="texture", context=12.8)
    assert len(list(tmp_path.iterdir())) == n_bands
