"""Architectures, one per file; backbones from other libraries are in `lightning_modules.backbones`."""
