from __future__ import annotations

import numpy as np
import pytest
import torch

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError
from modicum.methods.event_augmentation.nda import NDA, TetFlipRoll, move_pixels

STEPS = {
    "nda": NDA(),
    "roll": NDA(modes=("roll",)),
    "rotate": NDA(modes=("rotate",)),
    "shear": NDA(modes=("shear",)),
    "tet": TetFlipRoll(),
}


def frames_of(count, height=12, width=10, steps=3):
    rng = np.random.default_rng(count)
    return torch.from_numpy(rng.integers(0, 9, (count, steps, 2, height, width)))


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_frames_do_not_depend_on_their_batch_or_kind(step):
    frames = frames_of(20)
    before = frames.clone()
    random = SampleRandom(1, 2, np.arange(20) * 7)
    made = step(frames, random)
    assert torch.equal(frames, before)
    assert made.dtype == frames.dtype
    alone = step(frames[6], SampleRandom(1, 2, np.array([42])))
    assert torch.equal(alone, made[6])
    array = step(frames.view(4, 5, 3, 2, 12, 10).float().numpy(), random)
    assert np.array_equal(array.reshape(made.shape), made.numpy())
    assert not torch.equal(step(frames, SampleRandom(1, 3, random.index)), made)
    # The same for all times and both polarities.
    same = frames[:, :1, :1].expand_as(frames)
    made = step(same, random)
    assert torch.equal(made, made[:, :1, :1].expand_as(made))


@pytest.mark.parametrize("step", [NDA(0.5, 3, modes=("roll",)), TetFlipRoll(0.5, 3)], ids=str)
def test_rolls_are_torch_rolls(step):
    one = frames_of(1)
    frames = one.expand(1500, *one.shape[1:])
    made = step(frames, 0)
    candidates = {
        (flip, dy, dx): torch.roll(one.flip(-1) if flip else one, (dy, dx), (-2, -1))
        for flip in (False, True)
        for dy in range(-3, 4)
        for dx in range(-3, 4)
    }
    counts = {
        key: int((made == candidate).flatten(1).all(dim=1).sum())
        for key, candidate in candidates.items()
    }
    assert sum(counts.values()) == 1500
    assert min(counts.values()) > 2  # each is expected 15 times
    flips = sum(count for (flip, *_), count in counts.items() if flip)
    assert abs(flips / 1500 - 0.5) < 0.05


def test_rotation_and_shear_keep_the_centre_and_the_limits():
    frames = torch.zeros(800, 1, 2, 31, 31)
    frames[..., 15, 15] = 1  # the centre
    frames[..., 15, 27] = 2  # 12 to its right
    frames[..., 3, 15] = 3  # 12 above
    rotated = NDA(0, modes=("rotate",))(frames, 0)
    assert (rotated[..., 15, 15] == 1).all()
    angles = []
    for sample in rotated[:, 0, 0]:
        for row, column in (sample == 2).nonzero().tolist():
            angles.append(np.degrees(np.arctan2(row - 15, column - 15)))
    assert -33 < min(angles) < -25
    assert 25 < max(angles) < 33
    sheared = NDA(0, modes=("shear",))(frames, 0)
    assert (sheared[..., 15, 15] == 1).all()
    assert (sheared[..., 15, 27] == 2).all()
    columns = (sheared[:, 0, 0, 3] == 3).nonzero()[:, 1] - 15
    assert -7 <= columns.min() <= -6  # 12 tan 30 = 6.9
    assert 6 <= columns.max() <= 7


def test_a_quarter_turn_is_exact():
    frames = frames_of(2, 9, 9)
    y, x = np.meshgrid(np.arange(9.0), np.arange(9.0), indexing="ij")
    turned = move_pixels(frames, np.stack([y, y]), np.stack([8 - x, 8 - x]))
    assert torch.equal(turned, torch.rot90(frames, -1, (-2, -1)))
    outside = move_pixels(frames, np.stack([x - 9, x + 2]), np.stack([y, y]))
    assert not outside[0].any()
    assert torch.equal(outside[1, ..., :7], frames[1, ..., 2:])


def test_the_modes_are_equally_likely():
    frames = torch.ones(1500, 1, 2, 24, 24)
    made = NDA(0, roll=3)(frames, 0)
    full = made.flatten(1).all(dim=1)  # rolls, and turns too small to matter
    assert 1 / 3 - 0.03 < full.float().mean() < 1 / 3 + 0.12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ("flip",)}, "roll, rotate, shear"),
        ({"modes": "roll"}, "modes is 'roll'"),
        ({"shear": 90}, "shear=90"),
        ({"roll": -1}, "roll=-1"),
        ({"flip": 1.5}, "flip is 1.5"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        NDA(**options)
