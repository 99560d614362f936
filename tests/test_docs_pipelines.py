"""What the page of pipelines shows runs as it stands, with a few training steps."""

import re
import shlex
import tomllib
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import tifffile
from click.testing import CliRunner
from spatialdata.models import Image2DModel, ShapesModel, TableModel

from helpers import few_steps
from soscope_scverse import SoScope, datasets
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "pipelines.md").read_text()

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def run(command):
    """Run a shell command of this package in this process."""
    words = [word for word in shlex.split(command.replace("\\\n", " ")) if not word.startswith("OMP_NUM_THREADS=")]
    assert words[0] == "soscope-scverse"
    if "2>" in words:
        words = words[: words.index("2>")]
    result = CliRunner().invoke(main, words[1:])
    assert result.exit_code == 0, (command, result.output, result.exception)


def spatialdata_of(section):
    """A SpatialData with the names that the page has."""
    table = section.adata.copy()
    table.obs["region"] = pd.Categorical(["spots"] * table.n_obs)
    table.obs["spot_id"] = np.arange(table.n_obs)
    circles = ShapesModel.parse(table.obsm["spatial"], geometry=0, radius=10, index=table.obs["spot_id"].copy())
    image = Image2DModel.parse(np.moveaxis(section.image, 2, 0), dims=("c", "y", "x"))
    return sd.SpatialData(
        images={"visium_full_image": image},
        shapes={"spots": circles},
        tables={"table": TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")},
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files that the page names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SoScope, "train", few_steps(SoScope.train))
    made = datasets.synthetic_section(60, n_genes=8)
    adata = made.adata
    prot = adata[:, :3].copy()
    prot.var_names = ["CD4", "CD8", "CD19"]
    adata.write_h5ad("spots.h5ad")
    with columns_apart():
        md.MuData({"rna": adata.copy(), "prot": prot}).write_h5mu("spots.h5mu")
    spatialdata_of(made).write("section.zarr")
    tifffile.imwrite("section.tif", made.image)
    Path("genes.txt").write_text("\n".join(adata.var_names[:4]))
    Path("soscope.toml").write_text(blocks("toml")[0].replace("200", "2"))
    return tmp_path


def test_the_command_lines(folder):
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 8
    for line in lines:
        run(line)
    assert tomllib.loads(blocks("toml")[0])["n-samples"] == 30
    configured = ad.read_h5ad("configured.h5ad")
    assert configured.n_vars == 4
    assert {"std", "q05", "q95"} <= set(configured.layers)
    assert configured.uns["soscope"]["arguments"].count('"n_samples": 10')


def test_the_rule_of_snakemake(folder):
    [rule] = [block for block in blocks("python") if "rule enhance" in block]
    shell = "".join(re.findall(r'^\s+"(.*)"$', rule.partition("shell:")[2], flags=re.MULTILINE))
    named = dict(re.findall(r'(\w+)=(?:report\()?"([^"]+)"', rule))

    class Names:
        def __init__(self):
            self.__dict__.update({name: path.format(section="a") for name, path in named.items()})

    for sub in ("spots", "images", "subspots", "reports"):
        (folder / sub).mkdir()
    (folder / "spots.h5ad").rename("spots/a.h5ad")
    (folder / "section.tif").rename("images/a.tif")
    run(shell.format(input=Names(), output=Names(), threads=1, log="a.log"))
    assert ad.read_h5ad("subspots/a.h5ad").n_obs == 420
    assert "<!DOCTYPE html>" in (folder / "reports" / "a.html").read_text()


def test_the_process_of_nextflow(folder):
    [process] = blocks("groovy")
    script = re.search(r'"""\n(.*?)"""', process, flags=re.DOTALL)[1].replace("\\\\", "\\")
    values = {"spots": "spots.h5ad", "image": "section.tif", "config": "soscope.toml", "section": "a", "task.cpus": "1"}
    run(re.sub(r"\$\{([\w.]+)\}", lambda name: values[name[1]], script).strip())
    assert ad.read_h5ad("a.subspots.h5ad").n_obs == 420
    assert (folder / "a.html").exists()


def test_the_chain_of_scanpy(folder):
    [chain] = [block for block in blocks("python") if "import scanpy" in block]
    names: dict = {}
    exec(compile(chain, "docs/pipelines.md", "exec"), names)
    enhanced = names["enhanced"]
    assert {"domain", "spot"} <= set(enhanced.obs)
    assert {"rank_genes_groups", "moranI", "soscope"} <= set(enhanced.uns)
    counts = enhanced.layers["sampled_counts"]
    np.testing.assert_array_equal(counts, np.round(counts))
    assert (folder / "report.html").exists()
