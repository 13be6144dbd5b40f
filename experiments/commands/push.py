"""Upload a run with a model card to the Hugging Face Hub, or write the same folder locally.

    python train.py push RUN_DIRECTORY OWNER/NAME --private
    python train.py push RUN_DIRECTORY --output FOLDER

The folder contains the settings, the weights as safetensors, metrics, a picture, and README.md, which describes method,
paper, data, metrics and claims. For a fine-tuned diffusion model, it also contains pipeline/. Local paths in the
settings are replaced with file names. The upload is rejected if a file contains a local path or a token.
`load_run("hf://OWNER/NAME")` loads the run on any machine. Before uploading, log in with `hf auth login`, or set
HF_TOKEN.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.hub.pushed_folder import Pushed


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("repo_id", nargs="?", help="OWNER/NAME on the Hub, which is created if it does not exist")
    parser.add_argument("--output", type=Path, help="write to this new folder; without OWNER/NAME, nothing is uploaded")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--revision", help="existing branch to upload to; default: main")
    parser.add_argument("--checkpoint", choices=("best", "last"), help="default: the run's checkpoint.test_checkpoint")
    parser.add_argument("--merged", action="store_true", help="write pipeline/ with the LoRA merged into its weights")
    parser.add_argument(
        "--format", choices=("kohya", "comfyui"), help="also write the adapters as FORMAT.safetensors, as export does"
    )
    parser.add_argument("--picture", help="name of the picture in figures/; default: samples, or the first one")
    parser.add_argument("--license", help="licence of the weights, such as apache-2.0; default: that of the base model")
    parser.add_argument("--base_model", help="OWNER/NAME of the pre-trained model; default: from the settings")
    parser.add_argument("--dataset", action="append", default=[], help="OWNER/NAME of a dataset; may be repeated")


def run(options: Namespace) -> int:
    from contextlib import ExitStack
    from tempfile import TemporaryDirectory

    from datamodules.files.whole_files import naming, new_folder
    from experiments.hub.upload import check_repo_id, upload

    if options.repo_id is None and options.output is None:
        raise ValueError("give OWNER/NAME to upload the run, or --output FOLDER to write a folder")
    if options.repo_id is not None:
        check_repo_id(options.repo_id)
    elif options.private or options.revision:
        raise ValueError("--private and --revision need OWNER/NAME")
    with ExitStack() as stack:
        if options.output is None:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            stack.enter_context(naming(folder))
        else:
            folder = stack.enter_context(new_folder(options.output))
        _write(options, folder)
        if options.repo_id is not None:
            print(f"uploaded: {upload(folder, options.repo_id, options.private, options.revision)}")
    if options.output is not None:
        print(f"written: {options.output}")
    return 0


def _write(options: Namespace, folder: Path) -> None:
    """Write the folder of a run, including its model card."""
    from datamodules.files.whole_files import write_text
    from experiments.hub.model_card import CardOptions, base_model, method_of, model_card
    from experiments.hub.pushed_folder import refuse_private, write_pushed_run
    from experiments.hub.upload import licence_of
    from experiments.load_run import load_run
    from experiments.parsing.class_paths import import_class_paths
    from lightning_modules.interfaces import DescribesLoss, SavesAdapters, require

    pushed = write_pushed_run(options.run, folder, options.checkpoint, options.picture)
    if options.merged:
        pushed = _merge(options, folder, pushed)
    if options.format:
        model, _ = load_run(options.run, options.checkpoint)
        adapters = require(model, SavesAdapters, f"push --format {options.format}")
        adapters.save_adapters(folder / f"{options.format}.safetensors", options.format)
    base = options.base_model or base_model(pushed.settings)
    licence = options.license or (None if base is None else licence_of(base, online=options.repo_id is not None))
    if licence is None:
        print("the model card states no licence: set --license")
    name = options.repo_id or options.output.name
    module = import_class_paths(pushed.class_path) if method_of(pushed.class_path) else None
    settings = pushed.settings["model"].get("init_args") or {}
    docstring = module.loss_docstring(settings) if isinstance(module, DescribesLoss) else None
    card = CardOptions(name, licence, base, options.dataset, docstring)
    write_text(folder / "README.md", model_card(pushed, folder, card))
    refuse_private(folder, options.run)


def _merge(options: Namespace, folder: Path, pushed: "Pushed") -> "Pushed":
    """Replace the pipeline with a pipeline in which the adapters are merged into the weights."""
    import shutil

    from experiments.hub.pushed_folder import ADAPTERS, adapted_network, merged_network, remove_paths, with_pipeline
    from experiments.load_run import load_run
    from lightning_modules.interfaces import SavesPipeline, require

    if network := merged_network(pushed):
        print(f"the LoRA was already merged: pipeline/{network} contains the merged weights")
        return pushed
    if ADAPTERS not in pushed.pipeline and not adapted_network(pushed):
        raise ValueError(
            f"--merged needs a run with adapters, but {options.run / 'pipeline' / ADAPTERS} does not exist"
        )
    model, _ = load_run(options.run, options.checkpoint)
    shutil.rmtree(folder / "pipeline", ignore_errors=True)
    require(model, SavesPipeline, "push --merged").save_pipeline(folder / "pipeline", merge=True)
    remove_paths(folder / "pipeline")
    return with_pipeline(pushed, folder)
