"""The protocols: their list of members and users, and the errors if data lack something that is needed."""

import ast
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import Tensor

from callbacks.image_grid import ImageGrid
from callbacks.labels.memorization import Memorization
from callbacks.labels.report import LabelReport
from lightning_modules import interfaces
from lightning_modules.interfaces import Classifier, HeldOutImages, data_with, members, require
from tests.noisy_labels.lsa.small import PLAIN, one_network
from tests.test_imports import TREES, owner
from tests.trainers import standing


class Network(LightningModule):
    num_classes = 10

    def forward(self, image: Tensor) -> Tensor:
        return image

    def image_columns(self, batch: Any, outputs: Any) -> dict[str, Tensor]:
        return {}


def set_up(callback: Callback, stage: str) -> Callable[[Any], None]:
    return lambda trainer: callback.setup(trainer, Network(), stage)


def set_up_lsa(trainer: Any) -> None:
    module = one_network(**PLAIN)
    module.trainer = trainer
    module.setup("fit")


@pytest.mark.parametrize("data", [None, LightningDataModule()], ids=["none", "plain"])
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("LabelReport", set_up(LabelReport(), "test")),
        ("Memorization", set_up(Memorization(), "test")),
        ("ImageGrid", set_up(ImageGrid(stage="train"), "fit")),
        ("PLSLSA", set_up_lsa),
    ],
)
def test_data_without_training_images_to_look_at_are_refused(
    name: str, check: Callable[[Any], None], data: LightningDataModule | None
) -> None:
    found = "a run without a DataModule" if data is None else "LightningDataModule"
    message = f"{name} needs a TrainingImageSource, and {found} lacks training_images_dataloader"
    with pytest.raises(TypeError, match=message):
        check(standing(datamodule=data))


class InOrder:
    def held_out_dataloader(self) -> None: ...


def test_inherited_members_are_required() -> None:
    message = "LabelReport needs a HeldOutImages, and InOrder lacks training_images_dataloader"
    with pytest.raises(TypeError, match=message):
        require(InOrder(), HeldOutImages, "LabelReport")


PROTOCOLS = {
    name: each
    for name, each in vars(interfaces).items()
    if getattr(each, "_is_protocol", False) and each.__module__ == interfaces.__name__
}


IMPORTS = [
    (owner(name).removeprefix("lightning_modules."), {alias.name for alias in node.names})
    for name, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and node.module == interfaces.__name__
]
"""The packages and methods that import something from `interfaces.py`, with the names of what they import."""


def users_of(protocol: str) -> set[str]:
    """Return the packages and methods that import a protocol, or use it through a function of `interfaces.py`."""
    wanted = {protocol, {"NamedClasses": "class_names"}.get(protocol)}
    return {package for package, names in IMPORTS if names & wanted}


def test_the_list_of_protocols_has_their_members_and_users() -> None:
    """If this fails, replace the list in the docstring of `lightning_modules/interfaces.py` by the expected one."""
    lines = [
        f"{name}: {', '.join(members(each))}; used by {', '.join(sorted(users_of(name)))}"
        for name, each in PROTOCOLS.items()
    ]
    expected = "\n".join(textwrap.fill(line, 120, subsequent_indent="    ") for line in lines)
    assert all(users_of(name) for name in PROTOCOLS), "a protocol without a user"
    assert f"\n{expected}\n" in str(interfaces.__doc__), expected


def test_no_two_protocols_have_the_same_members() -> None:
    assert len({tuple(members(each)) for each in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_a_name_of_the_data_is_not_read_without_a_protocol() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                source = ast.unparse(node.args[0])
                assert not source.endswith((".datamodule", "'datamodule', None)")), f"{name}: {ast.unparse(node)}"


def test_data_without_a_protocol_are_none() -> None:
    for data in (None, LightningDataModule()):
        assert data_with(standing(datamodule=data), Classifier) is None
    network = Network()
    assert data_with(standing(datamodule=network), Classifier) is network
