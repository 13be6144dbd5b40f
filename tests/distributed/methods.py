"""A row per method, with the changes that the generic tests make to its demo, and the reasons for these changes.

`tests/conformance` applies the changes in `short`; `tests/distributed/test_methods.py` also applies those in `alike`,
so that two processes can give the same result as one. A demo without a row runs unchanged.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LEFT_OUT = object()
"""Marks a key that must be removed."""

DESCENT = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}}  # Adam amplifies rounding errors
NOISE_CONDITIONAL = "lightning_modules.networks.noise_conditional_wide_resnet"
SSO = "lightning_modules.optimization.sso"
SEGMENTER = "tests.distributed.segmenter.Segmenter"


@dataclass(frozen=True)
class Method:
    """Changes to a method's demo for generic tests.

    Args:
        config: the demo, such as `elr/demo`.
        short: changes in every test, keyed by dotted names; a number is a position in a list.
        alike: additional changes for comparisons of two processes with one.
        clips: key with which the method clips gradients; None for manual optimisation without clipping.
        trains: whether the method computes gradients.
        tests: whether there is a test step.
        predicts: whether the demo's data support prediction, if there is a prediction step.
        alone: whether the method rejects several processes.
        double: whether the method rejects every precision except 64 bit.
        accuracy: tolerance for the tables of two processes, if a metric is averaged in float32.
        strategy: strategy for two processes.
    """

    config: str
    short: Mapping[str, Any] = field(default_factory=dict)
    alike: Mapping[str, Any] = field(default_factory=dict)
    clips: str | None = "trainer.gradient_clip_val"
    trains: bool = True
    tests: bool = True
    predicts: bool = True
    alone: bool = False
    double: bool = False
    accuracy: float = 1e-10
    strategy: str = "ddp_find_unused_parameters_true"

    @property
    def pretrained(self) -> dict[str, Any]:
        """Return the changes that remove callbacks which pre-train in one process, for runs with several processes."""
        keys = [key for key, value in self.alike.items() if value is LEFT_OUT]
        return {key: LEFT_OUT for key in keys if re.fullmatch(r"trainer\.callbacks\.-?\d+", key)}


DIGITS = {"data.init_args.batch_size": 333}  # four batches of 1,300 images, the last one of 301: all of them odd
DIGITS_WITH_VALIDATION = {"data.init_args.batch_size": 301}  # four of 1,170 images, the last one of 267
DIGITS_331 = {"class_path": "datamodules.classification.digits.Digits", "init_args": {"train_size": 331}}
FEW_DIGITS = {"data.init_args.batch_size": 101, "data.init_args.images": DIGITS_331}  # 101, 101, 101 and 28
CONTRAST = {
    "class_path": "lightning_modules.probabilistic.meco.objectives.NoiseContrastive",
    "init_args": {"start": -0.919},
}
FEW_DIGITS_64 = {"data.init_args.batch_size": 101, "data.init_args.images.init_args.train_size": 331}
FEW_PIXELS = {  # 4 tokens per image instead of 16
    "data.init_args.images.init_args.image_size": 32,
    "model.init_args.network.init_args.image_size": 32,
}
CERTIFIED = {  # ten votes per image, and few images
    "trainer.callbacks.-1.init_args.mode.init_args": {"n0": 10, "n": 100, "alpha": 0.001},
    "trainer.callbacks.-1.init_args.skip": 80,
}
CLUSTERS = {  # 157 samples in batches of 49, the last one of 10; evaluation batches of 32, the last one of 29
    "data.init_args.batch_size": 49,
    "data.init_args.images": {
        "class_path": "datamodules.classification.clustered.Clustered",
        "init_args": {"num_clean": 90, "num_foreign": 67, "num_test": 29},
    },
    "data.init_args.loading.evaluation_batch_size": 32,
    "model.init_args.correction.warmup_epochs": 1,  # detection has happened in the second epoch
}
SOME_NOISY = {"model.init_args.detection.threshold": 0.6}
SHAPES = {  # batches of 7, 7 and 5
    "data.init_args.batch_size": 7,
    **{
        f"data.init_args.images.init_args.{key}": value
        for key, value in {"num_train": 19, "num_val": 3, "num_test": 3, "image_size": 16}.items()
    },
    "model.init_args.network.init_args.widths": [4, 8],
}
WITHOUT_BATCH_NORM = {
    "model.init_args.network.class_path": SEGMENTER,
    "model.init_args.network.init_args.widths": LEFT_OUT,
    "model.init_args.network.init_args.halved": LEFT_OUT,
    "model.init_args.network.init_args.dropout": LEFT_OUT,
}
PHOTOGRAPHS = {  # batches of 7, 7 and 6 patches; three images for validation and testing, in batches of 2 and 1
    "data.init_args.batch_size": 7,
    "data.init_args.patches.size": 16,
    "data.init_args.patches.per_image": 2,
    "data.init_args.loading.evaluation_batch_size": 2,
    **{
        f"data.init_args.{key}": {
            "class_path": "datamodules.restoration.photographs.Photographs",
            "init_args": {"image_size": size},
        }
        for key, size in {"training": 40, "validation": 24, "test": 24}.items()
    },
    "model.init_args.network.init_args.features": 4,
}
SMALL_PHOTOGRAPHS = {"class_path": "datamodules.restoration.photographs.Photographs", "init_args": {"image_size": 40}}
UNET_DISCRIMINATOR = {
    "class_path": "lightning_modules.networks.unet_discriminator.UNetDiscriminator",
    "init_args": {"in_channels": 1, "width": 4},
}


def moving_photographs(**arguments: int) -> dict[str, Any]:
    """Return the settings of a clip dataset."""
    return {
        "class_path": "datamodules.video.moving_photographs.MovingPhotographs",
        "init_args": {"image_size": 16, "photograph_size": 48, **arguments},
    }


BLIND_SPOT = {  # batches of 8, 8 and 5 patches of the three test images, in batches of 2 and 1
    "data.init_args.batch_size": 8,
    "data.init_args.patches.size": 12,
    "data.init_args.patches.per_image": 7,
    "data.init_args.loading.evaluation_batch_size": 2,
    "data.init_args.training.init_args.images.init_args.image_size": 36,
    "data.init_args.test.init_args.image_size": 36,
}
PATCHES, COLOUR_PATCHES = (  # 20 patches: batches of 7, 7 and 6
    {
        "data.init_args.batch_size": 7,
        "data.init_args.patches.size": 8,
        "data.init_args.patches.per_image": 2,
        **{
            f"data.init_args.{key}": {
                "class_path": "datamodules.restoration.photographs.Photographs",
                "init_args": {"image_size": size, "colour": colour},
            }
            for key, size in {"training": 40, "test": 36}.items()
        },
    }
    for colour in (False, True)
)
SURFACES = {  # 20 surfaces: batches of 7, 7 and 6; five for testing, in batches of 2, 2 and 1
    "data.init_args.batch_size": 7,
    "data.init_args.loading.evaluation_batch_size": 2,
    **{
        f"data.init_args.{key}.init_args": {"image_size": 12, "num_training": 20, "num_test": 5}
        for key in ("training", "test")
    },
    "model.init_args.draws": 2,
    "model.init_args.steps": 4,
}
MEASUREMENTS = {  # 201 measurements, 101 and 100 of them on two processes, three times per epoch
    "data.init_args.table.init_args.measurements": 201,
    "data.init_args.table.init_args.dim": 6,
    "data.init_args.loading.passes_per_epoch": 3,
    "model.init_args.dim": 6,
}
SIGNED_DIGITS = {  # 61 images in batches of 21, 21 and 19, and 29 test images
    "data.init_args.batch_size": 21,
    "data.init_args.loading.passes_per_epoch": 1,
    "data.init_args.table.init_args.num_points": 61,
    "data.init_args.table.init_args.num_test": 29,
}
GRAPH = {  # three steps per epoch, and a path of five
    "data.init_args.table.init_args": {"nodes": 6, "edges": 8, "samples": 51},
    "data.init_args.loading.passes_per_epoch": 3,
    "model.init_args": {"nodes": 6, "schedule": {"warm_iterations": 30, "iterations": 70}, "iterations_per_step": 30},
}
STREAM = {  # 67 rounds in batches of 20, 20, 20 and 7; of three rows per round, the processes have two and one
    "data.init_args.table.init_args": {"rounds": 67, "sigma": 0.5, "changes": 2},
    "data.init_args.batch_size": 20,
    "model.init_args.rows_per_round": 3,
}
MASKS = {  # batches of 101, 101, 101 and 28; one epoch under masks, one of tuning
    "data.init_args.images.init_args.train_size": 331,
    "data.init_args.batch_size": 101,
    "data.init_args.ood_test_sets.smooth_masks.init_args.images.init_args.train_size": 1700,
    "model.init_args.mask_epochs": 1,
}
AVERAGED = {"model.init_args.averaged_epochs": 2}  # a stop is between the ends of two epochs
UNDER_MASKS = {
    "model.init_args.network": {
        "class_path": "lightning_modules.networks.convnet.ConvNet",
        "init_args": {"in_channels": 1, "channels": [8], "num_classes": 10},
    },
    "model.init_args.policy": {
        "class_path": "lightning_modules.networks.mlp.MLP",
        "init_args": {"in_features": 256, "hidden_features": [], "out_features": 128},
    },
}
TRANSLATION = ("mask_generator", "image_generator", "image_discriminator", "mask_discriminator")


def flow_finetuning(family: str, **data: Any) -> Method:
    """Tune adapters of a tiny flow-matching pipeline on 17 images, in batches of 6, 6 and 5; 3 images are held out.

    Args:
        family: the pipeline, see `tests.distributed.flow_models.tiny_flow_model`.
        data: further arguments of the DataModule.
    """
    return Method(
        "finetuning/demo",
        {
            "data.init_args.images.init_args.images": {
                "class_path": "tests.distributed.flow_models.ColouredDigits",
                "init_args": {"train_size": 20},
            },
            "data.init_args.batch_size": 6,
            "data.init_args.validation_fraction": 0.15,
            "data.init_args.loading.evaluation_batch_size": 2,
            "model.init_args.network": {
                "class_path": "tests.distributed.flow_models.tiny_flow_model",
                "init_args": {"family": family},
            },
            "model.init_args.caption_dropout": 0.3,
            "model.init_args.flow": {"weighting": "cosmap"},
            "model.init_args.average_on_cpu": family == "flux",
            "model.init_args.sampling.steps": 1,
            "trainer.check_val_every_n_epoch": 1,
            "trainer.callbacks": LEFT_OUT,
            **{f"data.init_args.{key}": value for key, value in data.items()},
        },
        {"model.init_args.optimizer": DESCENT},
        accuracy=1e-6,  # the mean of held-out errors
    )


CONDITIONED_DIGITS = {"class_path": "tests.distributed.flow_models.ConditionedDigits", "init_args": {"count": 20}}
FINETUNING = "lightning_modules.diffusion.finetuning"
ON_FROZEN_PIPELINE = {
    **{key: value for key, value in flow_finetuning("flux").short.items() if "model" not in key},
    "model.init_args.network": {"class_path": "tests.distributed.flow_models.tiny_frozen_model"},
    "model.init_args.sampling.steps": 1,
}
"""Settings for training with a frozen pipeline, on the images of `flow_finetuning`."""


def conditioned_digits(count: int, image_size: int, **options: float) -> dict[str, Any]:
    """Return the settings of a dataset of coloured digits with condition images, in a run on several datasets."""
    arguments = {"count": count, "image_size": image_size}
    return {
        "images": {"class_path": "tests.distributed.flow_models.ConditionedDigits", "init_args": arguments},
        **options,
    }


METHODS = {
    "elr": Method("elr/demo", DIGITS_WITH_VALIDATION),
    "cross_entropy": Method("elr/demo_baseline", DIGITS_WITH_VALIDATION),
    "tract": Method(
        "tract/demo",
        {  # four batches of 1,508 patches, the last one of 305
            "data.init_args.batch_size": 401,
            "model.init_args.network.init_args.network.init_args.channels": [4, 6],
        },
        {"model.init_args.sync_gram": True},
    ),
    "wta_crs": Method(
        "wta_crs/demo",
        {
            **FEW_DIGITS_64,
            "trainer.limit_test_batches": 3,
            **FEW_PIXELS,
        },
        {
            "model.init_args.shares": 2,
            "model.init_args.attention": ["*.attn"],
            "model.init_args.compact": True,
            "model.init_args.optimizer": DESCENT,
            "trainer.callbacks.0": LEFT_OUT,  # each process saves activations of its own share
        },
    ),
    "nm_sparsity": Method(
        "nm_sparsity/demo",
        {
            **FEW_DIGITS_64,
            "trainer.limit_test_batches": 3,
            **FEW_PIXELS,
            "model.init_args.flow.fine_tune_epochs": 0,
        },
        {"model.init_args.optimizer": DESCENT},
    ),
    "nm_sparsity_frames": Method(
        "nm_sparsity/demo_mlp",
        {
            **FEW_DIGITS,
            "model.init_args.flow": {"way": "sdgf_geometric"},
            "model.init_args.pattern.m": 8,
        },
        {"model.init_args.optimizer": DESCENT},
    ),
    "ofq": Method(
        "ofq/demo",
        {  # the second epoch is annealed
            **FEW_DIGITS_64,
            "trainer.limit_test_batches": 3,
            "model.init_args.annealed_epochs": 1,
            "model.init_args.boundary": 0.1,
            "trainer.callbacks.2.init_args.max_epochs": 1,
            "trainer.callbacks.2.init_args.data.init_args.images.init_args.train_size": 131,
        },
        {
            "model.init_args.optimizer": DESCENT,
            "model.init_args.network.class_path": "tests.distributed.transformer.biased_transformer",
            "trainer.callbacks.2": LEFT_OUT,  # it trains in one process
        },
    ),
    "sgd_noise": Method(
        "sgd_noise/demo",
        {  # processes have 31 and 30 of 61 points, batches of 7, and 29 test images in batches of 8, the last of 5
            "data.init_args.table.init_args.num_points": 61,
            "data.init_args.table.init_args.num_test": 29,
            "data.init_args.loading.evaluation_batch_size": 8,
            "model.init_args.batch_size": 7,
            "model.init_args.iterations_per_step": 9,
        },
        clips=None,
    ),
    "sgd_noise_sde": Method(
        "sgd_noise/demo",
        {
            "data.init_args.table.init_args.num_points": 61,
            "data.init_args.table.init_args.num_test": 29,
            "model.init_args.batch_size": 7,
            "model.init_args.iterations_per_step": 4,
            "model.init_args.dynamics": "sde",
            "model.init_args.loss": "soft_hinge",
        },
        clips=None,
    ),
    "sgd_noise_perceptron": Method(
        "sgd_noise/demo_perceptron",
        {"data.init_args.table.init_args.num_points": 61, "model.init_args.iterations_per_step": 7},
        clips=None,
    ),
    "benign_oscillation": Method(
        "benign_oscillation/demo",
        {  # processes have 4 and 3 of seven points, and 15 and 14 of 29 test points, in batches of 8, the last of 5
            "model.init_args.replicas": 3,
            "model.init_args.iterations_per_step": 17,
            "data.init_args.table.init_args": {"replicas": 3, "num_points": 7, "num_test": 29, "num_weak_test": 11},
            "data.init_args.loading.passes_per_epoch": 3,
            "data.init_args.loading.evaluation_batch_size": 8,
        },
        clips=None,
        double=True,
    ),
    "batch_lr": Method(  # spectra of 90 images in batches of 9 and 17; rates learned from 61
        "batch_lr/demo",
        {
            **FEW_DIGITS,
            "model.init_args.reference_batch_size": 202,
            "model.init_args.learner": {
                "class_path": "lightning_modules.dynamics.batch_lr.OnlineLearner",
                "init_args": {"rule": "ssgdm", "every_n_epochs": 1, "samples": 61, "steps": 6, "images_at_once": 20},
            },
            "model.init_args.spectra.init_args": {
                **{"batch_sizes": [9, 17], "draws": 2, "steps": 4, "samples": 90, "noise_batch": 17},
                **{"directions": 2, "images_at_once": 20},
            },
        },
    ),
    "sso": Method(
        "sso/demo",
        {**SIGNED_DIGITS, "model.init_args.target_step": {"class_path": f"{SSO}.LineSearchStep"}},
        clips=None,
    ),
    "sso_of_samples": Method(
        "sso/demo",
        {**SIGNED_DIGITS, "model.init_args.target_step": {"class_path": f"{SSO}.DiagonalAdaGradStep"}},
        clips=None,
    ),
    "sso_svrg": Method(
        "sso/demo_svrg",
        {
            **{key: value for key, value in SIGNED_DIGITS.items() if "batch_size" not in key},
            "data.init_args.loading.passes_per_epoch": 3,
            "model.init_args.svrg.init_args": {"samples_per_step": 7, "every": 3},
        },
        clips=None,
    ),
    "sso_imitation": Method(
        "sso/demo_imitation",
        {
            "data.init_args": {
                **{"environment": "CartPole-v1", "rounds": 3, "samples_per_round": 21, "environments": 2},
                **{"expert": {"class_path": "datamodules.rollouts.experts.CartPoleLQR"}, "measured_samples": 30},
                "episodes": 3,
            },
        },
        clips=None,
    ),
    "descent": Method("sso/demo_baseline", SIGNED_DIGITS),
    "line_search_descent": Method("sso/demo_sls", SIGNED_DIGITS, clips=None),
    "noise_mask": Method("noise_mask/demo", MASKS, UNDER_MASKS),
    "noise_mask_reinforce": Method(
        "noise_mask/demo_reinforce", {**MASKS, "model.init_args.mask_epochs": 2, **AVERAGED}, UNDER_MASKS
    ),
    "elr_plus": Method("elr_plus/demo", DIGITS_WITH_VALIDATION),
    "lsa": Method("lsa/demo", CLUSTERS, SOME_NOISY),
    "pls": Method(
        "lsa/demo",
        {
            **CLUSTERS,
            "model.init_args.detection.detectors": ["loss"],
            "model.init_args.correction.guess_views": 2,
            "model.init_args.loss.confidence": True,
        },
        SOME_NOISY,
    ),
    "lsa_plus": Method("lsa_plus/demo", CLUSTERS, SOME_NOISY),
    "simclr": Method(
        "lsa/demo",
        {
            **{key: value for key, value in CLUSTERS.items() if key.startswith("data.")},
            "model": {
                "class_path": "lightning_modules.baselines.SimCLR",
                "init_args": {
                    "network": {
                        "class_path": "lightning_modules.networks.mlp.MLP",
                        "init_args": {"in_features": 24, "hidden_features": [12, 10], "out_features": 6},
                    },
                    "num_classes": 6,
                    "view": {"class_path": "lightning_modules.views.AddedNoise", "init_args": {"sigma": 0.05}},
                    "optimizer": DESCENT,
                },
            },
        },
        tests=False,  # its result is tested by the methods that build on it
    ),
    "nmtune": Method(
        "nmtune/demo",
        {
            "data.init_args.batch_size": 131,  # 131, 131, 131 and 7 of 400 images
            "trainer.callbacks.-1.init_args.max_epochs": 1,
        },
        {
            # its BatchNorm, covariances and singular values depend on a process's share
            "model.init_args.adapter": False,
            "model.init_args.optimizer": DESCENT,
            "trainer.callbacks.-1": LEFT_OUT,  # pre-training requires one process
        },
        accuracy=1e-8,  # entropies of singular values, which are square roots of the eigenvalues of a sum
    ),
    "adele": Method(
        "adele/demo",
        {**SHAPES, "trainer.callbacks.0.init_args.r": 0.0, "trainer.callbacks.0.init_args.min_jump": LEFT_OUT},
        WITHOUT_BATCH_NORM,
    ),
    "segmentation_cross_entropy": Method(
        "adele/demo_baseline",
        SHAPES,
        WITHOUT_BATCH_NORM,
    ),
    "annotation_efficient": Method(
        "annotation_efficient/demo",
        {  # all stages within five epochs; 21 images in batches of 8: the last one, of 5, is split into 3 and 2
            **{f"model.init_args.stages.{part}_epochs": 1 for part in ("vae", "translation", "warm_up", "round")},
            "model.init_args.stages.rounds": 1,
            "model.init_args.network.init_args.widths": [4, 8],
            "model.init_args.vae.init_args.widths": [4, 4, 4, 4],
            **{f"model.init_args.translation.init_args.{part}.init_args.width": 4 for part in TRANSLATION},
            "trainer.max_epochs": 4,
            "data.init_args.images.init_args.num_training": 21,
            "data.init_args.images.init_args.num_validation": 7,
            "data.init_args.images.init_args.num_test": 5,
        },
        {
            **WITHOUT_BATCH_NORM,
            "model.init_args.optimizer": DESCENT,
            "model.init_args.translation_optimizer": DESCENT,
            "model.init_args.vae_optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-4}},
        },
        clips=None,
        accuracy=1e-5,  # Dice of the kept labels, and distances in pixels
    ),
    "consistency": Method(
        "consistency/demo", {**DIGITS_WITH_VALIDATION, **CERTIFIED}, {"model.init_args.optimizer": DESCENT}
    ),
    "drs": Method("drs/demo", {**DIGITS_WITH_VALIDATION, **CERTIFIED}, {"model.init_args.optimizer": DESCENT}),
    "dds": Method(
        "denoised_smoothing/demo",
        {**FEW_DIGITS, **CERTIFIED, "model.init_args.denoiser.init_args.block_out_channels": [8, 8]},
        {"model.init_args.optimizer": DESCENT},
    ),
    "diffusion_finetuning": Method(
        "finetuning/demo",
        {  # 298 images in batches of 101, 101 and 96; 33 held-out images in batches of 16, 16 and 1
            "data.init_args.images.init_args.images": DIGITS_331,
            "data.init_args.batch_size": 101,
            "data.init_args.loading.evaluation_batch_size": 16,
            "trainer.check_val_every_n_epoch": 1,
            "model.init_args.sampling.steps": 2,
            "model.init_args.network.init_args.network.init_args.block_out_channels": [8, 16],
        },
        {"model.init_args.optimizer": DESCENT},
        accuracy=1e-6,  # the mean of held-out errors
    ),
    **{f"flow_finetuning_{family}": flow_finetuning(family) for family in ("flux", "stable_diffusion_3")},
    "flow_finetuning_flux_kontext": flow_finetuning(
        "flux_kontext", images=CONDITIONED_DIGITS, augmentation={"flip": True}, loading={"num_workers": 0}
    ),
    "flow_finetuning_wan": flow_finetuning(
        "wan", **{"images.class_path": "tests.distributed.flow_models.MovingDigits", "augmentation": {"flip": True}}
    ),
    "textual_inversion": Method(
        "finetuning/demo",
        {
            **ON_FROZEN_PIPELINE,
            "model.class_path": f"{FINETUNING}.TextualInversion",
            "model.init_args.average_decay": LEFT_OUT,
            "model.init_args.placeholder_token": "<x>",
            "model.init_args.initializer_token": "b",
            "model.init_args.num_vectors": 2,
            "model.init_args.templates": ["a {}", "the {}"],
            "data.init_args.images": {
                "class_path": "tests.distributed.flow_models.WithoutCaptions",
                "init_args": {"images": ON_FROZEN_PIPELINE["data.init_args.images.init_args.images"]},
            },
        },
        {"model.init_args.optimizer": DESCENT},
        accuracy=1e-6,  # the mean of held-out errors
    ),
    "controlnet": Method(
        "finetuning/demo",
        {
            **ON_FROZEN_PIPELINE,
            "model.class_path": f"{FINETUNING}.ControlNet",
            "model.init_args.average_decay": 0.5,
            "model.init_args.caption_dropout": 0.3,
            "data.init_args.images": CONDITIONED_DIGITS,
            "data.init_args.augmentation": {"flip": True},
            "data.init_args.loading.num_workers": 0,
        },
        {"model.init_args.optimizer": DESCENT},
        accuracy=1e-6,  # the mean of held-out errors
    ),
    "dpo": Method(
        "finetuning/demo",
        {
            **ON_FROZEN_PIPELINE,
            "model.init_args.network": {
                "class_path": "tests.distributed.flow_models.tiny_flow_model",
                "init_args": {"family": "stable_diffusion_3"},
            },
            "model.init_args.loss": {"dpo_beta": 100.0},
            "model.init_args.average_decay": 0.0,
            "model.init_args.caption_dropout": 0.3,
            "data.init_args.images": {  # 16 or fewer samples of 16 pixels and 6 or fewer of 32, with two weights
                "class_path": "datamodules.prompts.several_sets.SeveralSets",
                "init_args": {"sets": [conditioned_digits(8, 16, repeats=2), conditioned_digits(6, 32, weight=0.5)]},
            },
            "data.init_args.augmentation": {"flip": True},
            "data.init_args.loading.num_workers": 0,
        },
        {"model.init_args.optimizer": DESCENT},
        accuracy=1e-6,  # the mean of held-out errors
    ),
    "rrcm_pretraining": Method(
        "rrcm/demo",
        FEW_DIGITS,
        {
            "model.init_args.projector.init_args.batch_norm": False,
            "model.init_args.clipping.norm": 0.5,
            "model.init_args.optimizer": DESCENT,
        },
        clips="model.init_args.clipping.norm",
    ),
    "rrcm": Method(
        "rrcm/demo_finetuning",
        {
            **CERTIFIED,
            "trainer.callbacks.0": LEFT_OUT,  # pre-training has its own row
            "data.init_args.batch_size": 131,
        },
        {
            "model.init_args.optimizer": DESCENT,
            "model.init_args.layer_decay": 0.5,
            "model.init_args.soft_labels": {"class_path": "lightning_modules.losses.mixing.SoftLabels"},
        },
    ),
    "adversarial_training": Method(
        "elr/demo_baseline",
        {
            **DIGITS_WITH_VALIDATION,
            "model.class_path": "lightning_modules.robustness.adversarial_training.AdversarialTraining",
            "model.init_args.q": LEFT_OUT,
            "model.init_args.binary": LEFT_OUT,
            "model.init_args.soft_labels": LEFT_OUT,
            "model.init_args.epsilon": 0.1,
            "model.init_args.steps": 2,
            "trainer.callbacks": [],  # these are computed from noisy labels
        },
    ),
    "adaptive_smoothing": Method(
        "adaptive_smoothing/demo",
        {
            **DIGITS,
            "model.init_args.attack.steps": 2,
            "trainer.callbacks.3.init_args.alphas": [0.3, 0.8],
            "trainer.callbacks.3.init_args.attack.init_args.steps": 2,
            "trainer.callbacks.2.init_args.attacks.0.init_args.steps": 2,
            "trainer.callbacks.1": LEFT_OUT,  # the other kind of pre-training is equivalent here
            "trainer.callbacks.0.init_args.max_epochs": 1,
        },
        {
            "model.init_args.optimizer": DESCENT,
            "model.init_args.attack.norm": "l2",  # a gradient that is zero up to rounding has an arbitrary sign
            "model.init_args.attack.epsilon": 0.5,
            "trainer.callbacks.0": LEFT_OUT,  # pre-training requires one process
        },
    ),
    "mahalanobis": Method(
        "mahalanobis/demo",
        {
            "trainer.max_epochs": 1,
            "trainer.callbacks.1.init_args.max_epochs": 2,
            "model.init_args.network.init_args.channels": [6, 8],
            "trainer.callbacks.1.init_args.model.init_args.network.init_args.channels": [6, 8],
            "model.init_args.layers": ["relu1", "relu2"],
            "model.init_args.num_validation": 30,
            "data.init_args.batch_size": 301,
            "data.init_args.loading.evaluation_batch_size": 57,
            "data.init_args.ood.photograph.init_args.num_images": 61,
            "data.init_args.ood.uniform_noise.init_args.num_images": 61,
        },
        {"trainer.callbacks.1": LEFT_OUT},  # pre-training requires one process
        clips=None,
        trains=False,
    ),
    "class_incremental": Method(
        "mahalanobis/class_incremental",
        {
            "trainer.callbacks.1.init_args.max_epochs": 2,
            "model.init_args.base_classifier.init_args.channels": [6, 8],
            "trainer.callbacks.1.init_args.model.init_args.network.init_args.channels": [6, 8],
            "model.init_args.layer": "relu2",
            "data.init_args.batch_size": 301,
            "data.init_args.loading.evaluation_batch_size": 57,
        },
        {"trainer.callbacks.1": LEFT_OUT},  # pre-training requires one process
        clips=None,
        trains=False,
    ),
    "diffusionguard": Method(
        "diffusion_guard/demo",
        {
            "data.init_args.batch_size": 33,
            "data.init_args.loading.evaluation_batch_size": 5,
            "data.init_args.images.init_args.num_test_images": 8,
            "model.init_args.attack.iterations": 2,
            "model.init_args.inpainter.init_args.num_inference_steps": 4,
            "trainer.limit_train_batches": 4,
        },
        {"model.init_args.optimizer": DESCENT},
        accuracy=1e-5,  # PSNR of edits that are rounded to float32
    ),
    "supervised_restoration": Method(
        "supervised_restoration/demo", PHOTOGRAPHS, {"model.init_args.optimizer": DESCENT}
    ),
    "ediffsr": Method(
        "ediffsr/demo",
        {  # batches of 7, 7 and 6 patches; three test images, in batches of 2 and 1
            "data.init_args.batch_size": 7,
            "data.init_args.patches.per_image": 2,
            "data.init_args.loading.evaluation_batch_size": 2,
            "data.init_args.training.init_args.images": SMALL_PHOTOGRAPHS,
            "data.init_args.test.init_args.images": SMALL_PHOTOGRAPHS,
            "model.init_args.network.init_args.encoder": [1],
            "model.init_args.sampler": "posterior",
            "model.init_args.sampling_steps": 3,
        },
        {"model.init_args.optimizer": DESCENT},
    ),
    **{
        name: Method(
            "sgmse/demo",
            {  # batches of 7, 7 and 5 crops; five test recordings, in batches of 2, 2 and 1
                "data.init_args.batch_size": 7,
                "data.init_args.loading.evaluation_batch_size": 2,
                "data.init_args.training.init_args.samples": 19,
                **{f"data.init_args.{split}.init_args.test_samples": 5 for split in ("validation", "test")},
                "trainer.check_val_every_n_epoch": 1,
                "model.init_args.network.init_args.block_out_channels": [8, 16],
                **own,
            },
            {"model.init_args.optimizer": {**DESCENT, "init_args": {"lr": 1.0e-5}}},  # the loss is a sum
        )
        for name, own in {
            "sgmse": {"model.init_args.num_steps": 2},
            "spectral_regression": {
                "model.class_path": "lightning_modules.restoration.sgmse.SpectralRegression",
                "model.init_args.average_decay": LEFT_OUT,
            },
        }.items()
    },
    **{
        f"negvsr{stage}": Method(
            "negvsr/demo",
            {  # batches of 7, 7 and 5 clips; five test clips, in batches of 2, 2 and 1
                "data.init_args.batch_size": 7,
                "data.init_args.loading.evaluation_batch_size": 2,
                "data.init_args.training": moving_photographs(samples=19),
                "data.init_args.test": moving_photographs(test_samples=5),
                "data.init_args.windows.size": 16,
                "model.init_args.network.init_args.width": 4,
                **more,
            },
            {f"model.init_args.{kind}optimizer": DESCENT for kind in ("", "discriminator_" * bool(stage))},
            clips=None if stage else "trainer.gradient_clip_val",
        )
        for stage, more in (("", {}), ("_second_stage", {"model.init_args.discriminator": UNET_DISCRIMINATOR}))
    },
    "noise2noise": Method("noise2noise/demo", PHOTOGRAPHS, {"model.init_args.optimizer": DESCENT}),
    "cbsn": Method(
        "cbsn/demo",
        {**BLIND_SPOT, "model.init_args.network.init_args.modules": 1, "model.init_args.ramp_steps": 3},
        {"model.init_args.optimizer": DESCENT},
    ),
    **{
        name: Method(
            f"{name}/demo",
            {**BLIND_SPOT, "model.init_args.network.init_args.network.init_args.modules": 1},
            {"model.init_args.optimizer": DESCENT},
        )
        for name in ("sdap", "ap_bsn")
    },
    "noise2void": Method("noise2void/demo", PHOTOGRAPHS, {"model.init_args.optimizer": DESCENT}),
    "noise2score": Method(
        "noise2score/demo",
        {**PATCHES, "model.init_args.network.init_args.features": 4, "model.init_args.anneal_images": 9},
        {"model.init_args.optimizer": DESCENT},
    ),
    "noise2score_blind": Method(
        "noise2score/demo_blind",
        {**PATCHES, "model.init_args.network.init_args.features": 4},
        {"model.init_args.optimizer": DESCENT},
    ),
    "scoredvi": Method(
        "scoredvi/demo",
        {
            **COLOUR_PATCHES,
            **{f"model.init_args.denoisers.{k}.init_args": {"depth": 3, "features": 4} for k in range(3)},
            "model.init_args.network.init_args.widths": [4, 4],
            "model.init_args.fitting.steps": 2,
        },
        {  # a bias-free DnCNN divides by the standard deviations of a process's share
            "model.init_args.optimizer": DESCENT,
            **{
                f"model.init_args.denoisers.{k}": {
                    "class_path": "lightning_modules.networks.dncnn.DnCNN",
                    "init_args": {"channels": 3, "depth": 2, "features": 4},
                }
                for k in range(3)
            },
        },
    ),
    "score_sde": Method(
        "score_sde/demo",
        {
            **FEW_DIGITS,
            "data.init_args.loading.passes_per_epoch": 1,
            "model.init_args.network.init_args.width": 16,
            "model.init_args.sampler.init_args.num_steps": 4,
            "trainer.callbacks.0.init_args.num_samples": 70,
            "trainer.callbacks.0.init_args.batch_size": 30,
        },
        {"model.init_args.optimizer": DESCENT},
        predicts=False,  # it predicts with measured images
        accuracy=1e-5,  # features are in single precision
    ),
    "score_sde_inpainting": Method(
        "score_sde/demo_inpainting",
        {  # 331 patches in batches of 101, 101, 101 and 28; 497 test images, the last batch of 97
            "data.init_args.batch_size": 101,
            "data.init_args.patches.per_image": 1,
            "data.init_args.loading.evaluation_batch_size": 100,
            "data.init_args.training.init_args.images": DIGITS_331,
            "model.init_args.network.init_args.width": 16,
            "model.init_args.sampler.init_args": {"corrector": "none", "num_steps": 4},  # its norms depend on the batch
        },
        {"model.init_args.optimizer": DESCENT},
    ),
    "noise_conditional_classifier": Method(
        "score_sde/demo",
        {
            **FEW_DIGITS,
            "data.init_args.loading.passes_per_epoch": 1,
            "model": {
                "class_path": "lightning_modules.diffusion.score_sde.NoiseConditionalClassifier",
                "init_args": {
                    "network": {
                        "class_path": f"{NOISE_CONDITIONAL}.NoiseConditionalWideResNet",
                        "init_args": {"depth": 10, "width": 1, "in_channels": 1},
                    },
                    "num_classes": 10,
                    "process": {"class_path": "lightning_modules.sde.processes.VE"},
                },
            },
            "trainer.callbacks": [],  # the classifier generates no images
        },
        {"model.init_args.optimizer": DESCENT},
    ),
    "stable_normal": Method(
        "stable_normal/demo",
        SURFACES,
        {"model.init_args.optimizer": DESCENT},
    ),
    "eld": Method(
        "eld/demo",
        {  # 20 patches: batches of 7, 7 and 6; three test images, in batches of 2 and 1
            "data.init_args.batch_size": 7,
            "data.init_args.patches.size": 8,
            "data.init_args.patches.per_image": 2,
            "data.init_args.loading.evaluation_batch_size": 2,
            **{
                f"data.init_args.{key}": {
                    "class_path": "datamodules.restoration.raw_photographs.RawPhotographs",
                    "init_args": {"image_size": size},
                }
                for key, size in {"training": 40, "test": 48}.items()
            },
            "model.init_args.network.init_args.widths": [3, 4],
        },
        {"model.init_args.optimizer": DESCENT},
    ),
    **{
        name: Method(
            "red_diff/demo",
            {  # 331 patches in batches of 101, 101, 101 and 28; 497 test images, the last batch of 97
                "data.init_args.batch_size": 101,
                "data.init_args.patches.per_image": 1,
                "data.init_args.loading.evaluation_batch_size": 100,
                "data.init_args.training.init_args.images": DIGITS_331,
                "model.init_args.network.init_args": {"in_features": 64, "width": 16, "depth": 1},
                "model.init_args.steps": 4,
                **({} if own is None else {"model.class_path": own, "model.init_args.learning_rate": LEFT_OUT}),
                **({"model.init_args.strength": 0.3} if name == "dps" else {}),
            },
            {"model.init_args.optimizer": DESCENT},
        )
        for name, own in {
            "red_diff": None,
            "dps": "lightning_modules.diffusion.dps.DPS",
            "pigdm": "lightning_modules.diffusion.pigdm.PiGDM",
            "ddrm": "lightning_modules.diffusion.ddrm.DDRM",
        }.items()
    },
    **{
        name: Method(
            "meco/demo",
            {  # 55 training rows in batches of 10, the last one of 5; 21 test rows
                "data.init_args.table": {
                    "class_path": "datamodules.tables.planar_densities.NormalNumbers",
                    "init_args": {"samples": 55, "test_samples": 21},
                },
                "data.init_args.batch_size": 10,
                "model.init_args.evaluation_draws": 100,
                **({"model.init_args.objective": CONTRAST} if name == "meco_nce" else {}),
            },
            {"trainer.precision": "64-true"},
        )
        for name in ("meco", "meco_nce")
    },
    "optimistic_omd": Method("optimistic_omd/demo", STREAM, clips=None, double=True),
    "optimistic_omd_ensemble": Method("optimistic_omd/demo_ensemble", STREAM, clips=None, double=True),
    "optimistic_omd_digits": Method(
        "optimistic_omd/digits",
        {
            "data.init_args.table.init_args.rounds": 67,
            "data.init_args.batch_size": 20,
            "model.init_args.rows_per_round": 3,
        },
        clips=None,
        double=True,
    ),
    "score_estimation": Method(
        "score_estimation/demo",
        {  # 41 rows in every step, one more of them on the first process; 21 for validation and testing
            "data.init_args.table.init_args": {
                "law": {"class_path": "datamodules.tables.noised_points.Atoms", "init_args": {"count": 4}},
                "samples": 41,
                "test_samples": 21,
            },
            "data.init_args.loading.passes_per_epoch": 5,
            "model.init_args.width": 100,
        },
        double=True,
    ),
    "singular_density": Method(
        "singular_density/demo",
        {  # 37 points in every step, one more of them on the first process; 21 for validation and testing
            "data.init_args.table": {
                "class_path": "datamodules.tables.singular_distributions.Circle",
                "init_args": {"samples": 37, "test_samples": 21},
            },
            "data.init_args.loading.passes_per_epoch": 5,
            "model.init_args.points": 20,
        },
        {"model.init_args.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-4}}},
    ),
    "one_more_step": Method(
        "one_more_step/demo",
        {  # 359 training images in batches of 100, the last one of 59; 1,438 held-out images, used in two batches of 31
            "data.init_args.validation_fraction": 0.8,
            "data.init_args.batch_size": 100,
            "data.init_args.loading.evaluation_batch_size": 31,
            "trainer.limit_test_batches": 2,
            "model.init_args.sampling.steps": 2,
            "model.init_args.network.init_args.width": 16,
            "model.init_args.model.init_args.network.init_args.width": 16,
        },
        {"model.init_args.optimizer": DESCENT},
        accuracy=1e-6,  # a correlation that is logged in float32
    ),
    "noise_diffusion": Method(
        "noise_diffusion/demo",
        {  # 101, 101, 101 and 28 images; batches of 3, 3 and 1 pairs
            **{
                f"data.init_args.images.init_args.{key}": value
                for key, value in (("images", DIGITS_331), ("num_pairs", 7))
            },
            "data.init_args.batch_size": 101,
            "data.init_args.loading.evaluation_batch_size": 3,
            "model.init_args.num_steps": 6,
            "model.init_args.encoded_steps": 4,
        },
        {"model.init_args.optimizer": DESCENT, "model.init_args.mixing.gamma": 0.2},
    ),
    "golden_noise": Method(
        "golden_noise/demo",
        {  # 61 prompts in batches of 20 and one of 21; 54 pairs for training, in batches of 19, 19 and 16
            "data.init_args.prompts.init_args.num_prompts": 61,
            "data.init_args.test_prompts.init_args.num_prompts": 31,
            "data.init_args.batch_size": 19,
            "data.init_args.loading.evaluation_batch_size": 20,
            "data.init_args.margin": None,
            "model.init_args.sampling.steps": 2,
            "model.init_args.model.init_args.network.init_args.width": 16,
            "trainer.callbacks.0.init_args.max_epochs": 1,
            "trainer.callbacks.0.init_args.model.init_args.network.init_args.network.init_args.width": 16,
            "trainer.callbacks.1.init_args.max_epochs": 1,
        },
        {
            "model.init_args.optimizer": DESCENT,
            "trainer.callbacks.0": LEFT_OUT,  # pre-training requires one process
            "trainer.callbacks.1": LEFT_OUT,
        },
    ),
    "monna": Method(
        "monna/demo",
        {  # five honest nodes: three on one process and two on the other
            "model.init_args.nodes": 7,
            "model.init_args.byzantine": 2,
            "data.init_args.images": DIGITS_331,
            "data.init_args.batch_size": 35,
            "data.init_args.shards.init_args": {"nodes": 5, "alpha": 1.0, "batches_per_epoch": 4},
        },
        clips=None,
        strategy="{class_path: lightning_modules.distributed.independent.Independent}",
    ),
    **{
        f"mbbo_{variant}": Method(
            "mbbo/demo",
            {  # six blocks, three of them on each process; steps of seven iterations
                "model.init_args": {
                    **{"samples": 61, "features": 30, "blocks": 6, "sampled_blocks": 3, "batch_size": 5},
                    **{"variant": variant, "ridge": 0.05, "rates": {"eta": 3.0}},
                    **{"iterations_per_step": 7, "tracking": True},
                },
                "data.init_args.table.init_args.train_size": 61,
                "data.init_args.loading.passes_per_epoch": 3,
            },
            clips=None,
            double=True,
            strategy="{class_path: lightning_modules.distributed.independent.Independent}",
        )
        for variant in ("v1", "v2")
    },
    "mbbo_ndcg": Method(
        "mbbo/demo_ndcg",
        {  # batches of 21, 21, 21 and 4 users; comparison begins with the second of three epochs
            "data.init_args.table": {
                "class_path": "datamodules.tables.ratings.SyntheticRatings",
                "init_args": {"num_users": 67, "num_items": 30, "num_rated": 12, "num_held_out": 2},
            },
            "data.init_args.batch_size": 21,
            "model.init_args.network.init_args": {"users": 67, "items": 30, "width": 4, "hidden_features": [4]},
            "model.init_args.negatives": 9,
            "model.init_args.top": 5,
            "trainer.max_epochs": 3,
        },
        {"model.init_args.optimizer": DESCENT},
        clips=None,
    ),
    "mbbo_rsvrb": Method(
        "mbbo/demo_rsvrb",
        {
            "model.init_args": {
                **{"samples": 61, "features": 30, "blocks": 6, "sampled_blocks": 3, "batch_size": 5},
                **{"ridge": 0.05, "rates": {"eta": 3.0}, "iterations_per_step": 7, "tracking": True},
            },
            "data.init_args.table.init_args.train_size": 61,
            "data.init_args.loading.passes_per_epoch": 3,
        },
        clips=None,
        double=True,
        strategy="{class_path: lightning_modules.distributed.independent.Independent}",
    ),
    "noiser": Method(
        "noiser/demo",
        {
            "data.init_args.batch_size": 7,
            "data.init_args.patches.per_image": 19,
            "data.init_args.patches.size": 16,
            "data.init_args.test": {
                "class_path": "datamodules.restoration.images.Crops",
                "init_args": {
                    **{"images": "datamodules.restoration.dark_photographs.DarkPhotographs"},
                    **{"crop_size": 48, "count": 3},
                },
            },
            "model.init_args.network.init_args.hidden": 3,
        },
        {"model.init_args.optimizer": DESCENT},
    ),
    "scale_mixture_nngp": Method(
        "scale_mixture_nngp/demo",
        {"data.init_args.table.init_args.train_size": 21, "data.init_args.loading.passes_per_epoch": 3},
        alone=True,
        double=True,
    ),
    "scale_mixture_nngp_ensemble": Method(
        "scale_mixture_nngp/demo_ensemble",
        {"data.init_args.batch_size": 301},  # batches of 301, 301, 301 and 97
        {"model.init_args.optimizer": DESCENT},
    ),
    "scale_mixture_nngp_classifier": Method(
        "scale_mixture_nngp/demo_classification",
        {  # batches of 301, 301, 301 and 97
            "data.init_args.batch_size": 301,
            "model.init_args.inducing": 20,
            "model.init_args.draws": 3,
            "model.init_args.evaluation_draws": 20,
        },
        {"model.init_args.optimizer": DESCENT, "model.init_args.jitter": 0.1},
        double=True,
    ),
    "colide": Method("colide/demo", GRAPH, clips=None, alone=True, double=True),
    "tester_learner": Method(
        "tester_learner/demo",
        {  # 331 rows in batches of 101, 101, 101 and 28, an iteration of 16 each; 332 for judging, 57 for testing
            "model.init_args": {"dim": 3, "sigma": 0.9, "draws": 20, "rows_per_iteration": 16},
            **{
                f"data.init_args.table.init_args.{key}": value
                for key, value in {"dim": 3, "samples": 663, "test_samples": 57}.items()
            },
            "data.init_args.batch_size": 101,
            "trainer.check_val_every_n_epoch": 1,
        },
        clips=None,
        double=True,
    ),
    "subgm": Method("subgm/demo", MEASUREMENTS, clips=None, double=True),
    "fractional_sde_paths": Method(
        "fractional_sde/demo_paths",
        {  # 331 paths in batches of 101, 101, 101 and 28; 37 for testing, in batches of 16, 16 and 5
            "data.init_args.batch_size": 101,
            "data.init_args.loading.evaluation_batch_size": 16,
            **{
                f"data.init_args.sequences.init_args.{key}": value
                for key, value in {"num_times": 6, "num_training": 331, "num_test": 37}.items()
            },
        },
        {"model.init_args.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-5}}},
    ),
    "fractional_sde_videos": Method(
        "fractional_sde/demo_videos",
        {  # batches of 7, 7 and 5; 5 test videos, in batches of 3 and 2
            "data.init_args.batch_size": 7,
            "data.init_args.loading.evaluation_batch_size": 3,
            **{
                f"data.init_args.sequences.init_args.{key}": value
                for key, value in {"num_times": 7, "num_training": 19, "num_test": 5}.items()
            },
        },
        {"model.init_args.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-5}}},
    ),
    "fractional_sde": Method(
        "fractional_sde/demo",
        {  # 331 paths in batches of 101, 101, 101 and 28; 37 for testing, in batches of 16, 16 and 5
            "data.init_args.batch_size": 101,
            "data.init_args.loading.evaluation_batch_size": 16,
            "model.init_args.noise.init_args.kind": "I",  # Y(0) is random, too
            **{
                f"data.init_args.sequences.init_args.{key}": value
                for key, value in {"end": 0.16, "num_times": 9, "num_training": 331, "num_test": 37}.items()
            },
        },
        {"model.init_args.optimizer": DESCENT},
    ),
}


def changed(settings: Any, overrides: Mapping[str, Any]) -> Any:
    """Set dotted keys in place, in the contents of a YAML file; entries of lists are removed last."""
    gone: list[tuple[Any, Any]] = []
    for key, value in overrides.items():
        *path, last = key.split(".")
        place = settings
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        name: Any = int(last) if isinstance(place, list) else last
        if value is LEFT_OUT:
            gone.append((place, name))
        else:
            place[name] = value
    for place, name in sorted(gone, key=lambda pair: -1 if isinstance(pair[1], str) else -pair[1]):
        if isinstance(place, list) or name in place:
            del place[name]
    return settings
