"""Image features on a Dask cluster."""

import os
import pickle

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import tifffile
from distributed import Client, LocalCluster
from PIL import Image

import soscope_scverse.im as im

HEIGHT, WIDTH = 700, 120


@pytest.fixture(scope="module")
def processes():
    with LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def threads():
    with (
        LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(params=["processes", "threads"])
def client(request):
    return request.getfixturevalue(request.param)


def section():
    """A tall section, so that it is encoded in several bands, in no order."""
    spots = np.stack(np.meshgrid([40.0, 70.0], np.arange(30.0, HEIGHT, 30.0)), axis=-1).reshape(-1, 2)
    spots = np.random.default_rng(0).permutation(spots)
    adata = ad.AnnData(np.ones((len(spots), 1), dtype=np.float32))
    adata.obsm["spatial"] = spots
    adata.obsm["subspots"] = spots[:, None] + np.array([[-8.0, 0.0], [8.0, 0.0]])
    adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"spot_diameter_fullres": 20.0}}}
    return adata


def tissue():
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def computed(adata, image, **kwargs):
    return im.features(adata, image, copy=True, **kwargs).obsm["subspot_features"]


def file(path, image):
    if path.suffix == ".tif":
        tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64))
    else:
        Image.fromarray(image).save(path)
    return path


KINDS = {
    "numpy": lambda p, f: p,
    "dask": lambda p, f: da.from_array(p, chunks=(64, 64, 3)),
    "TIFF": lambda p, f: file(f / "a.tif", p),
    "PNG": lambda p, f: file(f / "a.png", p),
    "JPEG": lambda p, f: file(f / "a.jpg", p),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cluster_changes_no_bit(kind, client, tmp_path):
    adata, image = section(), KINDS[kind](tissue(), tmp_path)
    for context in (2, 12.8):  # The wide patches are described by blocks of 2 x 2 pixels.
        alone = computed(adata, image, context=context)
        np.testing.assert_array_equal(computed(adata, image, context=context, client=client), alone)


def test_functions_of_tiles_run_on_the_workers(processes):
    def encoder(tiles):
        return np.column_stack([tiles.mean(axis=(1, 2)), np.full(len(tiles), os.getpid())])

    adata, image = section(), tissue()
    shared = computed(adata, image, encoder=encoder, context=2, client=processes)
    alone = computed(adata, image, encoder=encoder, context=2)
    np.testing.assert_array_equal(shared[..., :3], alone[..., :3])
    assert os.getpid() not in shared[..., 3]


def test_several_sections(threads):
    adata = ad.concat([section(), section()], keys=["a", "b"], label="library", index_unique="-")
    adata.uns["spatial"] = {name: section().uns["spatial"]["s1"] for name in ("a", "b")}
    images = {"a": tissue(), "b": tissue()[::-1]}
    expected = computed(adata, images, library_key="library")
    np.testing.assert_array_equal(computed(adata, images, library_key="library", client=threads), expected)


def test_errors_of_workers_reach_the_caller(threads):
    with pytest.raises(ValueError, match="rows of finite features"):
        im.features(section(), tissue(), encoder=lambda tiles: tiles, client=threads)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG"])
def test_files_travel_as_paths(kind, tmp_path, monkeypatch):
    image = KINDS[kind](tissue(), tmp_path)
    monkeypatch.chdir(tmp_path)
    source = im.open_image(image.name)
    pixels = source.read(0, HEIGHT, 0, WIDTH)
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(sent).read(0, HEIGHT, 0, WIDTH), pixels)


def test_a_cluster_fills_the_cache(processes, tmp_path):
    adata, image = section(), tissue()
    shared = computed(adata, image, context=2, client=processes, cache=tmp_path)
    stored = sorted(tmp_path.iterdir())
    assert len(stored) > 1
    np.testing.assert_array_equal(computed(adata, image, context=2, cache=tmp_path), shared)
    assert sorted(tmp_path.iterdir()) == stored
