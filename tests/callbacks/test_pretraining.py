from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from callbacks.pretraining import Pretraining
from datamodules.classification.digits import PretrainingDigits, TuningDigits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.corruptions.label_noise import Symmetric
from datamodules.loading import Loading
from experiments.run_directory import check_checkpoint
from lightning_modules.backbones.layer_features import without_head
from lightning_modules.baselines.cross_entropy import CrossEntropy
from lightning_modules.diffusion.score_sde import ClassGuidance, NoiseConditionalClassifier, ScoreSDE
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.noise_conditional_wide_resnet import NoiseConditionalWideResNet
from lightning_modules.networks.score_mlp import ScoreMLP
from lightning_modules.noisy_labels.nmtune import NMTune
from lightning_modules.sde.processes import VE
from lightning_modules.sde.samplers import PredictorCorrector
from tests.trainers import quiet


def first_stage(hidden: int = 16, max_epochs: int = 3) -> Pretraining:
    model = CrossEntropy(MLP(64, [hidden], 6), num_classes=6, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    return Pretraining(model, LabelledImages(PretrainingDigits(), 64, Symmetric(0.3)), max_epochs)


def tuning(hidden: int = 16) -> NMTune:
    return NMTune(without_head(MLP(64, [hidden], 6)), num_features=hidden, num_classes=10)


def trainer(callback: Pretraining, max_epochs: int = 1) -> Trainer:
    return quiet(max_epochs=max_epochs, callbacks=[callback])


def test_the_encoder_gets_the_weights_of_the_first_stage() -> None:
    callback, module = first_stage(), tuning()
    before = {name: value.clone() for name, value in module.encoder.state_dict().items()}
    trainer(callback).fit(module, datamodule=LabelledImages(TuningDigits(), 64, loading=Loading(seed=7)))
    trained = callback.model.network.state_dict()  # type: ignore[union-attr]
    for name, value in module.encoder.state_dict().items():
        assert torch.equal(value, trained[name])
        assert not torch.equal(value, before[name])
    data = callback.data
    assert isinstance(data, LabelledImages)
    expected = LabelledImages(PretrainingDigits(), 64, Symmetric(0.3), loading=Loading(seed=7))
    expected.setup("fit")
    assert data.train_set is not None
    assert expected.train_set is not None
    assert torch.equal(data.train_set.label, expected.train_set.label)
    assert callback.model.trainer.current_epoch == 3


def test_a_resumed_run_does_not_train_the_first_stage_again(tmp_path: Path) -> None:
    module = tuning()
    first = trainer(first_stage())
    first.fit(module, datamodule=LabelledImages(TuningDigits(), 64))
    first.save_checkpoint(tmp_path / "last.ckpt")
    callback, resumed = first_stage(), tuning()
    initial = {name: value.clone() for name, value in callback.model.state_dict().items()}
    trainer(callback, max_epochs=2).fit(
        resumed, datamodule=LabelledImages(TuningDigits(), 64), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert all(torch.equal(value, initial[name]) for name, value in callback.model.state_dict().items())
    for name, value in resumed.encoder.state_dict().items():
        assert torch.equal(value, module.encoder.state_dict()[name])


def test_a_frozen_part_is_trained_by_another_name_and_kept_in_checkpoints(tmp_path: Path) -> None:
    def guided() -> ScoreSDE:
        guidance = ClassGuidance(NoiseConditionalWideResNet(10, 1, in_channels=1), num_classes=10)
        shape, sampler = (1, 8, 8), PredictorCorrector(num_steps=2)
        return ScoreSDE(ScoreMLP(shape, width=8, depth=1), VE(0.01, 10.0), shape, sampler, guidance=guidance)

    module, first = guided(), NoiseConditionalClassifier(NoiseConditionalWideResNet(10, 1, in_channels=1), 10, VE())
    assert not [name for name in module.state_dict() if "guidance" in name]
    data = LabelledImages(TuningDigits(), 400)
    fitting = trainer(Pretraining(first, data, 1, part="guidance.classifier", source="classifier"))
    fitting.fit(module, datamodule=LabelledImages(TuningDigits(), 400))
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    restored = guided()
    check_checkpoint(tmp_path / "last.ckpt", restored)  # the same check is made before a run is resumed
    restored.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    for each in (module, restored):
        found = each.guidance.classifier.state_dict()  # type: ignore[union-attr]
        assert all(torch.equal(value, found[name]) for name, value in first.classifier.state_dict().items())


def test_the_two_stages_see_different_images_and_the_first_sees_six_classes() -> None:
    first, second = PretrainingDigits(), TuningDigits()
    images = [first.training().image, second.training().image, second.test().image]
    keys = [{bytes(image.numpy().tobytes()) for image in part} for part in images]
    assert [len(part) for part in images[1:]] == [400, 797]
    assert not keys[0] & (keys[1] | keys[2])
    assert set(first.training().label.tolist()) == set(range(6))
    assert set(second.training().label.tolist()) == set(range(10))


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(TypeError, match="Pretraining needs a module with `encoder`, but CrossEntropy has none"):
        trainer(first_stage()).fit(
            CrossEntropy(MLP(64, [16], 10), num_classes=10), datamodule=LabelledImages(TuningDigits(), 64)
        )
    deeper = NMTune(without_head(MLP(64, [16, 16], 6)), num_features=16, num_classes=10)
    with pytest.raises(ValueError, match=r"or their shapes differ: layers\.2\.weight, layers\.2\.bias"):
        trainer(first_stage(max_epochs=1)).fit(deeper, datamodule=LabelledImages(TuningDigits(), 64))
