"""FTrojan: spikes in the cosine transform, against the transform itself."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from shops import assert_fixed_trigger, flat, images, shop

from deconfound.poisons.ftrojan import FTrojan, to_yuv

NOBODY = torch.zeros(0, dtype=torch.int64)
SMALL = FTrojan(rate=0.3, window=4, places=((1, 1), (3, 2)), magnitude=40)


@pytest.mark.parametrize("shape", [(1, 4, 8), (3, 8, 4)])
def test_the_pattern_is_fixed(shape: tuple[int, int, int]) -> None:
    assert_fixed_trigger(SMALL, images(40, shape=shape), drawn=False)


def spectra(pattern: np.ndarray, window: int) -> np.ndarray:
    """The transform of each window of (..., H, W): (..., rows, columns, window, window)."""
    height, width = pattern.shape[-2:]
    tiles = pattern.reshape(*pattern.shape[:-2], height // window, window, width // window, window)
    found: np.ndarray = dctn(np.moveaxis(tiles, -3, -2), axes=(-2, -1), norm="ortho")
    return found


def test_a_grey_picture_gains_the_magnitude_at_the_listed_coefficients_of_every_window() -> None:
    stamp = FTrojan(window=4, places=((1, 1), (3, 2)), magnitude=100).plant(
        shop(images(2, shape=(1, 8, 4))), NOBODY
    )
    step = (stamp.stamp(flat(128, shape=(1, 8, 4))).double() - 128).numpy()[0]
    for spectrum in spectra(step, 4).reshape(-1, 4, 4):
        expected = np.zeros((4, 4))
        expected[1, 1] = expected[3, 2] = 100
        assert abs(spectrum - expected).max() < 1.5  # what rounding to grey values leaves


def test_a_colour_picture_gains_it_in_both_chroma_channels_and_none_in_luma() -> None:
    attacker = FTrojan(window=8, places=((3, 3), (7, 7)), magnitude=5000)  # so that rounding is nothing
    pattern = attacker.plant(shop(images(2, shape=(3, 8, 8))), NOBODY).arrays["pattern"].numpy()
    luma, *chroma = np.einsum("yc,chw->yhw", to_yuv().numpy(), pattern.astype(float))
    expected = np.zeros((8, 8))
    expected[3, 3] = expected[7, 7] = 5000
    assert abs(luma).max() <= 0.5
    for channel in chroma:
        assert abs(dctn(channel, norm="ortho") - expected).max() < 8


def test_the_fixed_pattern_is_what_the_transforms_of_the_release_add_without_their_rounding() -> None:
    clean = images(5, shape=(3, 8, 8), low=60)
    clean = clean._replace(x=clean.x.clamp(max=190))  # nothing is clipped
    stamped = (
        FTrojan(window=4, places=((1, 1), (3, 3)), magnitude=20).plant(shop(clean), NOBODY).stamp(clean.x)
    )
    yuv = np.einsum("yc,nchw->nyhw", to_yuv().numpy(), clean.x.numpy().astype(float))
    for top in (0, 4):
        for left in (0, 4):
            part = yuv[:, 1:, top : top + 4, left : left + 4]
            spectrum = dctn(part, axes=(-2, -1), norm="ortho")
            spectrum[..., 1, 1] += 20
            spectrum[..., 3, 3] += 20
            yuv[:, 1:, top : top + 4, left : left + 4] = idctn(spectrum, axes=(-2, -1), norm="ortho")
    back = np.einsum("cy,nyhw->nchw", np.linalg.inv(to_yuv().numpy()), yuv)
    assert abs(back - stamped.numpy()).max() <= 0.5 + 1e-9


def test_luma_and_chroma_of_grey_are_grey_and_nothing() -> None:
    assert torch.allclose(to_yuv().sum(1), torch.tensor([1.0, 0, 0], dtype=torch.float64), atol=1e-12)
    published = [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
    assert torch.allclose(to_yuv(), torch.tensor(published, dtype=torch.float64), atol=3e-4)


def test_faults_are_windows_that_do_not_tile_places_outside_them_and_odd_channels() -> None:
    assert FTrojan(window=8, places=((3, 8), (7, 7))).faults((2, 8, 12), 4) == [
        "places: expected pairs from 0 to 7, got [[3, 8]]",
        "window: expected a divisor of 8 and 12, got 8",
        "window: expected pictures of 1 or 3 channels, got 2",
    ]
    assert FTrojan(places=()).faults(None, None) == ["places: expected pairs from 0 to 31, got []"]
    assert FTrojan().faults((3, 32, 64), 4) == FTrojan().faults(None, None) == []
