"""Private names of Lightning, jsonargparse and PyTorch still exist, and are used in only one file."""

import ast
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT

LOOP = "lightning.pytorch.loops.fit_loop._FitLoop"
EPOCH = "lightning.pytorch.loops.training_epoch_loop._TrainingEpochLoop"
SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"
SIGNALS = "lightning.pytorch.trainer.connectors.signal_connector._SignalConnector"
RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector._CheckpointConnector"
LAUNCHER = "lightning.pytorch.strategies.launchers._SubprocessScriptLauncher"
WATCH = "lightning.fabric.strategies.launchers.subprocess_script._ChildProcessObserver"
SOURCE = "lightning.pytorch.trainer.connectors.data_connector._DataLoaderSource"
CALLED = {
    f"{LOOP}.__init__": "self trainer min_epochs max_epochs",
    f"{LOOP}._iteration_based_training": "self",
    f"{LOOP}.reset_restart_stage": "self",
    f"{EPOCH}._should_accumulate": "self",
    f"{EPOCH}._should_check_val_fx": "self data_fetcher",
    f"{EPOCH}._broadcast_sigterm_tensor": "self",
    f"{RESTORING}._parse_ckpt_path": "self state_fn ckpt_path model_provided model_connected",
    f"{SAVER}._should_skip_saving_checkpoint": "self trainer",
    f"{SAVER}._save_topk_checkpoint": "self trainer monitor_candidates",
    f"{SAVER}._monitor_candidates": "self trainer",
    f"{SIGNALS}.__init__": "self trainer",
    f"{WATCH}.__init__": "self main_pid child_processes sleep_period",
    f"{LAUNCHER}.__init__": "self cluster_environment num_processes num_nodes",
    f"{LAUNCHER}._call_children_scripts": "self",
    f"{SOURCE}.__init__": "self instance name",
    f"{SOURCE}.dataloader": "self",
    f"{SOURCE}.is_defined": "self",
    "lightning.fabric.utilities.distributed._set_num_threads_if_needed": "num_processes",
    "lightning.pytorch.LightningModule._on_before_batch_transfer": "self batch dataloader_idx",
    "torch.utils._pytree.tree_map": "func tree rests is_leaf",
    "torch.utils._pytree.tree_leaves": "tree is_leaf",
    "torch.utils._python_dispatch.TorchDispatchMode.__torch_dispatch__": "self func types args kwargs",
}
"""Private functions that are called, and their arguments."""
OVERRIDDEN = {
    f"{LOOP}.load_state_dict": "self state_dict prefix",
    f"{LOOP}.on_run_start": "self",
    f"{SIGNALS}._sigterm_notifier_fn": "self signum _",
    f"{SIGNALS}._slurm_sigusr_handler_fn": "self signum _",
    f"{WATCH}._run": "self",
    "lightning.pytorch.strategies.DDPStrategy._configure_launcher": "self",
    "lightning.pytorch.strategies.DDPStrategy._setup_model": "self model",
    "lightning.pytorch.cli.LightningCLI._run_subcommand": "self subcommand",
    "lightning.pytorch.cli.LightningCLI._parse_ckpt_path": "self",
    "lightning.pytorch.cli.LightningCLI._set_seed": "self",
    "jsonargparse.DefaultHelpFormatter._get_help_string": "self action",
    "torch.nn.Module._apply": "self fn recurse",
}
"""Private functions that our classes override; the overrides would not be called if Lightning renamed the functions."""
ATTRIBUTES = {
    f"{LOOP}.skip": property,
    f"{LOOP}.done": property,
    "torch._foreach_add_": object,
    "torch._foreach_sub_": object,
    "torch._foreach_copy_": object,
    "torch._foreach_norm": object,
    "torch._standard_gamma": object,
    "torch.nn.modules.batchnorm._BatchNorm": type,
    "torch.nn.modules.batchnorm._NormBase": type,
    "torch.nn.modules.dropout._DropoutNd": type,
    "torch.Tensor._version": object,
}
OTHERS = {
    "torch.cuda._is_in_bad_fork": "asked in a process that must import nothing",
    "threading._shutdown": "what the interpreter does at its end",
    "atexit._run_exitfuncs": "what the interpreter does at its end",
    "os._exit": "public, in spite of its name",
    "SlurmExecutor._valid_parameters": "of submitit, an extra",
    "ray._private": "of Ray, an extra",
    "found._load_connected_pipes": "of diffusers: a pipeline that would fetch others",
    "figure._repr_png_": "a public name of Jupyter",
    **dict.fromkeys(
        (f"self.pipeline.{name}" for name in ("_pack_latents", "_unpack_latents", "_prepare_latent_image_ids")),
        "of diffusers: how FLUX arranges latents; its training scripts call them",
    ),
    **dict.fromkeys(
        (f"self.pipeline.{name}" for name in ("_patchify_latents", "_unpatchify_latents")),
        "of diffusers: how FLUX.2 arranges latents",
    ),
    "base._internal_dict": "of diffusers: from_transformer of its ControlNets changes that configuration",
    "kind._model_mapping": "of transformers: the class of a kind of configuration",
    "torchmetrics.functional.image.lpips._LPIPS": "of torchmetrics: the public class fetches weights",
    "processor._attention_backend": "of diffusers: whether a network has a choice of backends",
    "diffusers._check_attention_backend_requirements": "of diffusers: called before a pipeline is loaded",
    "network._keep_in_fp32_modules": "of transformers and diffusers: layers that must stay in single precision",
    "each._is_protocol": "typing.is_protocol came with Python 3.13",
    "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu": "the name of an operation",
}
"""Private names that are used in other files, with the reasons."""
OF_TUPLES = {"_replace", "_asdict", "_fields"}
INTERNALS = [
    "experiments/lightning_internals.py",
    "lightning_modules/lightning_internals.py",
    "lightning_modules/torch_internals.py",
]


@pytest.mark.parametrize(("name", "arguments"), {**CALLED, **OVERRIDDEN}.items(), ids={**CALLED, **OVERRIDDEN})
def test_a_private_function_is_there_and_takes_what_it_took(name: str, arguments: str) -> None:
    assert " ".join(inspect.signature(pkgutil.resolve_name(name)).parameters) == arguments


@pytest.mark.parametrize(("name", "kind"), ATTRIBUTES.items(), ids=ATTRIBUTES)
def test_a_private_attribute_is_there(name: str, kind: type) -> None:
    assert isinstance(pkgutil.resolve_name(name), kind)


def private_names(path: Path) -> Iterator[str]:
    """Find private names that a file uses on objects other than `self` and its own classes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()") and node.attr not in OF_TUPLES:
                yield f"{owner}.{node.attr}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            owner, name = node.args[:2]
            if isinstance(name, ast.Constant) and re.match("_(?!_)", str(name.value)) and ast.unparse(owner) != "self":
                yield f"{ast.unparse(owner)}.{name.value}"
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{each.name}" for each in node.names]
            yield from (name for name in names if re.search(r"(^|\.)_(?!_)", name))


def test_no_private_name_stands_outside_its_file() -> None:
    files = [
        path
        for room in ("experiments", "callbacks", "lightning_modules", "datamodules")
        for path in sorted((ROOT / room).rglob("*.py"))
    ]
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*files, ROOT / "train.py"]
        if path.relative_to(ROOT).as_posix() not in INTERNALS
        for name in private_names(path)
        if not any(name == other or name.startswith(f"{other}.") for other in OTHERS)
    }
    assert found == set()


def test_a_private_name_is_found(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "from a._b import c\nfrom a import _d\nself._e = trainer._f.g\nx._replace(a=1)\nsuper()._h(y.__class__)\n"
        "getattr(x.y, '_i', None)\nhasattr(self, '_j')\ngetattr(x, '__name__')\n"
    )
    assert set(private_names(file)) == {"a._b.c", "a._d", "trainer._f", "x.y._i"}
