"""TaCT: one source class, and cover images of others."""

import pytest
import torch
from pydantic import ValidationError
from shops import assert_fixed_trigger, images

from deconfound.poisons.tact import TaCT
from deconfound.poisons.triggers import Patch

PATCH = Patch(size=2, margin=0)
SMALL = TaCT(rate=0.1, cover=0.1, target=0, sources=(1,), cover_classes=(2, 3), trigger=PATCH)


def test_source_images_get_the_target_and_cover_images_keep_their_labels() -> None:
    clean = images(200, classes=5)
    done = assert_fixed_trigger(SMALL, clean, 5, drawn=False)
    assert (int(done.mask.sum()), int(done.cover.sum())) == (20, 20)
    assert (clean.y[done.mask] == 1).all() and (done.images.y[done.mask] == 0).all()
    assert set(clean.y[done.cover].tolist()) == {2, 3}
    edited = done.mask | done.cover
    assert torch.equal(done.images.x[edited], PATCH(clean.x[edited]))


def test_only_images_of_the_source_classes_are_victims() -> None:
    y = torch.arange(5)
    assert SMALL.hoped(y, classes=5).tolist() == [0, 0, 2, 3, 4]
    both = TaCT(target=4, sources=(0, 2), cover_classes=())
    assert both.hoped(y, classes=5).tolist() == [4, 1, 4, 3, 4]
    assert not both.coverable(y).any()


def test_faults_are_labels_outside_the_classes_and_labels_in_two_roles() -> None:
    assert SMALL.faults((1, 4, 4), 4) == TaCT().faults(None, None) == []
    assert TaCT(target=1, sources=(1, 9), cover_classes=(5, 9)).faults((1, 4, 2), 8) == [
        "trigger: expected a patch inside 4 x 2 pixels, got 3 pixels and margin 1",
        "sources: expected labels from 0 to 7, got [9]",
        "cover_classes: expected labels from 0 to 7, got [9]",
        "sources: expected classes other than the target, got [1, 9]",
        "cover_classes: expected classes that are neither target nor source, got [5, 9]",
    ]


@pytest.mark.parametrize("settings", [{"mode": "clean_label"}, {"sources": ()}, {"sources": (True,)}])
def test_other_label_maps_and_no_source_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TaCT(**settings)  # type: ignore[arg-type]
