"""rRCM: representations that agree along a diffusion trajectory, pre-trained and tuned for randomised smoothing."""

from lightning_modules.robustness.rrcm.finetuning import RRCM
from lightning_modules.robustness.rrcm.pretrained import pretrained_encoder
from lightning_modules.robustness.rrcm.pretraining import RRCMPretraining
from lightning_modules.robustness.rrcm.projector import Projector

__all__ = ["RRCM", "Projector", "RRCMPretraining", "pretrained_encoder"]
