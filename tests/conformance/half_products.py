"""Finds matrix products outside network layers that autocast computes in half precision."""

import sys
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchmetrics import Metric

from tests.command import ROOT

PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "baddbmm", "einsum", "linear", "conv2d")
ROOMS = tuple(f"{ROOT / room}/" for room in ("callbacks", "lightning_modules"))


def is_layer(frame: FrameType) -> bool:
    """Return whether a frame is the forward pass of a layer, where half precision is intended."""
    owner = frame.f_locals.get("self")
    return isinstance(owner, nn.Module) and not isinstance(owner, LightningModule | Metric)


class HalfProducts(TorchFunctionMode):
    """Collects in `places` the `file:line` of float32 products that are computed in half precision outside layers."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in PRODUCTS and torch.is_autocast_enabled("cpu"):
            given = [each for each in args if isinstance(each, Tensor)]
            if value.dtype == torch.bfloat16 and any(each.dtype == torch.float32 for each in given):
                self._note(sys._getframe(1))
        return value

    def _note(self, frame: FrameType | None) -> None:
        place = ""
        while frame is not None:
            if is_layer(frame):
                return
            if not place and frame.f_code.co_filename.startswith(ROOMS):
                place = f"{frame.f_code.co_filename.removeprefix(f'{ROOT}/')}:{frame.f_lineno}"
            frame = frame.f_back
        if place:
            self.places.add(place)
