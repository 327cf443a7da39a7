import numpy as np
import pytest
import torch

from anomalib_unias.evaluation.shifts import SHIFTS, Shift, apply_shift

BY_NAME = {shift.name: shift for shift in SHIFTS}


def picture(size: tuple[int, int] = (48, 64)) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth stripes with a bright square, and the mask of the square."""
    height, width = size
    image = (0.4 + 0.1 * torch.sin(torch.arange(width) / 3)).expand(3, height, width).clone()
    mask = torch.zeros(size, dtype=torch.bool)
    mask[20:30, 20:36] = True
    image[:, mask] = 0.9
    return image, mask


@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.name)
def test_stronger_is_further_away(shift: Shift) -> None:
    image, mask = picture()
    distances = []
    for amount in shift.amounts:
        changed, changed_mask = apply_shift(shift, amount, image, mask, "a.png", 0)
        assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
        assert (changed_mask.shape, changed_mask.dtype) == (mask.shape, mask.dtype)
        assert 0 <= changed.min() <= changed.max() <= 1
        distances.append(float((changed - image).square().mean()))
    assert 0 < distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.name)
def test_name_and_seed_decide(shift: Shift) -> None:
    image, mask = picture()
    same = [apply_shift(shift, shift.amounts[0], image, mask, "a.png", 0)[0] for _ in range(2)]
    assert torch.equal(*same)
    others = [apply_shift(shift, shift.amounts[0], image, None, f"{index}.png", index % 3)[0] for index in range(12)]
    varied = any(not torch.equal(others[0], other) for other in others)
    assert varied == (shift.name not in {"blur", "jpeg"})


@pytest.mark.parametrize("name", ["rotation", "displacement"])
def test_the_mask_moves_with_the_image(name: str) -> None:
    image, mask = picture()
    moved = 0
    for amount in BY_NAME[name].amounts:
        changed, changed_mask = apply_shift(BY_NAME[name], amount, image, mask, "a.png", 0)
        bright = changed[0] > 0.75
        overlap = (bright & changed_mask).sum() / (bright | changed_mask).sum()
        assert overlap > 0.85
        moved += not torch.equal(changed_mask, mask)
        assert changed[:, changed_mask == 0].max() < 0.95
        assert changed.min() > 0.25  # no black corners
    assert moved


def test_amounts_are_what_they_say() -> None:
    image, mask = picture((100, 200))
    changed, _ = apply_shift(BY_NAME["light"], 0.2, image, mask, "a.png", 0)
    assert float((changed[:, ~mask] / image[:, ~mask]).mean()) in (pytest.approx(0.8), pytest.approx(1.2))
    changed, _ = apply_shift(BY_NAME["noise"], 0.03, torch.full((3, 100, 100), 0.5), None, "a.png", 0)
    assert float(changed.std()) == pytest.approx(0.03, rel=0.05)
    _, displaced = apply_shift(BY_NAME["displacement"], 0.05, image, mask, "a.png", 0)
    before, after = (np.argwhere(each.numpy()).mean(axis=0) for each in (mask, displaced))
    assert np.abs(after - before).tolist() == pytest.approx([5, 10])
    assert apply_shift(BY_NAME["blur"], 2.0, torch.rand(3, 2, 2), None, "tiny", 0)[0].shape == (3, 2, 2)
