"""Fail unless a folder holds one wheel and one sdist, with the code and its papers and nothing else."""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

CODE = re.compile(r"soscope_scverse/([\w/]+\.(py|pyi|html|css|js)|py\.typed)")
PAPERS = re.compile(r"(README|CHANGELOG)\.md|LICENSE|CITATION\.cff|pyproject\.toml|PKG-INFO|\.gitignore")
METADATA = re.compile(r"soscope_scverse-[^/]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)")

folder = Path(sys.argv[1])
(wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
in_wheel = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
in_sdist = [member.name.partition("/")[2] for member in tarfile.open(sdist) if member.isfile()]
strange = [name for name in in_wheel if not CODE.fullmatch(name) and not METADATA.fullmatch(name)]
strange += [name for name in in_sdist if not CODE.fullmatch(name) and not PAPERS.fullmatch(name)]
if strange:
    sys.exit(f"Expected the code, README, changelog and licence only, found {strange}.")
if {name for name in in_wheel if CODE.fullmatch(name)} != {name for name in in_sdist if CODE.fullmatch(name)}:
    sys.exit("Expected the same code in wheel and sdist.")
