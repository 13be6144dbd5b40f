"""Generate images or clips with a trained run or a diffusers pipeline, and write one PNG per image or clip.

    python train.py generate --resume RUN --prompts prompts.txt --n 4 --output FOLDER
    python train.py generate --pipeline FOLDER --prompts "a red fox" "a blue bird" --steps 30 --guidance 5
    python train.py generate --resume RUN --n 64 --batch_size 64 -- --model.sampler.num_steps 100

RUN is the run directory of any module that generates images. Arguments after `--` override the configuration of the
run. The seed of image i is SEED + i, or the seed of its prompt in the file. An image therefore does not depend on the
number of processes. If --batch_size is above 1, modules that are not text-to-image models use the seed of the first
image for the whole batch.

FOLDER contains images/ (PNG, with prompt, seed and settings as text metadata), images.parquet, contact_sheet.png and
settings.json, and with --pairs also the images from plain initial noise. If the command was killed, run it again to
generate only the missing images. With --devices N or torchrun, the images are sharded over processes. torchrun requires
--num_images instead of --n.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

DEFAULT = Path("runs", "generated")
PRECISIONS = ("float32", "bfloat16", "float16")


def arguments(parser: ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--resume", metavar="RUN", help="run directory, or latest")
    source.add_argument("--pipeline", metavar="FOLDER", help="diffusers pipeline: a local folder or a Hub name")
    parser.add_argument("--checkpoint", help="best or last; default: the run's checkpoint.test_checkpoint")
    parser.add_argument("--dtype", choices=PRECISIONS, help="precision of the pipeline's weights; default: float32")
    parser.add_argument("--variant", help="variant of the pipeline's weight files, such as fp16")
    parser.add_argument("--local_files_only", action="store_true", help="look for a Hub name in the local cache only")
    parser.add_argument("--prompts", nargs="+", help="texts, or one file: .txt, .jsonl, .json or .csv")
    parser.add_argument("--classes", nargs="+", type=int, help="classes, for class-conditional models")
    n_help = "images per prompt or class, or in total; default: 1 (use --num_images if torchrun rejects --n)"
    parser.add_argument("--n", "--num_images", type=int, default=1, help=n_help)
    parser.add_argument("--seed", type=int, help="seed of the first image; default: the prompts' seeds, or 0")
    parser.add_argument("--output", type=Path, default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("--batch_size", type=int, default=1, help="images generated at once; default: 1")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the model's")
    parser.add_argument("--guidance", type=float, help="guidance scale; default: the model's")
    parser.add_argument("--negative_prompt", help="text that guidance moves away from")
    size_help = "in pixels; default: that of the training images of a run, or a pipeline's own"
    parser.add_argument(
        "--frames", type=int, help="frames of a clip; default: those of training clips, or a pipeline's"
    )
    parser.add_argument("--height", type=int, help=f"height of text-to-image models' images, {size_help}")
    parser.add_argument("--width", type=int, help=f"width of text-to-image models' images, {size_help}")
    parser.add_argument(
        "--image",
        type=Path,
        help="image for image-to-image or inpainting with a pipeline, condition of a ControlNet, or source to edit",
    )
    parser.add_argument("--mask", type=Path, help="mask for inpainting, white where the image is replaced")
    parser.add_argument("--strength", type=float, help="how much the image changes, in (0, 1]")
    parser.add_argument("--clip_skip", type=int, help="last layers of its CLIP text encoders that a pipeline skips")
    parser.add_argument("--pairs", action="store_true", help="also generate from plain noise, to compare side by side")
    parser.add_argument("--accelerator", default="auto", help="auto (default), cpu, cuda or mps")
    parser.add_argument("--devices", type=int, default=1, help="number of devices; default: 1")
    parser.takes_overrides = True  # type: ignore[attr-defined]


def run(options: Namespace) -> int:
    from dataclasses import fields

    import torch.distributed as dist

    from callbacks.generation.generated_folder import SHEET, generate_folder
    from callbacks.generation.image_generators import ImageGenerator, PipelineGenerator, Settings
    from callbacks.generation.image_requests import image_requests, read_prompts
    from callbacks.generation.launched import fabric_of
    from datamodules.arguments import at_least
    from datamodules.jobs.peers import PeerFailure

    at_least(1, devices=options.devices, batch_size=options.batch_size)
    settings = Settings(**{each.name: getattr(options, each.name) for each in fields(Settings)})
    prompts = None if options.prompts is None else read_prompts(options.prompts, options.n)
    requests = image_requests(prompts, options.classes, options.n, options.seed)
    of_pipeline = {"dtype": options.dtype, "variant": options.variant, "local_files_only": options.local_files_only}
    generator: ImageGenerator
    if options.resume is not None:
        if given := [f"--{name}" for name, value in of_pipeline.items() if value]:
            raise ValueError(f"{', '.join(given)}: only for --pipeline; a run has its own settings")
        generator, precision = of_run(options, settings)
    else:
        from lightning_modules.backbones.diffusion.pipelines import diffusers_pipeline

        if options.overrides or options.checkpoint:
            raise ValueError("--checkpoint and arguments after `--` apply only to a run, not to --pipeline")
        try:
            generator = PipelineGenerator(diffusers_pipeline(options.pipeline, **of_pipeline), settings)
        except ImportError as error:
            raise ValueError(str(error)) from error
        precision = "32-true"
    generator.check(requests)
    fabric = fabric_of(options.accelerator, options.devices, precision)
    fabric.launch()
    try:
        generator.to(fabric.device)
        with fabric.autocast():
            generate_folder(options.output, generator, requests, options.batch_size)
    except PeerFailure as error:
        raise OSError(f"{error}; repeat the command to continue") from error
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    if fabric.is_global_zero:
        print(f"{len(requests)} images are written to {options.output}; {SHEET} shows them")
    return 0


def of_run(options: Namespace, settings: Any) -> tuple[Any, Any]:
    """Load the model of a run as an image generator, with the precision of the run."""
    from argparse import ArgumentError

    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from callbacks.generation.image_generators import ModuleGenerator
    from experiments.config_files import flatten_settings
    from experiments.load_run import load_built
    from experiments.parsing.readable_errors import readable
    from lightning_modules.interfaces import FixedImageShape, SizedGenerator

    alone = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1"]
    alone += ["--trainer.strategy", "auto"]
    try:
        built = load_built(options.resume, options.checkpoint, [*alone, *options.overrides])
    except (ArgumentError, ValueError, TypeError, ImportError, MisconfigurationException) as error:
        raise ValueError(readable(error)) from error
    built.trainer.datamodule = built.datamodule  # type: ignore[attr-defined]
    built.model.trainer = built.trainer
    model = built.parsed.grammar.config_dump["model"]
    configuration = {**flatten_settings({"model": model}), "precision": built.trainer.precision}
    data = built.datamodule if isinstance(built.model, SizedGenerator) else None
    size = (*data.image_shape[:-3], *data.image_shape[-2:]) if isinstance(data, FixedImageShape) else None
    return ModuleGenerator(built.model, settings, configuration, size), built.trainer.precision
