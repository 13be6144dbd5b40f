from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from torch import nn

from callbacks.episode_returns import EpisodeReturns
from datamodules.rollouts.experts import CartPoleLQR
from datamodules.rollouts.rollouts import Rollouts
from datamodules.tables.tables import Tables
from lightning_modules.optimization.sso import SSO, ScheduledStep
from tests.optimization.sso.test_module import Points
from tests.trainers import quiet, standing
from tests.two_processes import in_two_processes

pytest.importorskip("gymnasium", reason="needs the extra imitation")


def rollouts(**arguments: Any) -> Rollouts:
    settings: dict[str, Any] = {"rounds": 3, "samples_per_round": 40, "environments": 2, "measured_samples": 50}
    return Rollouts("CartPole-v1", CartPoleLQR(), **{**settings, "episodes": 4, "seed": 5, **arguments})


def imitator() -> SSO:
    torch.manual_seed(0)
    return SSO(nn.Linear(4, 1), nn.MSELoss(reduction="sum"), ScheduledStep(0.5), 5)


class Kept(Callback):
    """Stores the batches, and a checkpoint after each batch."""

    def __init__(self, folder: Path | None = None) -> None:
        self.batches: list[Any] = []
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / "last.ckpt")


def following(data: Rollouts, policy: Any) -> Rollouts:
    data.trainer = standing(lightning_module=policy, global_rank=0, world_size=1)  # type: ignore[assignment]
    policy.dtype, policy.device = torch.float64, torch.device("cpu")
    return data


def test_states_follow_from_the_seed_and_the_policy_and_targets_are_the_experts() -> None:
    policy = nn.Linear(4, 1, dtype=torch.float64)
    data = following(rollouts(), policy)
    states, targets, rewards = data.simulate([0, 1], 30, 0, 0, 0)
    assert states.shape == (30, 2, 4)
    np.testing.assert_allclose(targets[7], data.expert.actions(states[7]))
    assert (rewards == 1).all()
    np.testing.assert_array_equal(data.simulate([1], 30, 0, 0, 0)[0][:, 0], states[:, 1])  # alone or with others
    assert not np.array_equal(data.simulate([0], 30, 0, 0, 1)[0][0], states[0, :1])
    with torch.no_grad():
        policy.weight.neg_()
    np.testing.assert_array_equal(data.simulate([0], 30, 0, 0, 0)[0][0], states[0, :1])
    assert not np.array_equal(data.simulate([0], 30, 0, 0, 0)[0], states[:, :1])


def test_the_regulator_balances_and_its_share_makes_the_states_its_own() -> None:
    class Push(nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(states), 1).double()

    pushed = following(rollouts(), Push()).mean_return()
    assert 8 <= pushed <= 12
    data = following(rollouts(expert_share=1.0), Push())
    states, _, _ = data.simulate([0], 200, 0, 0, 0)
    assert np.abs(states[..., 2]).max() < 0.2  # no pole fell, so no episode ended
    assert data.mean_return() == pushed  # the return does not depend on the expert

    class Expert(nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(data.expert.actions(states.numpy()))

    assert following(data, Expert()).mean_return() == 500


def returned(processes: int = 1) -> float:
    """Play three episodes; collectives of tensors on the host are rejected, as with NCCL."""
    policy: Any = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(policy.weight, 0.1)
    data = following(rollouts(episodes=3), policy)
    if processes > 1:
        dist.init_process_group("gloo")
        dist.all_reduce = None  # type: ignore[assignment]  # in this process, which ends with the test
        data.trainer = standing(lightning_module=policy, global_rank=dist.get_rank(), world_size=processes)  # type: ignore[assignment]
    return data.mean_return()


def test_processes_share_the_episodes_and_reduce_no_tensor_on_the_host() -> None:
    assert in_two_processes(returned, 2) == [returned()] * 2


def test_each_round_is_of_the_policy_as_it_is_then_and_imitation_balances() -> None:
    kept, data, module = Kept(), rollouts(), imitator()
    trainer = quiet(max_epochs=8, callbacks=[kept, EpisodeReturns()])
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert [batch["features"].shape for batch in kept.batches] == [(40, 4)] * 24
    assert [batch["index"][0].item() for batch in kept.batches[:4]] == [0, 40, 80, 0]
    assert not torch.equal(kept.batches[0]["features"], kept.batches[3]["features"])
    assert module.loss.gradients == 24
    assert module.course[-1]["training_loss"] < 0.5 * module.course[0]["training_loss"]
    assert trainer.callback_metrics["test/return"] > 100


def test_a_resumed_run_visits_the_same_states(tmp_path: Path) -> None:
    whole, first, rest = Kept(), Kept(tmp_path), Kept()
    quiet(max_steps=6, callbacks=[whole]).fit(imitator(), datamodule=rollouts())
    quiet(max_steps=4, callbacks=[first]).fit(imitator(), datamodule=rollouts())
    trainer = quiet(max_steps=6, callbacks=[rest])
    trainer.fit(imitator(), datamodule=rollouts(), ckpt_path=tmp_path / "last.ckpt")
    for ours, theirs in zip(rest.batches, whole.batches[4:], strict=True):
        assert torch.equal(ours["features"], theirs["features"])


def test_actions_are_clipped_to_the_bounds_of_a_box() -> None:
    import gymnasium

    pendulum = gymnasium.make("Pendulum-v1")
    assert Rollouts._chosen(pendulum, np.array([7.0])).tolist() == [2.0]
    assert Rollouts._chosen(gymnasium.make("CartPole-v1"), np.array([-0.1])) == 0


def test_processes_must_divide_the_environments_and_other_data_have_no_episodes() -> None:
    data = rollouts(environments=3)
    data.trainer = standing(global_rank=0, world_size=2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"data\.environments must be a multiple of the 2 ranks, got 3"):
        data.setup("fit")
    with pytest.raises(TypeError, match="EpisodeReturns needs a EpisodeSource"):
        quiet(max_steps=1, callbacks=[EpisodeReturns()]).fit(imitator(), datamodule=Tables(Points()))


def test_an_environment_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium

    with pytest.raises(ValueError, match=r"environment CartPool-v1: .*CartPool"):
        Rollouts("CartPool-v1", CartPoleLQR())._make()

    def refused(name: str) -> None:
        raise gymnasium.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gymnasium, "make", refused)
    with pytest.raises(ImportError, match="environment Hopper-v5: MuJoCo is not installed"):
        Rollouts("Hopper-v5", CartPoleLQR())._make()
