"""Run time and memory as a function of section size: prints tables, writes JSON and a plot.

``python benchmarks/scaling.py --json scaling.json --plot scaling.png`` runs all parts; ``--against PATH`` repeats every
measurement with the build whose repository is at PATH and prints the ratios; ``--parts`` selects from

- ``sizes``: preprocessing, one training epoch, latent states and streamed prediction for 10^4 to 10^6 subspots (10^7
  with ``--large``), 200 genes and 64 image features, and the growth of run time and memory (log-log slope);
- ``published``: a training step at 1,974 spots x 4 subspots, 60 genes and 2,048 raw image features, compared with a
  dense evaluation of an objective in the form of the paper, and our peak memory;
- ``features``: subspots per second of the encoder "texture";
- ``processes``: steps per second of one and of two processes with one thread each;
- ``embryo``: the steps of `tl.enhance` on a real section (2,898 spots x 7, 1,000 genes, from ``../shared/data``);
- ``million``: `tl.enhance` with default settings, 250,000 spots x 4 and 200 genes from a file-backed AnnData and a TIFF
  to zarr.

Each measurement runs in a separate process, so that its peak memory (resident set, including about 1 GB of imported
libraries) is its own. A GPU is used if available.

The efficiency of a step is estimated from operation counts and from the speed of a large matrix product and of a large
copy on the same device. With M subspots, G genes, D latent dimensions, H hidden units, and n input spots with e edges,
a step (forward, and twice that backward) takes about

- operations: 3 x 2 x [M (D H + 4 H^2 + H G) + 4 n (G H + 2 H^2) + 2 D M];
- bytes: 4 x [42 M G + 60 M H + 3 (12 n + 10 e) H]: 14 passes over subspots x genes forward (bounding, exponential,
  shares) and 28 backward, five decoder layers, three encoder layers with their messages.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from memory import peak_gb
from scipy import sparse

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
N_SUBSPOTS, N_GENES, N_FEATURES = 4, 200, 64
PIXELS = 20  # centre-to-centre distance of spots
PUBLISHED = {
    "default": "ours, default settings",
    "small": "ours in tiles of 256 spots",
    "paper": '`preset="paper"`, sampled pairs, reduced features',
    "dense": "objective in the form of the paper, dense evaluation",
}
DATA = Path(os.environ.get("SOSCOPE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


# ------------------------------------------------------------------------------------------------------------ sections


def section(n_targets: int, n_genes: int, n_features: int = 0, seed: int = 0) -> ad.AnnData:
    """Spots on a square lattice whose counts and image features follow six smooth fields."""
    rng = np.random.default_rng(seed)
    side = round((n_targets / N_SUBSPOTS) ** 0.5)
    spatial = PIXELS * (np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) + 0.5)
    rate = np.exp(fields(spatial) @ rng.normal(0, 0.5, (6, n_genes)) - 0.7)
    counts = sparse.vstack([sparse.csr_matrix(rng.poisson(part)) for part in np.array_split(rate, 50)], format="csr")
    adata = ad.AnnData(counts.astype(np.int32), obsm={"spatial": spatial})
    if n_features:
        import soscope_scverse as sos

        sos.pp.subspots(adata, N_SUBSPOTS)
        features = np.empty((len(spatial), N_SUBSPOTS, n_features), np.float32)
        mix = rng.normal(size=(6, n_features))
        for k in range(N_SUBSPOTS):
            features[:, k] = np.tanh(fields(adata.obsm["subspots"][:, k]) @ mix)
            features[:, k] += rng.standard_normal((len(spatial), n_features), dtype=np.float32)
        adata.obsm["subspot_features"] = features
    return adata


def fields(xy: np.ndarray) -> np.ndarray:
    """Six smooth fields with wavelengths of about ten spots."""
    waves = np.random.default_rng(1).normal(0, 0.6 / PIXELS, (2, 6))
    return np.sin(xy @ waves + np.arange(6))


def write_image(path: Path, width: int) -> None:
    """Write an RGB TIFF of three of the fields with noise."""
    import tifffile

    rng = np.random.default_rng(2)
    image = tifffile.memmap(path, shape=(width, width, 3), dtype=np.uint8, photometric="rgb")
    for top in range(0, width, 512):
        rows = np.arange(top, min(top + 512, width))
        xy = np.stack(np.meshgrid(np.arange(width), rows), axis=-1).reshape(-1, 2)
        shown = 150 + 60 * fields(xy)[:, :3] + rng.integers(-30, 30, (len(xy), 3))
        image[rows] = shown.clip(0, 255).reshape(len(rows), width, 3)
    image.flush()


# -------------------------------------------------------------------------------------------------------- measurements


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def gpu_memory() -> dict[str, float]:
    import torch

    return {"gpu_gb": torch.cuda.max_memory_allocated() / 1e9} if torch.cuda.is_available() else {}


def new_model(adata: ad.AnnData, **options: Any) -> Any:
    import torch

    import soscope_scverse as sos

    sos.SoScope.setup_anndata(adata)
    torch.manual_seed(0)
    return sos.SoScope(adata, image_strength=1, **options)


def seconds_a_step(model: Any, n_steps: int = 12, **options: Any) -> float:
    """Seconds per step of the second training phase, after two warm-up steps."""
    from lightning.pytorch import Callback

    class Clock(Callback):
        ends: dict[int, float] = {}  # noqa: RUF012

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            self.ends[trainer.global_step] = time.perf_counter()

    clock = Clock()
    model.train(max_steps=n_steps, pretrain_epochs=0, callbacks=[clock], **QUIET, **options)
    return (clock.ends[n_steps] - clock.ends[2]) / (n_steps - 2)


def size(n_targets: int) -> dict[str, float]:
    """One row of the table of sizes."""
    import soscope_scverse as sos

    adata = section(n_targets, N_GENES, N_FEATURES)
    prepare_s = timed(lambda: sos.pp.spot_graph(adata))
    model = new_model(adata)
    options = {"pretrain_epochs": 0, **QUIET}
    model.train(max_steps=1, **options)  # the first training also initialises scales and noise
    one_s, two_s = (timed(lambda n=n: model.train(n, **options)) for n in (1, 2))
    latent_s = timed(model.get_latent_representation)
    with tempfile.TemporaryDirectory() as folder:
        write_s = timed(lambda: model.get_enhanced(out=Path(folder) / "enhanced.zarr"))
    n_spots, n = adata.n_obs, adata.n_obs * N_SUBSPOTS
    n_steps = -(-n_spots // 2048)
    step_s = (two_s - one_s) / n_steps
    return {
        "subspots": n,
        "prepare_s": prepare_s,
        "epoch_s": two_s - one_s,
        "step_s": step_s,
        "latent_s": latent_s,
        "write_s": write_s,
        "rows_per_s": n / write_s,
        "peak_gb": peak_gb(),
        **gpu_memory(),
    } | shares_of_limits(step_s, n / n_steps, n_spots / n_steps)


def shares_of_limits(step_s: float, m: float, n: float) -> dict[str, float]:
    """Speed of a step relative to a matrix product and to a copy; operation counts as in the module docstring."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    g, d, h, e = N_GENES, 32, 128, 4 * n
    operations = 6 * (m * (d * h + 4 * h**2 + h * g) + 4 * n * (g * h + 2 * h**2) + 2 * d * m)
    traffic = 4 * (42 * m * g + 60 * m * h + 3 * (12 * n + 10 * e) * h)
    a, b = torch.rand(2048, 2048, device=device), torch.rand(64_000_000, device=device)

    def speed(work: float, run: Callable[[], Any]) -> float:
        def repeated() -> None:
            for _ in range(5):
                run()
            if device == "cuda":
                torch.cuda.synchronize()

        repeated()
        return 5 * work / timed(repeated)

    flops, bandwidth = speed(2 * 2048**3, lambda: a @ a), speed(8 * len(b), b.clone)
    return {"of_flops": operations / step_s / flops, "of_bandwidth": traffic / step_s / bandwidth}


def published(which: str) -> dict[str, float]:
    """Training step on 1,974 spots x 4 subspots, 60 genes, 2,048 image features."""
    import torch

    import soscope_scverse as sos
    from soscope_scverse.tl import _paper as paper

    adata = simulated("small_section")
    sos.pp.spot_graph(adata)
    if which == "dense":
        return {"step_s": dense_step(adata), "peak_gb": peak_gb()}
    lean = {"n_graph_samples": 512, "n_image_components": 128}
    options = {**paper.model_kwargs(has_cells=False), **lean} if which == "paper" else {}
    options.pop("image_strength", None)
    step_s = seconds_a_step(new_model(adata, **options), batch_size=256 if which == "small" else 2048)
    return {"step_s": step_s, "peak_gb": peak_gb(), "threads": torch.get_num_threads()}


def dense_step(adata: ad.AnnData) -> float:
    """Seconds per step of an objective in the form of the paper: all pairs of subspots, W as a dense matrix."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, softplus
    from torch_geometric.nn import TransformerConv

    from soscope_scverse.pp._graphs import image_similarity

    x = torch.as_tensor(adata.X.toarray(), dtype=torch.float32)
    features = torch.as_tensor(adata.obsm["subspot_features"]).flatten(0, 1)
    xy = adata.obsm["subspots"].reshape(-1, 2)
    n, g, m = *x.shape, len(xy)
    graph = sparse.coo_matrix(adata.obsp["spot_graph"])
    edges = torch.as_tensor(np.stack([graph.row, graph.col]).astype(np.int64))
    weights = torch.as_tensor(graph.data, dtype=torch.float32)[:, None]
    similarity = torch.zeros(m, m)
    i, j, w = image_similarity(xy, features.numpy(), np.zeros(m))
    similarity[i, j] = similarity[j, i] = torch.as_tensor(w, dtype=torch.float32)

    layers = torch.nn.ModuleList(TransformerConv(a, 128, edge_dim=1) for a in (g, 128, 128))
    mean, scale = torch.nn.Linear(128, 32), torch.nn.Linear(128, 32)
    trunk, blocks = torch.nn.Linear(32 + features.shape[1], 128), torch.nn.ModuleList()
    for _ in range(2):
        blocks.append(
            torch.nn.Sequential(*(part for _ in range(2) for part in (torch.nn.Linear(128, 128), torch.nn.ReLU())))
        )
    head = torch.nn.Linear(128, g)
    parts = torch.nn.ModuleList([layers, mean, scale, trunk, blocks, head])
    adam = torch.optim.Adam(parts.parameters(), lr=1e-3)

    def step() -> None:
        h = torch.log1p(x)
        for layer in layers:
            h = torch.relu(layer(h, edges, weights))
        q = torch.distributions.Normal(mean(h), softplus(scale(h)))
        z = q.rsample()
        h = trunk(torch.cat([z.repeat_interleave(N_SUBSPOTS, dim=0), features], dim=1))
        for block in blocks:
            h = h + block(h)
        rate = softplus(head(h)).view(n, N_SUBSPOTS, g)
        total = rate.sum(dim=1)
        likelihood = torch.distributions.Normal(total, 1.0).log_prob(x).sum()
        divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
        deviation = (rate - total[:, None] / N_SUBSPOTS).flatten(0, 1)
        image = binary_cross_entropy_with_logits(deviation @ deviation.T, similarity)
        adam.zero_grad()
        ((divergence - likelihood) / (n * g) + image).backward()
        adam.step()

    step()
    return min(timed(step) for _ in range(3))


def features() -> dict[str, float]:
    """Subspots per second of "texture" on an image with 10 pixels between neighbouring subspots."""
    import soscope_scverse as sos

    adata = section(100_000, 2)
    sos.pp.subspots(adata, N_SUBSPOTS)
    width = round(PIXELS * adata.n_obs**0.5)
    with tempfile.TemporaryDirectory() as folder:
        write_image(Path(folder) / "image.tif", width)
        seconds = timed(lambda: sos.im.features(adata, Path(folder) / "image.tif"))
    n = adata.n_obs * N_SUBSPOTS
    return {"subspots": n, "megapixels": width**2 / 1e6, "subspots_per_s": n / seconds, "peak_gb": peak_gb()}


def processes(n_processes: int) -> dict[str, float]:
    """Steps of 2,048 spots shared by processes with one thread each."""
    adata = section(N_SUBSPOTS * 2048 * 4, N_GENES, N_FEATURES)
    import soscope_scverse as sos

    sos.pp.spot_graph(adata)
    options = {} if n_processes == 1 else {"devices": n_processes, "strategy": "ddp"}
    return {"processes": n_processes, "step_s": seconds_a_step(new_model(adata), 20, accelerator="cpu", **options)}


def embryo() -> dict[str, float]:
    """Run time of the steps of `tl.enhance` on a real section."""
    import soscope_scverse as sos

    seconds: dict[str, float] = {}
    with stages(seconds):
        seconds["read"] = timed(lambda: ad.read_h5ad(DATA / "embryo" / "embryo.h5ad"))
        adata = ad.read_h5ad(DATA / "embryo" / "embryo.h5ad")
        start = time.perf_counter()
        genes = sos.pp.spatial_genes(adata, 1000)
        image = DATA / "embryo" / "colour_x5_from_lowres.jpg"
        sos.tl.enhance(adata, image=image, n_subspots=7, genes=genes, train_kwargs={"enable_progress_bar": False})
        seconds["all"] = time.perf_counter() - start
    return seconds | {"peak_gb": peak_gb()}


def million(n_targets: int) -> dict[str, float]:
    """Run time of `tl.enhance` with default settings, from a file-backed AnnData and a TIFF to zarr."""
    import soscope_scverse as sos

    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, stages(seconds):
        folder = Path(name)
        make = [sys.executable, __file__, "--one", "inputs", str(n_targets), name]
        subprocess.run(make, check=True, capture_output=True)
        start = time.perf_counter()
        adata = ad.read_h5ad(folder / "spots.h5ad", backed="r")
        out = folder / "enhanced.zarr"
        enhanced = sos.tl.enhance(
            adata,
            image=folder / "image.tif",
            n_subspots=N_SUBSPOTS,
            out=out,
            train_kwargs={"enable_progress_bar": False},
        )
        seconds["all"] = time.perf_counter() - start
        first = enhanced.X[: 100 * N_SUBSPOTS].compute().reshape(100, N_SUBSPOTS, -1).sum(axis=1)
        np.testing.assert_allclose(first, adata.X[:100].toarray(), rtol=1e-3)
        megabytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
        strength = enhanced.uns["soscope"]["image_strength"]
        return {
            "rows": enhanced.n_obs,
            **seconds,
            "peak_gb": peak_gb(),
            "zarr_mb": megabytes,
            "image_strength": strength,
        }


def simulated(name: str) -> ad.AnnData:
    """Section simulated in a separate process, so that the memory of the simulation is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--one", name, folder], check=True, capture_output=True)
        return ad.read_h5ad(Path(folder) / "spots.h5ad")


def small_section(folder: str) -> dict[str, float]:
    """1,974 spots x 4 subspots, 60 genes, 2,048 image features."""
    section(N_SUBSPOTS * 44 * 45, 60, 2048)[:1974].copy().write_h5ad(Path(folder) / "spots.h5ad")
    return {}


def inputs(n_targets: int, folder: str) -> dict[str, float]:
    """Spots and image of `million`."""
    adata = section(n_targets, N_GENES)
    adata.write_h5ad(Path(folder) / "spots.h5ad")
    write_image(Path(folder) / "image.tif", round(PIXELS * adata.n_obs**0.5))
    return {}


@contextmanager
def stages(seconds: dict[str, float]) -> Iterator[None]:
    """Record the run time of each step of `tl.enhance`."""
    import soscope_scverse as sos

    steps = [
        (sos.pp, "spatial_genes"),
        (sos.pp, "subspots"),
        (sos.pp, "spot_graph"),
        (sos.im, "features"),
        (sos.SoScope, "train"),
        (sos.SoScope, "get_enhanced"),
    ]
    plain = [getattr(owner, name) for owner, name in steps]

    def recorded(name: str, function: Callable) -> Callable:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

        return run

    for (owner, name), function in zip(steps, plain, strict=True):
        setattr(owner, name, recorded(name, function))
    try:
        yield
    finally:
        for (owner, name), function in zip(steps, plain, strict=True):
            setattr(owner, name, function)


# -------------------------------------------------------------------------------------------------------------- report


MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "size": lambda n: size(int(n)),
    "published": published,
    "features": features,
    "processes": lambda n: processes(int(n)),
    "embryo": embryo,
    "million": lambda n: million(int(n)),
    "small_section": small_section,
    "inputs": lambda n, folder: inputs(int(n), folder),
}


def measured(name: str, *args: object, threads: int | None = None) -> dict[str, float]:
    """Run a measurement in a separate process, and another with the other build, and print the results."""
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    found = _in_process(name, args, environment)
    label = f"{name} {' '.join(map(str, args))}"
    print(f"{label}: ", "  ".join(f"{k} {v:.4g}" for k, v in found.items()), flush=True)
    if OTHER_BUILD:
        other = _in_process(name, args, {**environment, "PYTHONPATH": str(OTHER_BUILD[0])})
        ratios = {key: value / other[key] for key, value in found.items() if other.get(key)}
        print(f"{label}, ratios: ", "  ".join(f"{k} {v:.3g}" for k, v in ratios.items()), flush=True)
        found |= {f"{key}_ratio": value for key, value in ratios.items()}
    return found


OTHER_BUILD: list[Path] = []
"""Repository of the build to measure against, if there is one."""


def _in_process(name: str, args: Sequence[object], environment: Mapping[str, str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", name, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def slope(rows: list[dict[str, float]], name: str) -> float:
    """Log-log slope against the number of subspots."""
    return float(np.polyfit(np.log([row["subspots"] for row in rows]), np.log([row[name] for row in rows]), 1)[0])


def sizes(args: argparse.Namespace) -> Any:
    chosen = [*args.sizes, *([10_000_000] if args.large else [])]
    rows = [measured("size", n) for n in chosen]
    slopes = {name: slope(rows, name) for name in ("epoch_s", "write_s", "peak_gb")} if len(rows) > 1 else {}
    print("slopes:", slopes)
    return {"rows": rows, "slopes": slopes}


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "published": lambda args: {which: measured("published", which) for which in PUBLISHED},
    "features": lambda args: measured("features"),
    "processes": lambda args: [measured("processes", n, threads=1) for n in (1, 2)],
    "embryo": lambda args: measured("embryo"),
    "sizes": sizes,
    "million": lambda args: measured("million", 1_000_000),
}


def plot(rows: list[dict[str, float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    n = [row["subspots"] for row in rows]
    for name, label in (("epoch_s", "training epoch"), ("write_s", "streamed prediction")):
        axes[0].loglog(n, [row[name] for row in rows], "o-", label=f"{label} (slope {slope(rows, name):.2f})")
    axes[0].set(xlabel="subspots", ylabel="seconds")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].semilogx(n, [row["peak_gb"] for row in rows], "o-", color="C2")
    axes[1].set(xlabel="subspots", ylabel="peak memory (GB)", ylim=(0, None))
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="subspots")
    parser.add_argument("--large", action="store_true", help="include 10^7 subspots")
    parser.add_argument("--against", type=Path, help="repository of another build")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    parser.add_argument("--plot", type=Path, help="image file for the plot of the part `sizes`")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        warnings.filterwarnings("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        start = time.process_time()
        found = MEASURES[args.one[0]](*args.one[1:])
        print(json.dumps({**found, "cpu_s": time.process_time() - start}))
        return
    OTHER_BUILD.extend([] if args.against is None else [args.against])
    results = {}
    for part in args.parts:
        results[part] = PARTS[part](args)
        if args.json is not None:
            args.json.write_text(json.dumps(results, indent=1))
    if args.plot is not None and "sizes" in results:
        plot(results["sizes"]["rows"], args.plot)


if __name__ == "__main__":
    main()
