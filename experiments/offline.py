"""Offline mode: with HF_HUB_OFFLINE=1, `train.py` and the libraries that it uses ask no network.

The libraries of Hugging Face, timm among them, read this variable themselves. For the others, `work_offline` sets the
variables that they know, and refuses what they fetch by `urllib` (torch.hub, torchvision, torchmetrics).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from urllib.request import OpenerDirector

VARIABLE = "HF_HUB_OFFLINE"
OTHERS = {"WANDB_MODE": "offline", "MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0"}
"""Variables of libraries that do not read HF_HUB_OFFLINE. A value that the user has set is kept."""


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE is set to true, by the rule of huggingface_hub."""
    value = os.environ.get(VARIABLE) or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def work_offline() -> None:
    """In offline mode, keep also the libraries that do not read HF_HUB_OFFLINE from asking the network."""
    if is_offline():
        for name, value in OTHERS.items():
            os.environ.setdefault(name, value)
        OpenerDirector.open = _refuse  # type: ignore[assignment]


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Context manager in which the libraries are offline, also if they have already been imported."""
    from huggingface_hub import constants

    with patch.object(constants, VARIABLE, True), patch.object(OpenerDirector, "open", _refuse):
        yield


def _refuse(_: OpenerDirector, url: Any, *__: Any, **___: Any) -> None:
    raise OSError(
        f"{getattr(url, 'full_url', url)} is not fetched offline: copy the file to where it is expected, or run without"
        f" {VARIABLE} where there is a network"
    )
