"""Recordings of a folder, dealt out to training, validation and test."""

from collections.abc import Sequence

from datamodules.speech.recordings import Split


def of_split(names: Sequence[str], split: Split, held_out: float, what: str) -> list[str]:
    """Take a split's part of the recordings, in the order of their names.

    What lies in one subfolder, as the recordings of one speaker do, stays in one split.

    Args:
        names: paths of the recordings, relative to their folder, sorted.
        split: the part that is asked for.
        held_out: part of the subfolders (or recordings outside any) for validation, and as much for tests, the last
            ones; 0 gives all of them, whatever the split.
        what: the argument that named the folder, for messages.

    Raises:
        ValueError: if the splits cannot have one each.
    """
    if held_out == 0:
        return list(names)
    groups = list(dict.fromkeys(name.split("/")[0] for name in names))
    held = max(round(held_out * len(groups)), 1)
    ends = {"training": (0, -2 * held), "validation": (-2 * held, -held), "test": (-held, None)}[split]
    if len(groups) < 2 * held + 1:
        kind = "recordings" if len(groups) == len(names) else "recordings and subfolders"
        raise ValueError(f"{what} has {len(groups)} {kind}: training, validation and test need one each")
    chosen = set(groups[slice(*ends)])
    return [name for name in names if name.split("/")[0] in chosen]
