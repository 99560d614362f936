#!/usr/bin/env bash
# Two flips and a half turn of torchvision give the same image, but move a keypoint to different pixels.
#
# Versions:
#   torchvision 0.29.1, torch 2.14.1, numpy 2.4.6
# Guess:
#   A keypoint at column 2 of row 1 follows the pixel there (spots of a section, during augmentation), or the corner of
#   the pixel, but in the same way in all transforms. Two flips are a half turn.
# Behaviour:
#   Flips take integers as centres of pixels (x becomes width - 1 - x), rotations as corners (width - x). After a half
#   turn, or a quarter turn with the image, the keypoint is one pixel beside its pixel. Bounding boxes follow the
#   image in all cases.
# Output (2026-12-01):
#   two flips     pixel [5, 4], keypoint [5, 4], corner of the box [5, 4]
#   half turn     pixel [5, 4], keypoint [6, 5], corner of the box [5, 4]
#   quarter turn  pixel [1, 5], keypoint [1, 6], corner of the box [1, 5]
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    torchvision==0.29.1 torch==2.14.1 numpy==2.4.6
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    torchvision torch numpy
venv/bin/python -W ignore - <<'PY'
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

height, width = 6, 8
pixels = torch.zeros(1, height, width)
pixels[0, 1, 2] = 1  # row 1, column 2
image = tv_tensors.Image(pixels)
point = tv_tensors.KeyPoints(torch.tensor([[2.0, 1.0]]), canvas_size=(height, width))
pixel_box = tv_tensors.BoundingBoxes(torch.tensor([[2.0, 1.0, 3.0, 2.0]]), format="XYXY", canvas_size=(height, width))
transforms = {
    "two flips": lambda x: F.vertical_flip(F.horizontal_flip(x)),
    "half turn": lambda x: F.rotate(x, 180),
    "quarter turn": lambda x: F.rotate(x, 90, expand=True),
}
seen = {}
for name, transform in transforms.items():
    row, column = transform(image)[0].nonzero()[0].tolist()
    seen[name] = ([column, row], transform(point)[0].round().int().tolist())
    corner = transform(pixel_box)[0, :2].round().int().tolist()
    print(f"{name:13} pixel {seen[name][0]}, keypoint {seen[name][1]}, corner of the box {corner}")
    assert corner == [column, row]
assert torch.equal(transforms["two flips"](image), transforms["half turn"](image))
assert seen == {
    "two flips": ([5, 4], [5, 4]),
    "half turn": ([5, 4], [6, 5]),
    "quarter turn": ([1, 5], [1, 6]),
}, seen
PY
