"""Run time and memory of image features of a whole slide: prints a table.

``python benchmarks/images.py``. Writes a pyramidal OME-TIFF of 50,000 x 50,000 pixels in JPEG tiles (once; kept in
``--folder``), then computes the image features of 20,000 subspots. Each case runs in a separate process, so that peak
memory is that of the case alone. The tissue is multi-scale noise, since only sizes matter here. "no pyramid" reads the
finest level of the same file. The network is Inception v3 with random weights, which have the same cost as trained
ones, on fewer subspots. "modes" compares ``mode="dense"`` with ``mode="patch"`` of that network on overlapping patches
of a synthetic section. "encoder busy" is the share of run time spent in the network rather than waiting for tiles.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import tifffile
from memory import peak_gb

SIZE, N_LEVELS, TILE = 50_000, 5, 512
N_SIDE, N_SUBSPOTS = 100, 2
"""100 x 100 spots of two subspots each."""


def patterns(n: int = 32) -> np.ndarray:
    """Tiles with structure at scales of 4 to 256 pixels in the colours of a stained section."""
    rng = np.random.default_rng(0)
    darkness = np.zeros((n, TILE, TILE), dtype=np.float32)
    for width in (4, 16, 64, 256):
        coarse = rng.random((n, TILE // width, TILE // width), dtype=np.float32)
        darkness += coarse.repeat(width, axis=1).repeat(width, axis=2) / 4
    colour = np.array([120, 170, 90], dtype=np.float32)
    return (245 - darkness[..., None] * colour).astype(np.uint8)


def write_slide(path: Path) -> None:
    """Write the pyramid; all levels consist of the same tiles."""
    tiles = patterns()

    def some(n: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng(1).integers(0, len(tiles), n)
        return (tiles[i] for i in order)

    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as file:
        for level in range(N_LEVELS):
            size = SIZE // 2**level
            file.write(
                some((-(-size // TILE)) ** 2),
                shape=(size, size, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                **({"subifds": N_LEVELS - 1, "metadata": {"axes": "YXS"}} if level == 0 else {"subfiletype": 1}),
            )


def section(n_side: int) -> ad.AnnData:
    """Spots that cover the slide."""
    pitch = SIZE / n_side
    axis = (np.arange(n_side) + 0.5) * pitch
    spots = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    adata = ad.AnnData(np.ones((len(spots), 1), dtype=np.float32))
    adata.obsm["spatial"] = spots
    adata.obsm["subspots"] = spots[:, None] + np.array([[-pitch / 4, 0], [pitch / 4, 0]])
    scalefactors = {"spot_diameter_fullres": SIZE / N_SIDE / 2}
    adata.uns["spatial"] = {"slide": {"images": {}, "scalefactors": scalefactors}}
    return adata


def measure(path: Path, case: str) -> dict[str, float]:
    """Image features of one case: seconds, tiles per second, gigabytes."""
    from dataclasses import replace

    from soscope_scverse import im

    source = im.open_image(path)
    adata = section(N_SIDE if case.startswith("texture") else N_SIDE // 10)
    arguments: dict[str, Any] = {"encoder": "texture"}
    if case == "texture, no pyramid":
        source = replace(source, levels=())
    busy = [0.0]
    if case.startswith("inception_v3"):
        arguments["encoder"] = inception(busy)
    start = time.perf_counter()
    im.features(adata, source, context=8, **arguments)
    seconds = time.perf_counter() - start
    n_tiles = adata.n_obs * N_SUBSPOTS
    return {
        "tiles": n_tiles,
        "patch pixels": float(adata.uns["subspot_features"]["patch_pixels"][0]),
        "seconds": seconds,
        "tiles per second": n_tiles / seconds,
        "encoder busy": busy[0] / seconds,
        "peak GB": peak_gb(),
    }


def compare_modes() -> dict[str, float]:
    """Run time of both modes, and correlation of their features over the subspots."""
    from soscope_scverse import datasets, im, pp

    section = datasets.synthetic_section(60, n_genes=2)
    pp.subspots(section.adata)
    encoder = inception([0.0])
    result, found = {}, []
    for mode in ("patch", "dense"):
        start = time.perf_counter()
        adata = im.features(section.adata, section.image, encoder=encoder, mode=mode, copy=True)
        result[f"seconds, {mode}"] = time.perf_counter() - start
        features = adata.obsm["subspot_features"].reshape(-1, adata.obsm["subspot_features"].shape[2])
        found.append((features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12))
    correlation = (found[0] * found[1]).mean(axis=0)
    varies = (np.abs(found[0]).sum(axis=0) > 0) & (np.abs(found[1]).sum(axis=0) > 0)
    low, middle = np.quantile(correlation[varies], [0.1, 0.5])
    return {"subspots": len(features), **result, "median r": middle, "10 % of r below": low}


def inception(busy: list[float]) -> Any:
    """Inception v3 with random weights that records its run time; loaded before timing starts."""
    import torch
    from torchvision.models import inception_v3

    from soscope_scverse import im

    class Timed(im.InceptionV3):
        def describe(self, tiles: np.ndarray) -> np.ndarray:
            start = time.perf_counter()
            features = super().describe(tiles)
            busy[0] += time.perf_counter() - start
            return features

    with torch.random.fork_rng(), tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.manual_seed(0)
        network = inception_v3(weights=None, init_weights=False)
        for layer in network.modules():  # batch statistics of noise, so that features have a typical scale
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
        with torch.no_grad():
            network.train()(torch.randn(2, 3, 299, 299))
        torch.save(network.state_dict(), file.name)
        encoder = Timed(weights=file.name)
        _ = encoder.network
    return encoder


CASES = ("texture", "texture, no pyramid", "inception_v3", "modes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "soscope_images")
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    path = arguments.folder / "slide.ome.tif"
    if arguments.measure:
        result = compare_modes() if arguments.measure == "modes" else measure(path, arguments.measure)
        print(json.dumps(result))
        return
    if set(arguments.cases) != {"modes"} and not path.exists():
        arguments.folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        half = path.with_name("half.ome.tif")
        write_slide(half)
        half.rename(path)
        print(f"wrote {path} ({path.stat().st_size / 1e9:.1f} GB) in {time.perf_counter() - start:.0f} s")
    for case in arguments.cases:
        command = [sys.executable, __file__, "--folder", str(arguments.folder), "--measure", case]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result = json.loads(done.stdout.splitlines()[-1])
        print(f"{case:22}" + "".join(f"{name}: {value:.4g}   " for name, value in result.items()), flush=True)


if __name__ == "__main__":
    main()
