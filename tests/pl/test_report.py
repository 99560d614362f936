"""The page about a run: what is on it, what it keeps out, and that a browser shows it."""

import base64
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from io import BytesIO

import anndata as ad
import mudata as md
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from maps import result as subspots_of
from soscope_scverse import datasets, metrics, pl, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse.pl._believed import _expected_within_r
from soscope_scverse.pl._run import Part

QUICK = {"max_epochs": 2, "accelerator": "cpu", "train_kwargs": {"enable_progress_bar": False}}
EVIL = "<script>alert(1)</script>"
DOLLARS = "$\\frac{1$"

pytestmark = [
    pytest.mark.usefixtures("closed_figures"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The image has practically no effect"),
]


@pytest.fixture(scope="module")
def spots():
    made = datasets.synthetic_section(40, n_genes=6)
    made.adata.var_names = [EVIL, DOLLARS, *made.adata.var_names[2:]]
    return made


@pytest.fixture(scope="module")
def enhanced(spots):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tl.enhance(spots.adata, image=spots.image, n_samples=4, **QUICK)


class Page(HTMLParser):
    """Texts, tags and attributes of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)

    def all(self, tag):
        return [attributes for name, attributes in zip(self.tags, self.attributes, strict=True) if name == tag]


@pytest.fixture(scope="module")
def path(spots, enhanced, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    pit = metrics.pit(np.zeros((9, 2)), np.ones((5, 9, 2)))
    pl.report(enhanced, spots.adata, path, genes=[EVIL, DOLLARS], pit=pit)
    return path


def test_what_is_on_the_page(path):
    page = Page(path)
    headings = ["Warnings", "Maps", "Training", "Alignment", "Uncertainty", "Calibration", "Data"]
    for heading in [*headings, "Reproducibility"]:
        assert heading in page.texts
    # denoised and conditional maps and uncertainty of two genes, training, alignment, calibration
    images = page.all("img")
    assert len(images) == 2 * 2 + 2 + 3
    for attributes in images:
        assert attributes["alt"].endswith(".")
        png = Image.open(BytesIO(base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))))
        assert png.size == (int(attributes["width"]), int(attributes["height"]))
        assert np.asarray(png.convert("L")).std() > 5
    for said in ("40", "280", "sos.tl.enhance(", "n_samples=4", "seed=0", "scvi-tools", "texture", "hex"):
        assert said in page.text


def test_it_needs_nothing_else(path):
    page = Page(path)
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    for attributes in page.attributes:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_links_lead_to_parts_of_the_page(path):
    page = Page(path)
    names = [attributes.get("id") for attributes in page.attributes if "id" in attributes]
    assert len(set(names)) == len(names)
    links = [attributes["href"].removeprefix("#") for attributes in page.all("a")]
    assert len(links) >= 7
    assert set(links) <= set(names)
    assert page.all("html") == [{"lang": "en"}]
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))


def test_texts_from_the_data_stay_texts(spots, enhanced, tmp_path):
    evil = enhanced.copy()
    evil.uns["soscope"]["warnings"] = np.array([f"{EVIL} & 'more'"])
    evil.uns["soscope"]["encoder"]["encoder"] = EVIL
    evil.uns["soscope"]["arguments"] = evil.uns["soscope"]["arguments"].replace("texture", EVIL)
    evil.uns["soscope"]["versions"] = {EVIL: EVIL}
    pl.report(evil, spots.adata, tmp_path / "report.html", genes=[EVIL])
    page = Page(tmp_path / "report.html")
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 6
    assert any(EVIL in attributes.get("alt", "") for attributes in page.attributes)
    assert f"{EVIL} & 'more'" in page.texts


def test_the_most_spatial_genes_by_default(spots, enhanced, tmp_path):
    pl.report(enhanced, spots.adata, tmp_path / "report.html", n_genes=1)
    page = Page(tmp_path / "report.html")
    assert len(page.all("img")) == 2 * 1 + 1 + 2


def test_the_truth_where_it_is_known(spots, enhanced, tmp_path):
    truth = spots.truth.copy()
    truth.var_names = enhanced.var_names
    pl.report(enhanced, spots.adata, tmp_path / "report.html", n_genes=1, truth=truth)
    alternatives = [attributes["alt"] for attributes in Page(tmp_path / "report.html").all("img")]
    assert sum(text.endswith(", truth.") for text in alternatives) == 2  # denoised, and conditional at a click


def test_maps_are_denoised_and_conditional_ones_are_a_click_away(spots, enhanced, path, tmp_path):
    page = Page(path)
    assert page.texts.count("Conditional profiles (X)") == 2
    assert page.tags.count("details") == page.tags.count("summary")
    assert "They are denoised" in page.text
    shown = [attributes["src"] for attributes in page.all("img")[:2]]
    assert shown[0] != shown[1]
    alone = enhanced.copy()
    del alone.layers["denoised"]
    pl.report(alone, spots.adata, tmp_path / "report.html", genes=[EVIL])
    page = Page(tmp_path / "report.html")
    assert "profiles (X)" not in page.text
    assert "denoised" not in page.text.replace("'denoised'", "")  # named in the call alone
    assert len(page.all("img")) == 1 + 1 + 2


def test_what_a_run_warned_of(spots, tmp_path):
    adata = spots.adata.copy()
    adata.X = adata.X.toarray()
    adata.X[3] = 0
    with pytest.warns(UserWarning, match="no counts") as shown:
        result = tl.enhance(adata, **QUICK)
    said = [str(warning.message) for warning in shown if warning.category is UserWarning]
    recorded = list(result.uns["soscope"]["warnings"])
    assert [message for message in said if "no counts" in message or "No image" in message] == recorded
    assert len(recorded) == 2
    result.write_h5ad(tmp_path / "result.h5ad")
    pl.report(ad.read_h5ad(tmp_path / "result.h5ad"), adata, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    for message in recorded:
        assert message in page.texts
    assert "The result contains no image of the tissue." in page.texts
    assert "The result has no posterior samples." in page.text
    # a run that warns of nothing the second time is told so
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match="no counts"):
            tl.enhance(adata, **QUICK)


def validated(adata, believed):
    """Spots with the scores of a validation."""
    adata, n = adata.copy(), adata.n_vars
    scores = {
        "within_r": np.linspace(0.9, 0.1, n),
        "linear_within_r": np.full(n, 0.2),
        "expected_within_r": np.linspace(0.8, 0.0, n),
        "p_adjusted": np.linspace(0, 0.9, n),
        "image_gain": np.full(n, np.nan),
        "believed": np.arange(n) < believed,
    }
    for name, values in scores.items():
        adata.var[f"validation_{name}"] = values
    adata.uns["validation"] = {"n_genes": n}
    return adata


@pytest.mark.parametrize("believed", [0, 2])
def test_the_verdict_comes_first(spots, enhanced, tmp_path, believed):
    pl.report(enhanced, validated(spots.adata, believed), tmp_path / "report.html", genes=[EVIL])
    page = Page(tmp_path / "report.html")
    titles = page.all("section")
    assert titles[0]["id"] == "verdict"
    assert f"At this resolution {believed} of 6 genes may be believed." in page.texts
    assert ("Believed, best first:" in page.text) == (believed > 0)
    assert "Expected one level finer" in page.text
    assert "Coverage" not in page.text  # no such score
    assert len(page.all("img")) == 1 + 2 + 1 + 2
    assert "script" not in page.tags


def test_genes_that_were_not_validated_are_counted(spots, enhanced, tmp_path):
    adata = validated(spots.adata, 1)
    adata.var.loc[adata.var_names[-2:], "validation_p_adjusted"] = np.nan
    pl.report(enhanced, adata, tmp_path / "report.html", genes=[adata.var_names[-1]])
    page = Page(tmp_path / "report.html")
    assert "At this resolution 1 of 4 genes may be believed." in page.texts
    assert "2 of the 6 genes of the result were not validated." in page.texts


def test_without_a_validation_the_intervals_are_all_there_is(spots, enhanced, path, tmp_path):
    text = Page(path).text
    assert "the spots were not validated" in text
    assert "sos.tl.validate(adata, image)" in text
    assert "within_r implied by the intervals" in text
    bare = enhanced.copy()
    for layer in ("std", "q05", "q95"):
        del bare.layers[layer]
    pl.report(bare, spots.adata, tmp_path / "report.html", n_genes=1)
    text = Page(tmp_path / "report.html").text
    assert "sos.tl.validate(adata, image)" in text
    assert "implied by the intervals" not in text


def test_within_r_that_intervals_imply(spots, enhanced):
    """For a posterior of independent subspots it is the correlation of expectation and truth."""
    part = Part("", spots.adata, enhanced.copy(), 6, "sum")
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=part.subspots.shape)
    part.subspots.X = 10 + pattern
    part.subspots.layers["std"] = np.broadcast_to(np.linspace(0.2, 3, 6), pattern.shape)
    truth = part.subspots.X + part.subspots.layers["std"] * rng.normal(size=pattern.shape)
    found = _expected_within_r(part)
    np.testing.assert_allclose(found, metrics.within_r(part.subspots.X, truth, enhanced.obs["spot"]), atol=0.15)
    part.subspots.X = np.ones(pattern.shape)
    part.subspots.layers["std"] = np.zeros(pattern.shape)
    assert _expected_within_r(part).isna().all()


def test_only_what_was_given_is_in_the_call(path):
    call = next(text for text in Page(path).texts if text.startswith("sos.tl.enhance("))
    given = [line.strip() for line in call.splitlines()]
    assert given[:2] == ["sos.tl.enhance(", "adata,"]
    assert sorted(given[2:-1]) == sorted(
        [
            "n_samples=4,",
            "max_epochs=2,",
            "accelerator='cpu',",
            "train_kwargs={'enable_progress_bar': False},",
            f"image=...,  # {call.partition('# ')[2].partition(chr(10))[0]}",
            "seed=0,",
        ]
    )
    assert "ndarray of shape" in call


def test_time_and_memory(path, enhanced):
    page = Page(path)
    assert "Time" in page.texts
    assert "Peak memory" in page.texts
    record = enhanced.uns["soscope"]
    assert set(record["seconds"]) == {"preparation", "training"}
    assert all(value > 0 for value in record["seconds"].values())
    assert 0.05 < record["peak_memory_gb"] < 200


@pytest.mark.parametrize("strength", [1.0, 0.6, 0.02])
def test_use_of_the_image(spots, enhanced, tmp_path, strength):
    enhanced = enhanced.copy()
    enhanced.uns["soscope"]["image_strength"] = strength
    pl.report(enhanced, spots.adata, tmp_path / "report.html", n_genes=1)
    page = Page(tmp_path / "report.html")
    assert f"strength {strength:.2f}" in page.texts
    assert ("practically no effect" in page.text) == (strength < 0.05)


def test_several_encoders(spots, enhanced, tmp_path):
    several, parts = enhanced.copy(), {"0": {"encoder": "texture"}, "1": {"encoder": "mine", "mean": np.full(3, 0.5)}}
    several.uns["soscope"]["encoder"] = {"encoder": np.array(["texture", "mine"]), "parts": parts}
    pl.report(several, spots.adata, tmp_path / "report.html", genes=[EVIL])
    texts = Page(tmp_path / "report.html").texts
    assert texts[texts.index("parts 1 mean") + 1] == "0.5, 0.5, 0.5"


def test_a_result_without_a_record(spots, enhanced, tmp_path):
    bare = enhanced.copy()
    del bare.uns["soscope"]
    pl.report(bare, spots.adata, tmp_path / "report.html", n_genes=1)
    text = Page(tmp_path / "report.html").text
    assert "No training was recorded." in text
    assert "Warnings were not recorded." in text


@pytest.mark.parametrize(
    ("lattice", "shape", "said"),
    [("hex", "circle", "circle, diameter 20 pixels"), ("square", "square", "square, side 20 pixels")],
)
def test_what_the_spots_captured(lattice, shape, said, tmp_path):
    adata = datasets.synthetic_section(30, lattice=lattice, n_genes=4).adata
    for capture in (20.0, None):
        enhanced = subspots_of(adata, capture=capture, capture_shape=shape)
        pl.report(enhanced, adata, tmp_path / "report.html", n_genes=1)
        lines = [text for text in Page(tmp_path / "report.html").texts if "Capture area" in text]
        assert len(lines) == (capture is not None)
        if lines:
            assert said in lines[0]
            assert f"{100 * enhanced.obs['measured'].mean():.0f} % of the tissue" in lines[0]


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_files_give_the_same_page(spots, enhanced, path, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        streamed = tl.enhance(spots.adata, image=spots.image, n_samples=4, out=out, **QUICK)
    spots.adata.write_h5ad(tmp_path / "spots.h5ad")
    for result in (streamed, enhanced):
        adata = ad.read_h5ad(tmp_path / "spots.h5ad", backed="r") if result is streamed else spots.adata
        pl.report(result, adata, tmp_path / f"{result is streamed}.html", genes=[EVIL])
    pages = [Page(tmp_path / f"{name}.html") for name in (True, False)]
    assert pages[0].all("img") == pages[1].all("img")


def test_several_sections(tmp_path):
    parts = {name: datasets.synthetic_section(30, n_genes=4, seed=i) for i, name in enumerate("ab")}
    adata = ad.concat({name: part.adata for name, part in parts.items()}, label="section", index_unique="_")
    images = {name: part.image for name, part in parts.items()}
    result = tl.enhance(adata, image=images, library_key="section", **QUICK)
    pl.report(result, adata, tmp_path / "report.html", n_genes=2)
    page = Page(tmp_path / "report.html")
    assert len(page.all("img")) == 2 * 2 * 2 + 2
    assert page.text.count("as given") == 2


@pytest.mark.filterwarnings("ignore:No image given")
def test_modalities(spots, tmp_path):
    prot = spots.adata[:, 2:4].copy()
    prot.var_names = ["CD4", "CD8"]
    with columns_apart():
        mdata = md.MuData({"rna": spots.adata.copy(), "prot": prot})
    result = tl.enhance(mdata, likelihood={"rna": "nb", "prot": "poisson"}, **QUICK)
    pl.report(result, mdata, tmp_path / "report.html", genes={"prot": ["CD8"]}, n_genes=2)
    page = Page(tmp_path / "report.html")
    assert "CD8" in page.texts
    assert "CD4" not in page.texts
    assert len(page.all("img")) == 2 * (1 + 2) + 1
    with pytest.raises(TypeError, match="two AnnData or two MuData"):
        pl.report(result, spots.adata, tmp_path / "other.html")
    with pytest.raises(ValueError, match="nonsense"):
        pl.report(result, mdata, tmp_path / "other.html", genes={"prot": ["nonsense"]})


def test_faults_leave_what_was_there(spots, enhanced, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("before")
    with pytest.raises(ValueError, match="nonsense"):
        pl.report(enhanced, spots.adata, path, genes=["nonsense"])
    with pytest.raises(ValueError, match="to end in"):
        pl.report(enhanced, spots.adata, tmp_path / "report.pdf")
    with pytest.raises(ValueError, match="folder that exists"):
        pl.report(enhanced, spots.adata, tmp_path / "nowhere" / "report.html")
    with pytest.raises(TypeError, match="Expected an AnnData, found str"):
        pl.report("enhanced.h5ad", "spots.h5ad", path)
    with pytest.raises(ValueError, match="are not"):
        pl.report(enhanced, spots.adata[:9].copy(), path)
    with pytest.raises(ValueError, match="Expected a result"):
        pl.report(spots.adata, spots.adata, path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert plt.get_fignums() == []


def test_figures_of_the_user_are_left_alone(spots, enhanced, tmp_path):
    figure = plt.figure()
    pl.report(enhanced, spots.adata, tmp_path / "report.html", n_genes=1)
    assert plt.get_fignums() == [figure.number]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(page, folder):
    """The page as a browser leaves it, and what it wrote to the console."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    done = subprocess.run(
        [str(CHROMIUM), *options, f"--user-data-dir={folder}", "--enable-logging=stderr", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_a_browser_shows_all_images(path, tmp_path):
    _, console = browse(path, tmp_path / "profile")
    assert console == []

    # the same page, which lets a script measure the images
    probe = """<script>addEventListener("load", () => {
      const shown = image => image.complete ? image.naturalWidth : 0;
      document.body.dataset.widths = [...document.images].map(shown).join(" ");
      document.body.dataset.scripts = document.scripts.length;
      document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
      console.error("measured");
    });</script></body>"""
    source = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", path.read_text())
    (tmp_path / "probed.html").write_text(source.replace("</body>", probe))
    shown, console = browse(tmp_path / "probed.html", tmp_path / "profile")
    assert len(console) == 1  # so that messages are seen at all
    widths = [int(width) for width in re.search(r'data-widths="([\d ]*)"', shown)[1].split()]
    assert widths == [int(attributes["width"]) for attributes in Page(path).all("img")]
    assert len(widths) == 9
    assert 'data-scripts="1"' in shown  # that one alone
    assert int(re.search(r'data-overflow="(-?\d+)"', shown)[1]) <= 0  # nothing to scroll sideways
