"""What the decoders make of latent state and image."""

import pytest
import torch

from soscope_scverse.module.subspot_decoder import DECODERS


def test_the_image_starts_without_effect_in_the_shift_decoder():
    z, y = torch.randn(7, 4), torch.randn(7, 2)
    shift, joint = DECODERS["shift"](4, 2, 3).eval(), DECODERS["joint"](4, 2, 3).eval()
    assert torch.equal(shift(z, y), shift(z, None))
    assert not torch.equal(joint(z, y), joint(z, None))


@pytest.mark.parametrize("decoder", ["shift", "joint"])
def test_no_image_is_a_image_that_is_the_same_everywhere(decoder):
    decoder = DECODERS[decoder](4, 2, 3).eval()
    z = torch.randn(7, 4)
    assert torch.equal(decoder(z, None), decoder(z, torch.zeros(7, 2)))


def test_the_image_moves_the_latent_state():
    decoder = DECODERS["shift"](4, 2, 3).eval()
    torch.nn.init.normal_(decoder.shift)
    z, y = torch.randn(7, 4), torch.randn(7, 2)
    torch.testing.assert_close(decoder(z, y), decoder(z + y @ decoder.shift.T, None))
