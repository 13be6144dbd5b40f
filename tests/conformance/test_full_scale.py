"""Every experiment takes one training step at its full scale on the meta device, whose tensors have no values.

The test is fast for any size. Code that would make a GPU synchronise with the host (`.item()`, a condition on a tensor,
`nonzero`, an index by a mask) raises an error.
"""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from experiments.claims.arms import Arm
from lightning_modules.networks.mlp import MLP
from tests.conformance.experiments import CONFIGS, at_paper_scale, experiments, name
from tests.conformance.meta_batches import meta_batch
from tests.conformance.test_configs import assert_class_defaults


class Trainer:
    """Imitates the trainer attributes that a module reads during set-up and its first step."""

    num_training_batches = 1000
    optimizers: Any = ()
    current_epoch = global_step = 0
    world_size = 1
    is_global_zero = training = True
    strategy: Any = types.SimpleNamespace(optimizer_step=lambda optimizer, closure: optimizer.step(closure))

    def __init__(self, options: Any, data: Any, callbacks: list[Any] | None = None) -> None:
        self.datamodule = data
        self.callbacks = callbacks or []
        self.accumulate_grad_batches = options.accumulate_grad_batches
        self.max_epochs = options.max_epochs
        self.precision = getattr(options, "precision", None) or "32-true"
        self.estimated_stepping_batches = self.num_training_batches * self.max_epochs


def take_a_step(module: LightningModule, trainer: Any, batch: dict[str, Any]) -> Tensor:
    """Call all hooks of `fit` up to the end of the first batch, in the order of Lightning, and return the loss."""
    module.to("meta")
    if trainer.precision == "64-true":
        module.double()
        batch = apply_to_collection(batch, Tensor, lambda each: each.double() if each.is_floating_point() else each)
    module.trainer = trainer
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    module.setup("fit")
    module.on_fit_start()
    configured: Any = module.configure_optimizers()
    if (stages := getattr(module, "stages", None)) is not None:
        return take_a_step_of_each_stage(module, trainer, batch, configured[0], stages)
    if not module.automatic_optimization:  # manual optimisation, or nothing to train
        if isinstance(configured, tuple):  # as Lightning returns one optimizer and one schedule, or several
            optimizers, schedulers = configured
            followed = [each["scheduler"] for each in schedulers]
            module.lr_schedulers = lambda: followed if len(followed) > 1 else followed[0]  # type: ignore[method-assign]
            configured = optimizers if len(optimizers) > 1 else optimizers[0]
        module.manual_backward = Tensor.backward  # type: ignore[method-assign, assignment]
        module.optimizers = lambda *args, **kwargs: configured  # type: ignore[method-assign]
        module.train()
        outputs = module.training_step(batch, 0)
        assert "logits" not in outputs or not outputs["logits"].requires_grad
        return outputs["loss"]
    [optimizer], [scheduler] = configured
    scheduler = scheduler["scheduler"] if isinstance(scheduler, dict) else scheduler
    module.train()
    module.on_train_start()
    module.on_train_epoch_start()
    module.on_train_batch_start(batch, 0)
    outputs = None

    def closure() -> Tensor:
        nonlocal outputs
        outputs = module.training_step(batch, 0)
        optimizer.zero_grad()
        outputs["loss"].backward()
        return outputs["loss"]

    module.optimizer_step(0, 0, optimizer, closure)
    module.on_train_batch_end(outputs, batch, 0)
    scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
    assert "logits" not in outputs or not outputs["logits"].requires_grad
    return outputs["loss"]


def take_a_step_of_each_stage(
    module: LightningModule, trainer: Any, batch: dict[str, Any], optimizers: list[Any], stages: Any
) -> Tensor:
    """Take a manual step in the last epoch of each stage, and check that some stage trains each parameter."""
    module.optimizers = lambda *args, **kwargs: optimizers  # type: ignore[method-assign]
    module.manual_backward = Tensor.backward  # type: ignore[method-assign, assignment]
    module.train()
    outputs: Any = None
    for trainer.current_epoch in {stages.stage(epoch): epoch for epoch in range(stages.total)}.values():
        outputs = module.training_step(batch, 0)
        assert "logits" not in outputs or not outputs["logits"].requires_grad
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)
    return outputs["loss"]


# The number of parameters before the classifier, and the number of input features of the classifier, as published or
# counted from the papers' tables.
PARAMETERS = {
    "CIFARResNet 20": (269_072, 64),
    "CIFARStemResNet 34": (21_276_992, 512),
    "DenseNetBC 100": (765_732, 342),
    "PreActResNet18": (11_166_144, 512),
    "resnet50": (23_508_032, 2048),
    "inception_resnet_v2": (54_306_464, 1536),
}


UNTRAINED = {
    **{
        f"scoredvi/{data}": "its denoisers come with their weights; it fits images"
        for data in ("cc", "crops", "crops_short", "fmd", "polyu", "sidd_val")
    },
    "scoredvi/denoisers": "its network is a template; the training of its denoisers is in its tests",
    **dict.fromkeys(
        ("scoredvi/crops_deep_image_prior", "scoredvi/crops_self2self"), "a network is fitted to each image in its test"
    ),
    **{
        name(path): "its network comes with its weights; it optimises images"
        for path in sorted((CONFIGS / "red_diff").glob("*.yaml"))
    },
    **dict.fromkeys(("bm3d/bsd68",), "it has nothing to train"),
    **dict.fromkeys(
        [
            f"noise_diffusion/{name}"
            for name in ("church_ve", "mnist", "mnist_baseline", "photographs", "stable_diffusion")
        ],
        "its networks come with their weights, and nothing is trained; small ones are in its tests",
    ),
    **dict.fromkeys(
        ("one_more_step/stable_diffusion",),
        "the model comes with its weights; a small one is in its tests",
    ),
    **{
        f"golden_noise/{name}": "its pipeline comes with its weights; a step at this scale is in its tests"
        for name in ("sdxl", "dreamshaper", "hunyuan_dit", "image_reward", "lcm", "lightning", "mps", "released")
    },
    **dict.fromkeys(
        ("score_sde/church_inpainting",),
        "the network comes with its weights; its layout is tested",
    ),
    "diffusion_guard/stable_diffusion": "its networks come with their weights; small ones are in its tests",
    **{
        f"stable_normal/{name}": "its networks come with their weights; small and weightless ones are in its tests"
        for name in ("marigold", "yoso", "turbo", "refiner", "stable_normal", "released_turbo")
    },
    **dict.fromkeys(
        ("meco/cifar10", "meco/digits"),
        "its noise is fitted to training images; small ones are tested",
    ),
    **dict.fromkeys(
        ("scale_mixture_nngp/mnist",),
        "its inducing inputs begin as training images, and gamma numbers have no gradient there; small ones are tested",
    ),
    **{
        name(path): "its path is followed on the host, which decides after each iteration"
        for path in sorted((CONFIGS / "colide").glob("*.yaml"))
    },
    **dict.fromkeys(
        ("sso/matrix_factorisation", "sso/mnist", "sso/mushrooms"),
        "its line search decides on the host after each try; tested there",
    ),
    **dict.fromkeys(("sso/hopper",), "its line search decides on the host, and its states are simulated"),
    **dict.fromkeys(
        ("score_estimation/credit_default", "score_estimation/wine"),
        "its width and step size follow from the demo's; tested there",
    ),
    **dict.fromkeys(("mbbo/a8a",), "its rows are of a file; small ones are tested"),
    **dict.fromkeys(
        ("nmtune/roberta_sst2", "nmtune/minilm_sst2", "nmtune/minilm_sst2_linear_probe"),
        "its features are means over a mask of texts, which transformers reads on the host; small ones are tested",
    ),
    **dict.fromkeys(("negvsr/released",), "it predicts by a checkpoint, and has no training set"),
    **dict.fromkeys(("mbbo/ml_1m",), "its users and items are of a file; few are tested"),
    "finetuning/mnist": "its last block owns the weights of a normalisation that it leaves out",
    **dict.fromkeys(
        ["finetuning/full"]
        + [
            name(path)
            for kind in ("lora", "inversion", "controlnet")
            for path in sorted((CONFIGS / "finetuning").glob(f"*{kind}.yaml"))
        ],
        "its pipeline comes with its weights; small ones are in its tests",
    ),
}
SHORTER = {  # all attack steps are alike, as are all descent iterations
    "adaptive_smoothing": ("--model.attack.steps", "1"),
    "sgd_noise": ("--model.iterations_per_step", "2"),
}
DEAR = {"adaptive_smoothing/cifar10", "adaptive_smoothing/cifar100", "lsa/webvision"}
DEAR |= {"denoised_smoothing/cifar10", "drs/cifar10", "adaptive_smoothing/cifar10_own_accurate"}
DEAR |= {"adaptive_smoothing/imagenet", "lsa/webvision_simclr", "lsa/webvision_plus"}
DEAR |= {"negvsr/reds", "negvsr/reds_stage1"}  # 30 frames
DEAR |= {"fractional_sde/moving_mnist", "fractional_sde/bridge", "optimistic_omd/digits", "sgmse/reverberant"}
DEAR |= {"score_sde/celebahq_256", "score_sde_released/cifar10_ve", "sgd_noise/cifar10_animals", "ediffsr/aid"}
DEAR |= {"rrcm/cifar10_pretraining", "nmtune/cifar10_vit_full", "batch_lr/cifar100_preresnet110"}
DEAR |= {"lsa/cifar100_web_noise_simclr", "diffusion_guard/defences", "consistency/cifar10"}


def architecture(network: Any) -> str:
    """Return the name of the network in a configuration, without the wrapper that normalises its input."""
    arguments = network.get("init_args", {})  # a class without arguments has no such entry
    if "network" in arguments:
        return architecture(arguments.network)
    if network.class_path.endswith(".timm_model"):
        return arguments.name.split(".")[0]
    return " ".join([network.class_path.rsplit(".", 1)[-1], *([str(arguments.depth)] if "depth" in arguments else [])])


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")  # PyTorch does not detect a step that a hook has taken
@pytest.mark.parametrize("arm", at_paper_scale(dear=DEAR))
def test_a_training_step_at_full_scale(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*arm.arguments, *SHORTER.get(arm.config.parent.name, ()))
    config = experiments().config(*arguments)
    assert_class_defaults(arm, config)
    if reason := UNTRAINED.get(name(arm), UNTRAINED.get(name(arm.config))):
        pytest.skip(reason)
    if arm.settings.get("data.training", "images") is None:
        pytest.skip("it has no training set")
    built = experiments().built(*arguments)
    monkeypatch.setattr(type(built.data), "num_train_samples", 50_000, raising=False)
    if hasattr(built.model, "num_classes"):  # pre-training without labels has no classes
        assert built.model.num_classes == built.data.num_classes
    trainer = Trainer(config.trainer, built.data, built.trainer.callbacks)
    loss = take_a_step(built.model, trainer, meta_batch(built.data))
    assert loss.shape == ()
    networks = [key for key in ("network", "second_network") if hasattr(built.model, key)]
    for key in networks:
        trained = [parameter for parameter in getattr(built.model, key).parameters() if parameter.requires_grad]
        assert trained
        counted = PARAMETERS.get(architecture(config.model.init_args[key]))
        if counted is not None:
            body, features = counted
            num_parameters = sum(parameter.numel() for parameter in getattr(built.model, key).parameters())
            assert num_parameters == body + (features + 1) * built.model.num_classes
    parameters = getattr(built.model, "network", built.model).parameters()
    stepped = [parameter.grad is not None for parameter in parameters if parameter.requires_grad]
    assert all(stepped) or not loss.requires_grad  # detectors train nothing


class Waits(LightningModule):
    """A module whose training step applies a given function to the logits."""

    def __init__(self, action: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network = MLP(64, [8], 10)
        self.action = action

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        logits = self.network(batch["image"])
        self.action(logits.detach())
        return {"loss": nn.functional.cross_entropy(logits, batch["label"])}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer)]


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
@pytest.mark.parametrize(
    "action",
    [
        lambda logits: logits.sum().item(),
        lambda logits: bool(logits.max() > 0),
        lambda logits: logits[logits > 0],
        lambda logits: logits.nonzero(),
        lambda logits: logits.argmax(dim=1).unique(),
        lambda logits: logits.argmax(dim=1).bincount(),
        lambda logits: logits.cpu(),
        lambda logits: logits.tolist(),
    ],
)
def test_a_step_that_waits_for_the_device_fails(action: Callable[[Tensor], object]) -> None:
    trainer = Trainer(types.SimpleNamespace(accumulate_grad_batches=1, max_epochs=1), data=None)
    batch = {"image": torch.empty(4, 1, 8, 8, device="meta"), "label": torch.empty(4, dtype=torch.int64, device="meta")}
    take_a_step(Waits(lambda logits: logits.argmax(dim=1)), trainer, batch)
    with pytest.raises((RuntimeError, NotImplementedError)):
        take_a_step(Waits(action), trainer, batch)
