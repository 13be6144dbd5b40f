"""The LightningModule that trains all honest nodes; each training step is one round."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, within
from datamodules.batches import LabelledImageBatch
from datamodules.distributed.collectives import all_reduce_sum, run_seed
from datamodules.randomness.generators import generator_of
from lightning_modules.distributed.independent import require_independent
from lightning_modules.full_precision import in_full_precision
from lightning_modules.interfaces import Table
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.optimization.monna.aggregation import NearestNeighborAveraging, Rule
from lightning_modules.optimization.monna.byzantine import ByzantineAttack
from lightning_modules.optimization.monna.exchange import exchange_vectors
from lightning_modules.optimization.monna.nodes import NodeNetworks
from lightning_modules.tasks.classifier import ClassifierSteps
from lightning_modules.training.logging import log_same, log_training


def node_losses(logits: Tensor, label: Tensor, weights: Tensor, norm_weight: float) -> Tensor:
    """Compute the loss of each of k nodes, `[k]`, from logits `[k, B, K]` and labels `[k, B]`.

    The loss is the mean cross-entropy plus c |theta_i|.
    """
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
    return cross_entropy.view_as(label).mean(dim=1) + norm_weight * weights.norm(dim=1)


def model_spread(models: Tensor) -> Tensor:
    """Compute the mean distance between the models, `[H, D]`, and their average."""
    return (models - models.mean(dim=0)).norm(dim=1).mean()


def node_accuracy_table(curve: list[tuple[int, float, float]]) -> Table:
    """Return a table of the mean accuracy and the accuracy of the worst honest node after each number of rounds."""
    return Table(
        {
            "round": [number for number, *_ in curve for _ in range(2)],
            "honest nodes": ["mean", "worst"] * len(curve),
            "accuracy": [each for _, *pair in curve for each in pair],
        },
        title="Accuracy on held-out images",
    )


class MoNNA(ClassifierSteps, MethodModule):
    """Train a classifier on each of several nodes, which exchange models with each other and with Byzantine nodes.

    Training batches contain the same number of images for each honest node (`data.shards`). Each optimizer step is one
    round. The metric `accuracy` is averaged over the honest nodes; `worst_accuracy` is that of the worst honest node.
    Predictions, and callbacks that need a `Classifier`, use the model of node 0. Training on several ranks requires
    `--config configs/trainer/independent.yaml`.

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`; its weights are the
            initial weights of all nodes.
        num_classes: number of classes, K.
        nodes: total number n of honest and Byzantine nodes.
        byzantine: number f of Byzantine nodes; for most rules, it must be less than a third of all nodes.
        attack: attack that computes the vector that the Byzantine nodes send.
        momentum: momentum coefficient beta, in [0, 1).
        norm_weight: weight c of the norm |theta_i| in the loss.
        rule: rule that aggregates the models that a node receives; None means `NearestNeighborAveraging`.
        exchange_gradients: whether nodes also exchange momenta, with the same rule, before the local step, as in LEARN.
        target_accuracy: mean validation accuracy in [0, 1] at which `test/gradients_to_target` stops counting.
        optimizer: optimizer of the local step, which receives the momentum as the gradient.
        lr_scheduler: learning-rate schedule, stepped every epoch, or every round if its `interval` is "step".
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        nodes: int,
        byzantine: int = 0,
        attack: ByzantineAttack | None = None,
        momentum: float = 0.99,
        norm_weight: float = 0.0,
        rule: Rule | None = None,
        exchange_gradients: bool = False,
        target_accuracy: float | None = None,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, nodes=nodes)
        at_least(0, byzantine=byzantine, norm_weight=norm_weight)
        within(0, 1, "[)", momentum=momentum)
        within(0, 1, "[]", target_accuracy=target_accuracy)
        self.rule = rule or NearestNeighborAveraging()
        if byzantine > (most := self.rule.most_byzantine(nodes)):
            raise ValueError(
                f"byzantine must be at most {most}, the number that {type(self.rule).__name__} tolerates among {nodes} "
                f"nodes, got {byzantine}"
            )
        if (byzantine > 0) != (attack is not None):
            raise ValueError(
                f"attack must be set if byzantine is above 0, and left out if it is 0, got byzantine {byzantine}"
            )
        self.automatic_optimization = False
        self.honest = nodes - byzantine
        self.network = NodeNetworks(network, self.honest)
        self.num_classes = num_classes
        self.byzantine = byzantine
        self.attack = attack
        if attack is not None:
            attack.allocate(self.network.size)
        self.momentum = momentum
        self.norm_weight = norm_weight
        self.exchange_gradients = exchange_gradients
        self.target_accuracy = target_accuracy
        self.counted = {"gradients": 0.0} | ({} if target_accuracy is None else {"gradients_to_target": math.inf})
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.tables: dict[str, Table] = {}
        self.curve: list[tuple[int, float, float]] = []
        """For each validation: number of rounds so far, mean accuracy, and accuracy of the worst honest node."""
        self._everyone: dict[str, Tensor] | None = None  # parameters and buffers of all nodes, during evaluation
        self._counts = torch.zeros(0)  # number of correct predictions of each node, and number of images, on this rank

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image, self._everyone)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        trainer = self.trainer
        require_independent(trainer)
        if str(trainer.precision) == "16-mixed":
            raise ValueError(
                "trainer.precision 16-mixed scales the loss, but momenta need unscaled gradients: use bf16-mixed"
            )
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and data is not None:
            shards = getattr(data, "shards", None)
            found = "none" if shards is None else shards.nodes
            if found != self.honest:
                raise ValueError(
                    f"data.shards.nodes must be {self.honest}, the number of honest nodes "
                    f"(model.nodes {self.honest + self.byzantine} - model.byzantine {self.byzantine}), got {found}"
                )
        self.network.deal()

    # Training rounds

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        network, number, hosted = self.network, self.global_step, len(self.network.own)
        if len(batch["image"]) % hosted:
            raise ValueError(f"batch size {len(batch['image'])} is not divisible by the {hosted} nodes")
        optimizer: Any = self.optimizers()
        rate = optimizer.param_groups[0]["lr"]
        image, label = batch["image"].unflatten(0, (hosted, -1)), batch["label"].unflatten(0, (hosted, -1))
        logits = network.each(network.tensors(), image)
        loss = node_losses(logits, label, network.weights, self.norm_weight)
        self.counted["gradients"] += label.shape[1] * self.honest  # number of per-image gradients
        flips = self.attack is not None and self.attack.flips_labels
        (gradient,) = torch.autograd.grad(loss.sum(), network.weights, retain_graph=flips)
        flipped = None
        if flips:
            wrong = node_losses(logits, self.num_classes - 1 - label, network.weights, self.norm_weight)
            (of_own,) = torch.autograd.grad(wrong.sum(), network.weights)
            flipped = all_reduce_sum(of_own.sum(dim=0)) / self.honest
        with torch.no_grad(), in_full_precision(self.device):
            momentum = network.momentum.mul_(self.momentum).add_(gradient, alpha=1 - self.momentum)
            if self.exchange_gradients:
                momentum.copy_(self._exchange(momentum, number, flipped, relative=False))
            network.weights.grad = momentum
            optimizer.step()
            step = None if flipped is None else -rate * flipped
            network.weights.copy_(self._exchange(network.weights, number, step, relative=True))
            if self.attack is not None and self.attack.learns(number):
                self.attack.learn(network.whole(network.weights), number)
        self._schedule("step")
        return {"loss": log_training(self, batch, loss.detach().mean()), "logits": logits.detach().flatten(0, 1)}

    def _exchange(self, own: Tensor, number: int, poison: Tensor | None, relative: bool) -> Tensor:
        who = generator_of(run_seed(), number, relative)
        return exchange_vectors(
            own, self.network, self.rule, self.byzantine, self.attack, number, who, poison, relative
        )

    def _schedule(self, interval: str) -> None:
        scheduler: Any = self.lr_schedulers()
        if scheduler is not None and getattr(scheduler, "interval", "epoch") == interval:
            scheduler.step()

    def on_train_epoch_end(self) -> None:
        self._schedule("epoch")

    # Evaluation of all honest nodes on this rank's shard of the images

    def on_validation_epoch_start(self) -> None:
        self._everyone = self.network.tensors(whole=True)
        self._counts = torch.zeros(self.honest + 1, dtype=torch.int64, device=self.device)

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def _measure(self, batch: dict[str, Any], stage: str) -> None:
        assert self._everyone is not None
        prediction = self.network.each(self._everyone, batch["image"], shared=True).argmax(dim=2)
        self._counts[:-1] += (prediction == batch["label"]).sum(dim=1)
        self._counts[-1] += len(batch["label"])

    def _finish(self, stage: str) -> Tensor:
        """Log the metrics, and return the accuracy of each honest node, `[H]`."""
        assert self._everyone is not None
        models = torch.cat([self._everyone[name].flatten(1) for name in self.network.shapes], dim=1)
        self._everyone, counts = None, all_reduce_sum(self._counts)
        accuracy = counts[:-1] / counts[-1]
        log_same(self, f"{stage}/accuracy", accuracy.mean())
        log_same(self, f"{stage}/worst_accuracy", accuracy.min())
        log_same(self, f"{stage}/distance", model_spread(models))
        return accuracy

    def on_validation_epoch_end(self) -> None:
        accuracy = self._finish("val")
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.curve.append((self.global_step, float(accuracy.mean()), float(accuracy.min())))
            self.tables["accuracy"] = node_accuracy_table(self.curve)
            reached = accuracy.mean() >= (self.target_accuracy or 0.0)
            if reached and self.counted.get("gradients_to_target") == math.inf:
                self.counted["gradients_to_target"] = self.counted["gradients"]

    def on_test_epoch_end(self) -> None:
        accuracy = self._finish("test").tolist()
        for name, count in self.counted.items():
            log_same(self, f"test/{name}", count)
        self.tables["nodes"] = Table({"node": list(range(self.honest)), "test accuracy": accuracy}, kind="points")

    def on_predict_epoch_end(self) -> None:
        self._everyone = None

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"curve": self.curve, "counted": self.counted}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = [tuple(row) for row in checkpoint["curve"]]
        self.counted |= checkpoint.get("counted", {})  # older checkpoints do not contain these counts
