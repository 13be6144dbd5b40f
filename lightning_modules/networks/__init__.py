"""Architectures, one a file; backbones of other libraries are in `lightning_modules.backbones`."""
