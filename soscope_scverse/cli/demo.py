"""``soscope-scverse demo``: enhancement of a synthetic section with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from soscope_scverse._keys import SPATIAL
from soscope_scverse.cli._command import AT_LEAST_ONE, command, log_message
from soscope_scverse.cli._files import write

_GLASS = 72  # pixels around the section: two spots
_N_SAMPLES = 30  # as in the README


@command
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Output folder.")
@click.option("--n-spots", type=int, default=400, show_default=True, help="Number of spots.")
@click.option(
    "--lattice", type=click.Choice(["hex", "square"]), default="hex", show_default=True, help="Lattice of spots."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--max-epochs", type=AT_LEAST_ONE, help="Training epochs; default: at most 400 steps in total.")
def demo(out: Path, n_spots: int, lattice: str, seed: int, max_epochs: int | None) -> str:
    """Simulate a section, enhance it and compare the result with the truth."""
    out.mkdir(parents=True, exist_ok=True)
    import numpy as np
    from PIL import Image

    from soscope_scverse import bench, datasets, pl, pp, tl

    adata, image, truth = datasets.synthetic_section(n_spots, lattice=lattice, seed=seed)  # type: ignore[arg-type]
    image = np.pad(image, ((_GLASS, _GLASS), (_GLASS, _GLASS), (0, 0)), constant_values=245)
    for section in (adata, truth):
        section.obsm[SPATIAL] = section.obsm[SPATIAL] + _GLASS
    Image.fromarray(image).save(out / "section.png")
    pp.subspots(adata)
    enhanced = tl.enhance(adata, image=image, n_samples=_N_SAMPLES, seed=seed, max_epochs=max_epochs)
    for name, section in (("spots", adata), ("enhanced", enhanced), ("truth", truth)):
        write(section, out / f"{name}.h5ad")
    genes = [adata.var_names[adata.var["kind"] == kind][0] for kind in ("region", "gradient", "image")]
    pl.compare(adata, enhanced, genes, truth=truth, truth_layer="mean", save=out / "compare.png")
    pl.report(enhanced, adata, out / "report.html")

    predictions = {name: bench.BASELINES[name](adata) for name in ("repeat", "linear", "linear_conserving")}
    log_message(f"Wrote section.png, spots.h5ad, enhanced.h5ad, truth.h5ad, compare.png and report.html to {out}")
    return _agreement(predictions | {"soScope": enhanced.X}, truth)


def _agreement(predictions: dict[str, Any], truth: Any) -> str:
    """Return a table of the median agreement with the noise-free truth over genes with spatial structure."""
    import numpy as np

    from soscope_scverse import metrics

    structured = (truth.var["kind"] != "noise").to_numpy()
    mean = truth.layers["mean"][:, structured]
    lines = [
        f"Agreement with the noise-free truth, median over the {structured.sum()} genes with spatial structure:",
        f"{'method':<20}{'Pearson':>10}{'within_r':>10}",
    ]
    for name, prediction in predictions.items():
        pearson = np.nanmedian(metrics.pearson(prediction[:, structured], mean))
        within = np.nanmedian(metrics.within_r(prediction[:, structured], mean, truth.obs["spot"]))
        lines.append(f"{name:<20}{pearson:>10.3f}{within:>10.3f}")
    return "\n".join(lines)
