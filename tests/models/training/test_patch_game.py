"""When the game against a patch discriminator begins, and that it is another's loss."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aigc_models.training.loop import LoopConfig
from aigc_models.training.patch_game import PatchGame, updates_done

LOOP = LoopConfig(steps=6, batch_size=2, learning_rate=1e-3)


def test_it_begins_after_half_of_the_steps_also_behind_a_loaded_state() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    game = PatchGame(1, LOOP, 0.1, "cpu")
    begun = []
    for _ in range(5):
        begun.append(game.has_begun(optimizer))
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert begun == [False, False, False, True, True]
    other = torch.optim.Adam(nn.Linear(2, 1).parameters())
    assert updates_done(other) == 0
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert updates_done(other) == 5


def test_an_update_is_one_step_on_the_hinge_loss_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    game = PatchGame(1, LOOP, 0.1, "cpu")
    real, fake = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8, requires_grad=True)
    before = copy.deepcopy(game.discriminator)
    loss = game.update(real, fake)
    with torch.no_grad():
        on_real, on_fake = before(real), before(fake)  # in this order: spectral norms move with every run
    expected = (1 - on_real).clamp(min=0).mean() + (1 + on_fake).clamp(min=0).mean()
    assert loss == pytest.approx(float(expected), abs=1e-6)
    assert fake.grad is None
    moved = zip(before.parameters(), game.discriminator.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)
