"""DataLoaders whose sampling order depends only on (seed, epoch), with augmentation on the device."""

from datamodules.loading.arguments import Loading

__all__ = ["Loading"]
