"""NMTune: tuning on frozen features of a network that was pre-trained on noisy labels."""

from lightning_modules.noisy_labels.nmtune.module import NMTune

__all__ = ["NMTune"]
