"""DataModule for online imitation learning, in which a batch is a round of states that the current policy visits.

Rollouts("CartPole-v1", CartPoleLQR(), rounds=20, samples_per_round=100)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.arguments import at_least, within
from datamodules.distributed.collectives import all_gather
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import RequestedSet, SeededBatches
from datamodules.rollouts.experts import Expert

Policy = Callable[[Tensor], Tensor]
TRAINING, MEASURED, TESTED, PLAYED = range(4)
"""Purposes for which environments are simulated. The environments of different purposes have different seeds."""


class RolloutSet:
    """Dataset of rounds of states. A round is simulated on access.

    Sample j of a round is step j // E of environment j % E. All environments are reset at the start of a round.

    Args:
        data: DataModule that runs the simulation.
        samples: total number of samples over all rounds.
        round_size: number of samples per round.
        purpose: integer that is a part of the environments' seeds.
    """

    in_memory = True

    def __init__(self, data: "Rollouts", samples: int, round_size: int, purpose: int) -> None:
        self.data, self.samples, self.round_size, self.purpose = data, samples, round_size, purpose

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, request: Request) -> dict[str, Any]:
        number, place = divmod(request.indices.numpy(), self.round_size)
        environment = place % self.data.environments
        own = np.unique(environment).tolist()
        words = self.purpose, request.epoch, int(number[0])
        states, targets, _ = self.data.simulate(own, int(place.max()) // self.data.environments + 1, *words)
        chosen = place // self.data.environments, np.searchsorted(own, environment)
        return {
            "features": torch.from_numpy(states[chosen]),
            "target": torch.from_numpy(targets[chosen]),
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
        }


class Rollouts(SeededBatches):
    """DataModule with batches of simulated states and an expert's actions in them (`datamodules.batches.TableBatch`).

    The `forward` method of the module is the policy. It maps states `[E, S]` to actions `[E, A]` in the units of the
    environment. Actions are clipped to the bounds of the environment. If the environment has two discrete actions, the
    policy returns one number whose sign selects the action. All environments are reset before each round, so a round
    depends only on the seed and the policy.

    Args:
        environment: name of the environment in gymnasium, such as `CartPole-v1`.
        expert: policy to imitate.
        rounds: number of rounds per epoch. Each round is one batch.
        samples_per_round: number of states per round, over all ranks.
        environments: number of environments that are simulated in parallel. They are sharded over ranks.
        expert_share: probability that a step executes the expert's action instead of the policy's action. If it is 1,
            all states are visited by the expert.
        measured_samples: number of states on which the policy is evaluated during training. They come from an
            additional round.
        episodes: number of episodes over which the mean return is estimated.
        seed: seed of the environments. None means the value of `seed_everything`.
    """

    def __init__(
        self,
        environment: str,
        expert: Expert,
        rounds: int = 50,
        samples_per_round: int = 1000,
        environments: int = 1,
        expert_share: float = 0.0,
        measured_samples: int = 1000,
        episodes: int = 10,
        seed: int | None = None,
    ) -> None:
        at_least(1, rounds=rounds, environments=environments, episodes=episodes)
        at_least(environments, samples_per_round=samples_per_round, measured_samples=measured_samples)
        within(0, 1, expert_share=expert_share)
        super().__init__(samples_per_round, Loading(measured_samples, num_workers=0, seed=seed))
        self.environment = environment
        self.expert = expert
        self.rounds = rounds
        self.environments = environments
        self.expert_share = expert_share
        self.episodes = episodes
        self.shuffle = False
        self.made: dict[int, Any] = {}

    def prepare_data(self) -> None:
        self._environment(0)

    def _environment(self, number: int) -> Any:
        """Return the environment with a given index, and create it on first use."""
        if not self.made:
            self.expert.meet(self._make())
        if number not in self.made:
            self.made[number] = self._make()
        return self.made[number]

    def _make(self) -> Any:
        try:
            import gymnasium
        except ImportError as error:
            raise ImportError(
                "Rollouts needs gymnasium: pip install 'noiseworks[imitation]', and gymnasium[mujoco] for its robots"
            ) from error
        try:
            return gymnasium.make(self.environment)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ImportError(f"environment {self.environment}: {error}") from error
        except gymnasium.error.Error as error:
            raise ValueError(f"environment {self.environment}: {error}") from error

    def set_up_training(self) -> None:
        self._check_processes()
        size = self.batch_size
        self.train_set = RolloutSet(self, self.rounds * size, size, TRAINING)
        self.measured_set = RolloutSet(self, self.evaluation_batch_size, self.evaluation_batch_size, MEASURED)

    def set_up_test(self) -> None:
        self._check_processes()
        self.test_set = RolloutSet(self, self.evaluation_batch_size, self.evaluation_batch_size, TESTED)

    def _check_processes(self) -> None:
        if self.environments % (processes := self.processes()[1]):
            raise ValueError(f"data.environments must be a multiple of the {processes} ranks, got {self.environments}")

    def evaluation_loader(self, samples: RequestedSet) -> DataLoader:
        """Return a DataLoader for a dataset.

        For the training set, return a DataLoader of the evaluation states instead.
        """
        return super().evaluation_loader(self.measured_set if samples is self.train_set else samples)

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {key: value.to(self._dtype) if key in ("features", "target") else value for key, value in batch.items()}

    @property
    def _module(self) -> Any:
        if self.trainer is None:
            raise RuntimeError("Rollouts needs a Trainer: its states are those that the policy in training visits")
        return self.trainer.lightning_module

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self._module.dtype, torch.float32)

    @torch.no_grad()
    def _act(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the outputs of the policy for `states`."""
        outputs = self._module(torch.from_numpy(states).to(self._module.device, self._dtype))
        return outputs.double().cpu().numpy()

    def simulate(
        self, environments: Sequence[int], steps: int, *words: int, episode: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Run the policy in several environments in parallel, step by step.

        Args:
            environments: indices of the environments.
            steps: number of steps per environment. When an episode ends, the next episode begins.
            words: integers from which each environment is seeded, together with the seed of the run and the index of
                the environment.
            episode: whether to return the rewards of only the first episode, in which the policy chooses all actions.

        Returns:
            States `[T, E, S]`, the expert's actions in these states `[T, E, A]`, and rewards `[T, E]`.
        """
        made = [self._environment(number) for number in environments]
        seeds = [np.random.SeedSequence([self.seed, *words, number]) for number in environments]
        state = [each.reset(seed=int(s.generate_state(1)[0]))[0] for each, s in zip(made, seeds, strict=True)]
        coins = [np.random.default_rng(s.spawn(1)[0]) for s in seeds]
        states: list[Any] = []
        targets: list[Any] = []
        rewards: list[Any] = []
        ended = np.zeros(len(made), dtype=bool)
        for _ in range(steps):
            now = np.stack(state).astype(np.float64)
            target = self.expert.actions(now)
            action = self._act(now)
            experts = np.array([coin.random() < self.expert_share and not episode for coin in coins])
            action[experts] = target[experts]
            reward = np.zeros(len(made))
            for place, each in enumerate(made):
                state[place], reward[place], over, cut, _ = each.step(self._chosen(each, action[place]))
                reward[place] *= not (episode and ended[place])
                ended[place] |= over or cut
                if over or cut:
                    state[place] = each.reset()[0]
            for kept, value in ((states, now), (targets, target), (rewards, reward)):
                kept.append(value)
            if episode and ended.all():
                break
        return np.stack(states), np.stack(targets), np.stack(rewards)

    @staticmethod
    def _chosen(environment: Any, action: NDArray[np.float64]) -> Any:
        space = environment.action_space
        if hasattr(space, "n"):
            return int(action[0] > 0)
        return np.clip(action, space.low, space.high).astype(space.dtype)

    def mean_return(self) -> float:
        """Compute the mean return over episodes in which only the policy acts; the episodes are sharded over ranks."""
        rank, processes = self.processes()
        own = range(rank, self.episodes, processes)
        total = 0.0
        for number in own:
            limit = self._environment(0).spec.max_episode_steps or 1000
            total += self.simulate([0], limit, PLAYED, number, episode=True)[2].sum()
        return sum(all_gather(float(total))) / self.episodes
