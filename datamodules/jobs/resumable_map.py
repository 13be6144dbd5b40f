"""Long work on items: each is computed once, by all ranks together, however often the run is killed."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lightning.pytorch.utilities import rank_zero_info

from datamodules.distributed.collectives import rank, world_size
from datamodules.files.whole_files import remove_partial_files
from datamodules.jobs.peers import Peers
from datamodules.jobs.settings import reject_other_settings, stored_settings, write_settings
from datamodules.jobs.stores import Store

SECONDS_BETWEEN_REPORTS = 60.0


class ResumableMap:
    """Computes the items that a store lacks, sharded over ranks, and lets a killed run continue.

        with ResumableMap(csv_files(folder), settings, folder / "settings.json") as job:
            job.run(keys, lambda positions: ((position, table_of(position)) for position in positions))

    The settings are written before the first result. Results of other settings are rejected, and so are results
    without settings; settings without results are replaced. An error of a rank ends all of them, see `Peers`.

    Args:
        store: keeps the results, on storage that all ranks share.
        settings: what results depend on, as JSON values; those of rank 0 count.
        settings_file: where they are written.
        remedy: what to do about results of other settings, for the message.
        told_to_end: whether the run was told to end, as by SIGTERM.
        name: what is computed, for the lines that show progress; None is the name of the store's folder.
        peers: the ranks, where they have met already and part later.

    Raises:
        ValueError: when it is entered, if the store's results were made with other settings, all of which are named.
    """

    def __init__(
        self,
        store: Store,
        settings: dict[str, Any],
        settings_file: Path,
        remedy: str = "use another directory",
        told_to_end: Callable[[], bool] = lambda: False,
        name: str | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.settings_file = settings_file
        self.remedy = remedy
        self.name = name or store.folder.name
        self.peers = peers or Peers(store.folder, told_to_end)
        self._meets = peers is None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()
        if self._meets:
            self.peers.__exit__(kind, error, trace)

    def open(self) -> None:
        """Begin, together with all other ranks."""
        if self._meets:
            self.peers.open()
        try:
            self.peers.on_first_rank(self._settle)
        except BaseException as error:
            self.peers.fail(error)
            raise

    def close(self) -> None:
        """End, together with all other ranks."""
        self.__exit__(None, None, None)

    def _settle(self) -> None:
        """Write the settings, or compare them with those of the results."""
        self.store.tidy()
        remove_partial_files(self.settings_file.parent, self.settings_file.stem)
        found = stored_settings(self.settings_file)
        if self.store.is_empty():
            write_settings(self.settings_file, self.settings)
        elif found is None:
            raise ValueError(
                f"{self.store.folder} holds results, and {self.settings_file}, which says with what settings they "
                f"were made, is missing: restore it, or remove {self.store.folder} to start again"
            )
        else:
            reject_other_settings(found, self.settings, f"what {self.store.folder} holds", self.remedy)

    def fill(
        self,
        keys: Sequence[Any],
        compute: Callable[[list[int]], Iterable[Any]],
        digests: Sequence[str] | None = None,
    ) -> list[Any]:
        """Compute those of this rank's items that have no result yet, as in the step of a loop over batches.

        Args:
            keys: of a batch.
            compute: maps the positions of missing keys to their results.
            digests: for each item a digest of what its result is made from.

        Returns:
            The keys of the items that were computed.
        """
        try:
            missing = self.store.missing(keys, digests)
            if missing:
                for position, value in zip(missing, compute(missing), strict=True):
                    self.store.write(keys[position], value, "" if digests is None else digests[position])
            self.peers.check()
        except BaseException as error:
            self.peers.fail(error)
            raise
        return [keys[position] for position in missing]

    def run(
        self,
        keys: Sequence[Any],
        compute: Callable[[list[int]], Iterable[tuple[int, Any]]],
        digests: Sequence[str] | None = None,
        together: bool = False,
        progress: Callable[[], None] | None = None,
    ) -> None:
        """Compute all items that have no result yet, and return when all ranks have computed their shards.

        Args:
            keys: of all items, the same on all ranks.
            compute: given the positions of this rank's missing keys, yields each with its result, in any order.
            digests: for each item a digest of what its result is made from.
            together: whether all ranks compute each item together, and rank 0 writes it.
            progress: shows it, called after each item and while this rank waits for others; None shows a line a minute.
        """
        progress = progress or self._reports(keys)
        missing = self.peers.on_first_rank(lambda: self.store.missing(keys, digests))
        own = missing if together else missing[rank() :: world_size()]
        for position, value in compute(own):
            if rank() == 0 or not together:
                self.store.write(keys[position], value, "" if digests is None else digests[position])
            self.peers.check()
            progress()
        self.store.close()
        self.peers.on_first_rank(lambda: None, progress)

    def _reports(self, keys: Sequence[Any]) -> Callable[[], None]:
        """Make a function that tells at most once a minute, on rank 0, how many items are done."""
        said = time.monotonic()

        def report() -> None:
            nonlocal said
            if rank() == 0 and time.monotonic() - said > SECONDS_BETWEEN_REPORTS:
                said = time.monotonic()
                rank_zero_info(f"{self.name}: {len(keys) - len(self.store.missing(keys))} of {len(keys)} done")

        return report
