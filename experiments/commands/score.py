"""Score generated images with their prompts: CLIP score, PickScore, HPSv2, MPS, ImageReward, aesthetic score.

    python train.py score GENERATED --scores clip_score pick_score
    python train.py score FOLDER --prompts prompts.txt --models clip_score=/models/clip --local_files_only
    python train.py score GENERATED --scores image_reward --weights image_reward=ImageReward.pt
    python train.py score GENERATED --scores hpsv2 aesthetic --weights hpsv2=HPS_v2.1_compressed.pt aesthetic=FILE
    python train.py score GENERATED --scores mps --weights mps=MPS_overall_checkpoint.pth
    python train.py score GENERATED --scores pick_score --pairs PAIRS

GENERATED is a folder that `generate` has written. The folder includes the prompts. For any other folder of images,
--prompts must list one prompt per image, in the order of file names. If there are fewer prompts than images, each
prompt is used for the same number of successive images. The scores use CLIP models of transformers (pip install
'noiseworks[pipelines]'). `--models` sets the Hub name or the local folder of a model. A score is 100 times the cosine
similarity of image and prompt. ImageReward instead uses BLIP with an MLP, and its score is standardised; for this
score, --weights takes ImageReward.pt or a Hub name, and --models takes a BERT tokenizer. The aesthetic score ignores
prompts. The published checkpoint of MPS is a pickle: its tensors are read, but no code in it is executed. The command
prints the mean of each score with the standard error, and writes all scores to scores.csv. `--pairs` writes the pairs
of images from which Diffusion-DPO learns a preference.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from experiments.arguments import named_value


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder of images, written by `generate` or otherwise")
    parser.add_argument("--prompts", nargs="+", help="texts, or one file; default: those in images.parquet")
    names = "clip_score (default), pick_score, hpsv2, mps, image_reward, aesthetic"
    parser.add_argument("--scores", nargs="+", default=["clip_score"], help=names)
    for name, metavar, about in (
        ("--models", "SCORE=MODEL", "folder or Hub name of CLIP"),
        ("--weights", "SCORE=FILE", "for hpsv2, mps, image_reward and aesthetic"),
    ):
        parser.add_argument(name, nargs="+", default=[], type=named_value, metavar=metavar, help=about)
    parser.add_argument("--local_files_only", action="store_true", help="look for Hub names in the local cache only")
    parser.add_argument("--output", type=Path, help="table of all images; default: scores.csv in the folder")
    parser.add_argument("--pairs", type=Path, help="new folder: each prompt's best and worst image by the first score")
    parser.add_argument("--batch_size", type=int, default=50, help="images per batch; default: 50")
    parser.add_argument("--cache_dir", type=Path, default=Path("runs/features"), help="default: runs/features")
    parser.add_argument("--device", help="cpu, cuda or mps; default: cuda if available, else cpu")


def run(options: Namespace) -> int:
    import math

    from callbacks.generation.folder_scores import (
        SCORES,
        build_score,
        check_scores,
        listed_images,
        prompts_of,
        score_folder,
    )
    from callbacks.generation.folders import device_named
    from callbacks.generation.preference_pairs import write_pairs
    from datamodules.arguments import at_least
    from datamodules.files.whole_files import check_new, owned_path, write_csv

    models, weights = dict(options.models), dict(options.weights)
    at_least(1, batch_size=options.batch_size)
    if options.pairs is not None:
        check_new(options.pairs)
    check_scores(options.scores, models, weights)
    device = device_named(options.device)
    images, own = listed_images(options.folder)
    texts = None  # the prompts are checked before models are loaded
    if options.prompts is not None or options.pairs or any(SCORES[name].for_texts for name in options.scores):
        texts = prompts_of(len(images), options.prompts, own)
    try:
        loaded = {name: build_score(name, models, weights, options.local_files_only) for name in options.scores}
    except ImportError as error:
        raise ValueError(str(error)) from error
    output = options.output or options.folder / "scores.csv"
    with owned_path(output):
        table = score_folder(options.folder, loaded, options.prompts, options.batch_size, options.cache_dir, device)
        write_csv(output, table)
    for name in options.scores:
        deviation = table[name].std() / math.sqrt(len(table)) if len(table) > 1 else math.nan
        print(f"{name} {table[name].mean():.6g} +- {deviation:.2g} ({len(table)} images)")
    print(f"written: {output}")
    if options.pairs is not None:
        count = write_pairs(options.folder, table.assign(prompt=texts), options.scores[0], options.pairs)
        print(f"written: {options.pairs} ({count} pairs)")
    return 0
