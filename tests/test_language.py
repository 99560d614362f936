"""The words of the field: those that the glossary replaced do not come back to what a user reads."""

import io
import json
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPLACED = {  # words, and what to say
    r"\w*pictur\w*": "image",
    r"tells|told": "is informative about, identifies, shows, reports",
    r"whole numbers?": "integer",
    r"as of (?=[`:])": "see",
    r"left out|leave out|leaves out": "excluded, ignored, omitted",
    r"hidden spots?|hidden from|(?:is|are|of the) hidden": "masked",
    r"depths? of (?:a|the|its|every|each) (?:sub)?spots?": "library size",
    r"draws of|of draws|the draws|a draw": "posterior samples",
    r"divisions?": "partition",
}


def texts() -> dict[str, str]:
    """Docstrings, messages and names in the code, without comments; pages, notebooks, README and changelog."""
    found = {}
    for path in [*ROOT.glob("soscope_scverse/**/*.py"), *ROOT.glob("soscope_scverse/**/*.pyi")]:
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        found[path] = " ".join(token.string for token in tokens if token.type != tokenize.COMMENT)
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        found[path] = path.read_text()
    for path in ROOT.glob("tutorials/*.ipynb"):
        found[path] = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    rows_of_new_names = re.compile(r"^\|.*\|$", flags=re.MULTILINE)
    found[ROOT / "CHANGELOG.md"] = rows_of_new_names.sub("", (ROOT / "CHANGELOG.md").read_text())
    return {str(path.relative_to(ROOT)): " ".join(text.split()) for path, text in found.items()}


def test_words_that_were_replaced_do_not_come_back():
    count = [
        f"{file}: {len(hits)} times {hits[0]!r}, say {instead!r}"
        for file, text in texts().items()
        for words, instead in REPLACED.items()
        if (hits := re.findall(rf"\b(?:{words})", text, flags=re.IGNORECASE))
    ]
    assert "\n".join(count) == ""
