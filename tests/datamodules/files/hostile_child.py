"""Read files in a process with little memory, for the nightly fuzz tests: `python hostile_child.py FOLDER`.

Each file `<reader>.<number>.<suffix>` of the folder is passed to its reader. One line per file states the outcome:
`read`, `refused` with the error message, or `RAISED` for any error that is not one of this project's one-sentence
messages.
"""

import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from callbacks.certification.curves import read_log
from callbacks.labels.merge import merge_reports
from datamodules.classification.cifar import decode_parquet
from datamodules.classification.image_sets import read_list
from datamodules.classification.image_shards import ImageShards
from datamodules.classification.imagenet import read_class_map, read_labelled_batch
from datamodules.corruptions.label_noise import FromCSV
from datamodules.corruptions.label_noise.recorded import load_arrays
from datamodules.files.array_pickle import read_pickled_arrays
from datamodules.files.audio_files import digest_in, read_recording
from datamodules.files.bayer import read_raw
from datamodules.files.image_files import Crop, read_crop
from datamodules.files.mat_files import read_cells, read_mat
from datamodules.files.number_tables import read_numbers, read_svmlight, read_unnamed_numbers
from datamodules.files.pixels import read_pixels
from datamodules.files.video_files import decode_frames, facts_of
from datamodules.normals.folder_sets import read_normals
from datamodules.prompts.noise_pair_files import caption_in, read_pair
from datamodules.prompts.prompt_sets import PromptFile
from datamodules.segmentation import folder_sets, mask_files
from datamodules.segmentation.segthor import read_slice, slices_of_pickle
from datamodules.text.glue import read_columns


def read_shard(path: Path) -> None:
    """Index a shard, and decode its first image."""
    source = ImageShards(9, str(path.parent), path.name, image_size=8, resize=8).training()
    source.fetch(torch.arange(1), None)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "crop": ("jpg", lambda path: read_crop(path, Crop(8, 8), None)),
    "pixels": ("png", read_pixels),
    "mask": ("png", mask_files.read_mask),
    "resized_mask": ("png", lambda path: folder_sets.read_square_mask(path, 8)),
    "slice": ("npy", read_slice),
    "slices": ("pkl", lambda path: list(slices_of_pickle(path))),
    "normals": ("npy", read_normals),
    "raw": ("npz", read_raw),
    "pair": ("npz", lambda path: (read_pair(path), caption_in(path))),
    "batch": ("npz", read_labelled_batch),
    "pickle": ("pkl", read_pickled_arrays),
    "labels": ("pt", lambda path: load_arrays(str(path))),
    "old_labels": ("pt", lambda path: load_arrays(str(path))),
    "mat": ("mat", lambda path: read_mat(path, "X")),
    "packed_mat": ("mat", lambda path: read_mat(path, "X")),
    "hdf5": ("mat", lambda path: read_mat(path, "X")),
    "cells": ("mat", lambda path: read_cells(path, "info/boxes")),
    "wav": ("wav", lambda path: (digest_in(path), read_recording(path, 16_000, resample=True, mix_channels=True))),
    "flac": ("flac", lambda path: read_recording(path, 16_000, resample=True)),
    "video": ("mp4", lambda path: (facts_of(path), decode_frames(path, str(path)))),
    "parquet": ("parquet", lambda path: decode_parquet([path], "img", "label")),
    "parquet_shard": ("parquet", read_shard),
    "tar_shard": ("tar", read_shard),
    "numbers": ("csv", lambda path: read_numbers(path, "Set")),
    "unnamed": ("txt", lambda path: read_unnamed_numbers(path, "Set")),
    "svmlight": ("txt", lambda path: read_svmlight(path, "Set", 9)),
    "packed_svmlight": ("gz", lambda path: read_svmlight(path, "Set", 9)),
    "prompts": ("jsonl", lambda path: PromptFile(str(path)).prompts()),
    "prompts_csv": ("csv", lambda path: PromptFile(str(path)).prompts()),
    "table": ("csv", lambda path: FromCSV(str(path)).labels_and_truth(np.zeros(3, int), 3)),
    "list": ("txt", lambda path: read_list(path, 9)),
    "class_map": ("txt", read_class_map),
    "glue": ("tsv", lambda path: read_columns(path, None)),
    "log": ("tsv", read_log),
    "report": ("csv", lambda path: merge_reports([path])),
}
"""Every reader of user files: the suffix of its files, and the function that reads a file."""
MEMORY = 3 << 30
"""Bytes that reading may use in addition to the loaded libraries; a file of a few kB may unpack to 1 GiB, and to twice
as much if it is converted."""
SECONDS = 20.0


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for path in sorted(folder.iterdir()):
        print(path.name, end="\t", flush=True)  # the last line identifies a file that kills the process
        begun = time.monotonic()
        try:
            READERS[path.name.split(".")[0]][1](path)
            outcome = "read"
        except (ValueError, OSError) as error:
            named = path.name in str(error) and not isinstance(error, UnicodeError)
            outcome = f"{'refused' if named else 'RAISED without the name'}\t{' '.join(str(error).split())[:300]}"
        except Exception as error:
            outcome = f"RAISED {type(error).__name__}\t{' '.join(str(error).split())[:300]}"
        if time.monotonic() - begun > SECONDS:
            outcome = f"RAISED nothing within {SECONDS} s"
        print(outcome, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
