"""The LightningModule that learns to rank items by maximising NDCG, and the scoring network NeuMF.

Source of NeuMF: He, Liao, Zhang, Nie, Hu and Chua, Neural Collaborative Filtering, WWW 2017, arXiv 1708.05031.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, positive, within
from datamodules.batches import global_batch_size, loss_weight
from datamodules.distributed.collectives import all_reduce_gradients, rank, run_seed, world_size
from datamodules.randomness.generators import generator_of
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import TrainingSamples, require_data
from lightning_modules.losses.output_losses import HALF
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.optimization.mbbo.ranking import LowerLevels, best_dcg, hinges, listwise, ndcg, surrogate
from lightning_modules.torch_internals import foreach_copy_, foreach_sub_
from lightning_modules.training.logging import log_training


class NeuMF(nn.Module):
    """A network that scores items for users by neural collaborative filtering.

    The network maps user IDs `[b]` and item IDs `[b, J]` to scores `[b, J]`.

    Args:
        users: number of users.
        items: number of items.
        width: dimension of the user and item embeddings.
        hidden_features: widths of the layers of the MLP.
        dropout: dropout probability in the MLP.
    """

    def __init__(
        self, users: int, items: int, width: int = 64, hidden_features: Sequence[int] = (64,), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.users, self.items = (nn.ModuleList([nn.Embedding(n, width) for _ in range(2)]) for n in (users, items))
        layers: list[nn.Module] = []
        for given, made in zip((2 * width, *hidden_features), hidden_features, strict=False):
            layers += [nn.Linear(given, made), nn.ReLU(), nn.Dropout(dropout)]
        self.perceptron = nn.Sequential(*layers)
        self.last = nn.Linear((hidden_features[-1] if hidden_features else 2 * width) + width, 1, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Embedding, nn.Linear)):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        first, second = (vectors(user)[:, None].expand(-1, item.shape[1], -1) for vectors in self.users)
        product = first * self.items[0](item)
        joined = torch.cat([second, self.items[1](item)], dim=2)
        return self.last(torch.cat([product, self.perceptron(joined)], dim=2))[..., 0]


DRAWN = 4
"""Key of the random generator that samples the items of a batch."""
EVALUATED = (5, 10, 20, 50)
"""Values of K for which NDCG@K is logged in validation and test."""


class NDCGRanking(MethodModule):
    """Learn to rank items by maximising NDCG or NDCG@K with the trackers of BSVRB.

    A batch consists of users and their ratings of all items. The training state contains two numbers for each pair of a
    user and an item.

    Args:
        network: network that maps users `[b]` and items `[b, J]` to scores `[b, J]`.
        optimizer: optimizer of the network; it receives G - gamma_gradient G' as the gradient.
        lr_scheduler: learning-rate schedule, stepped every epoch.
        positives: number P of rated items that are sampled for each user of a batch.
        negatives: number of unrated items that are sampled for each user of a batch.
        top: K of the training objective NDCG@K; None means that the objective is NDCG over all items, as in the
            authors' code.
        alpha: weight of the current batch in the trackers of the lower-level problems, in (0, 1].
        gamma: weight of the variance-reduction term in the trackers of the lower-level problems.
        tau: step size of the lower-level variables u.
        gamma_gradient: weight with which the gradient G' at the previous iterate is subtracted; the first moment of
            Adam serves as the tracker of the gradient.
        warmup_epochs: number of initial epochs that train with the listwise cross-entropy; the epoch after them does
            not use variance reduction.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
        positives: int = 10,
        negatives: int = 300,
        top: int | None = None,
        alpha: float = 0.9,
        gamma: float = 0.005,
        tau: float = 0.4,
        gamma_gradient: float = 0.01,
        warmup_epochs: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, positives=positives, negatives=negatives, top=top)
        at_least(0, gamma=gamma, gamma_gradient=gamma_gradient, warmup_epochs=warmup_epochs)
        within(0, 1, "(]", alpha=alpha)
        positive(tau=tau)
        self.automatic_optimization = False
        self.network = network
        self.previous = copy.deepcopy(network).requires_grad_(False)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.positives, self.negatives, self.top = positives, negatives, top
        self.gamma_gradient = gamma_gradient
        self.warmup_epochs, self.compared_from = warmup_epochs, warmup_epochs + 1
        self.levels = LowerLevels(alpha, gamma, tau)

    def setup(self, stage: str) -> None:
        if (precision := str(self.trainer.precision)) in HALF:
            raise ValueError(f"trainer.precision {precision} has too few digits: use 32-true, 64-true or bf16-mixed")

    def on_fit_start(self) -> None:
        users = require_data(self.trainer, TrainingSamples, "NDCGRanking").num_train_samples
        trainer: Any = self.trainer
        items, dtype = trainer.datamodule.row_shapes["ratings"][0], next(self.network.parameters()).dtype
        self.levels.allocate(users, items, self.device, dtype)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.network(user, item)

    def draw(self, rating: Tensor, size: int) -> Tensor:
        """Sample P rated items and `negatives` unrated items for each user; return their indices, `[b, J]`.

        The sampled items do not depend on the world size.
        """
        random = generator_of(run_seed(), DRAWN, self.global_step)
        key = torch.rand(size, rating.shape[1], generator=random)[rank() :: world_size()].to(
            rating.device, non_blocking=True
        )
        rated = rating > 0
        parts = ((~rated, self.positives), (rated, min(self.negatives, rating.shape[1])))
        return torch.cat([key.masked_fill(others, -1).topk(count, dim=1).indices for others, count in parts], dim=1)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        user, rating, size = batch["index"], batch["ratings"], global_batch_size(batch)
        item, parameters = self.draw(rating, size), trainable_parameters(self.network)
        trained = {name for name, each in self.network.named_parameters() if each.requires_grad}
        old, score_before = {}, None
        if self.current_epoch >= self.compared_from:
            last = self.previous.named_parameters()
            old = {name: each.detach().requires_grad_() for name, each in last if name in trained}
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices):  # so that both networks use the same dropout masks
                score_before = at_least_float32(torch.func.functional_call(self.network, old, (user, item)))
        score = at_least_float32(self.network(user, item))
        if self.current_epoch < self.warmup_epochs:
            loss, gradient = all_reduce_gradients(listwise(score, self.positives) / size, parameters)
        else:
            now, before = self._objectives(batch, item, score, score_before)
            loss, gradient = all_reduce_gradients(now, parameters)
            if before is not None:
                past = all_reduce_gradients(before, list(old.values()))[1]
                foreach_sub_(gradient, past, alpha=self.gamma_gradient)
        with torch.no_grad():
            foreach_copy_(list(self.previous.parameters()), list(self.network.parameters()))
        for parameter, own in zip(parameters, gradient, strict=True):
            parameter.grad = own
        optimizer: Any = self.optimizers()
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": log_training(self, batch, loss)}

    def _objectives(
        self, batch: Any, item: Tensor, score: Tensor, score_before: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Update the lower-level variables of the users in a batch.

        Return the surrogate losses of this rank at the current and at the previous iterate.
        """
        user, rating, size = batch["index"], batch["ratings"].to(score), global_batch_size(batch)
        items, rated = rating.shape[1], item[:, : self.positives]
        gain = 2 ** rating.gather(1, rated) - 1
        weight = (rating > 0).sum(1) / best_dcg(rating, self.top or items) / size
        g = hinges(score, self.positives)
        g_before = None if score_before is None else hinges(score_before, self.positives)
        still = None if g_before is None else g_before.detach()
        u, u_before = self.levels.move(user, rated, g.detach(), still, items, size)
        threshold = past = None
        if self.top is not None:
            still = None if score_before is None else score_before.detach()
            threshold, past = self.levels.move_thresholds(user, score.detach(), still, self.top, items, size)
        now = surrogate(score, g, u, gain, weight, items, threshold)
        if score_before is None or g_before is None:
            return now, None
        return now, surrogate(score_before, g_before, u_before, gain, weight, items, past)

    def on_train_epoch_end(self) -> None:
        scheduler: Any = self.lr_schedulers()
        scheduler.step()

    def _evaluate(self, batch: Any, stage: str) -> None:
        rating = batch["ratings"]
        everything = torch.arange(rating.shape[1], device=rating.device).expand_as(rating)
        score = at_least_float32(self.network(batch["index"], everything))
        excluded = (rating > 0) | (batch["excluded"] > 0)
        for top in EVALUATED:
            value = loss_weight(batch) * ndcg(score, batch["held_out"].to(score), excluded, top).mean()
            self.log(f"{stage}/ndcg_{top}", value, on_epoch=True, batch_size=global_batch_size(batch), sync_dist=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["levels"] = self.levels.checkpoint_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.levels.restore(checkpoint["levels"])

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
