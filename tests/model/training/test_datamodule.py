"""Which spots make a step, and which process takes them."""

import numpy as np
import pytest

from grids import section_tiles
from soscope_scverse.model._tiles import Tiles
from soscope_scverse.model.training.datamodule import TileDataModule


@pytest.fixture
def tiles():
    return section_tiles()


def started(tiles, *args, **kwargs):
    data = TileDataModule(tiles, *args, **kwargs)
    data.setup("fit")
    return data


def test_borders_move_from_epoch_to_epoch(tiles):
    data = started(tiles, 50, seed=0)
    assert data.n_tiles == 4
    a, b = ([set(map(float, batch["x"][batch["own"]].sum(1))) for batch in data.epoch(i)] for i in range(2))
    assert len(a) == len(b) == 4
    assert a != b
    c, d = (
        {i: [len(batch["x"]) for batch in data.epoch(i)] for i in order}
        for data, order in ((started(tiles, 50, seed=0), (0, 1)), (started(tiles, 50, seed=0), (1, 0)))
    )
    assert c == d


def test_a_long_pass_takes_several_epochs(tiles):
    data = started(tiles, 14, seed=0, step_spots=14)
    assert (data.n_steps, data.n_epochs) == (14, 2)
    for turn in (0, 2):
        parts = [[batch["x"][batch["own"]] for batch in data.epoch(turn + i)] for i in range(2)]
        assert [len(part) for part in parts] == [10, len(parts[1])]
        assert 196 == sum(len(x) for part in parts for x in part)


def test_small_sections_share_a_tile(tiles):
    section = tiles.section._replace(sections=np.repeat(np.arange(14), 14))
    shared = Tiles(section, interpolation="none", bandwidth=0.5)
    assert TileDataModule(shared, 45, seed=0).n_tiles == 5


@pytest.mark.parametrize(("batch_size", "n_processes"), [(2048, 1), (50, 1), (100, 2), (50, 2), (2048, 3), (7, 3)])
def test_a_step_takes_the_same_spots_whatever_fits_into_memory(tiles, batch_size, n_processes):
    data = TileDataModule(tiles, batch_size, seed=0, n_processes=n_processes)
    assert data.n_steps == 1
    assert data.tile_spots <= batch_size
    assert data.n_tiles <= data.n_accumulated * n_processes < data.n_tiles + n_processes


def test_large_sections_take_several_steps(tiles):
    assert TileDataModule(tiles, 2048, seed=0, step_spots=60).n_steps == 1
    whole, small, two = (
        TileDataModule(tiles, 60, seed=0, step_spots=60),
        TileDataModule(tiles, 20, seed=0, step_spots=60),
        TileDataModule(tiles, 60, seed=0, n_processes=2, step_spots=60),
    )
    assert whole.n_steps == small.n_steps == two.n_steps == 4
    assert (whole.n_accumulated, small.n_accumulated, two.n_accumulated) == (1, 3, 1)
    assert (whole.n_tiles, small.n_tiles, two.n_tiles) == (4, 12, 8)
