"""Resumable computation of many items, which are sharded over ranks.

If the run is killed, finished items are kept.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from datamodules.distributed.collectives import rank, world_size
from datamodules.files.whole_files import owned_path, remove_partial_files
from datamodules.jobs.peers import Peers
from datamodules.jobs.settings import reject_other_settings, stored_settings, write_settings
from datamodules.jobs.stores import Store

SECONDS_BETWEEN_REPORTS = 60.0


class ResumableMap:
    """Compute the missing items of a store, sharded over ranks.

    A killed run can be resumed.

        with ResumableMap(csv_files(folder), settings, folder / "settings.json") as job:
            job.run(keys, lambda positions: ((position, table_of(position)) for position in positions))

    The settings are written before the first result. Existing results are rejected if their recorded settings are
    missing or differ from `settings`. Recorded settings without results are overwritten. An error on one rank stops all
    ranks, see `Peers`. Rank 0 locks the folder of the store for all ranks, so that only one job at a time writes to it.

    Args:
        store: store of the results. It must be on storage that all ranks share.
        settings: all settings on which the results depend, as JSON values. The settings of rank 0 are used.
        settings_file: file that records the settings.
        remedy: advice in the error message that is raised if existing results have different settings.
        told_to_end: function that returns whether the run was asked to stop, for example by SIGTERM.
        name: name of the job in progress messages. None means the name of the folder of the store.
        peers: an open `Peers` context, which the caller closes. None opens a new context. Another job's `Peers` implies
            that this job's folder is locked, too.
        patience: time in seconds to wait for another job that writes to the store.

    Raises:
        ValueError: on entering, if another job writes to the store, or if the results in the store were computed with
            other settings. The message names the other process or lists the differences.
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
        patience: float = 0.0,
    ) -> None:
        self.store = store
        self.settings = settings
        self.settings_file = settings_file
        self.remedy = remedy
        self.name = name or store.folder.name
        self.peers = peers or Peers(store.folder, told_to_end)
        self.patience = patience
        self._meets = peers is None
        self._owned = ExitStack()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()
        try:
            if self._meets:
                self.peers.__exit__(kind, error, trace)
        finally:
            self._owned.close()

    def open(self) -> None:
        """Start the job.

        All ranks must call this method.
        """
        if self._meets:
            self.peers.open()
        self.on_first_rank(self._settle)

    def on_first_rank(self, action: Callable[[], None]) -> None:
        """Run an action on rank 0 after all ranks have called this method. An error stops all ranks."""
        try:
            self.peers.on_first_rank(action)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        self.peers.fail(error)
        self._owned.close()

    def close(self) -> None:
        """End the job.

        All ranks must call this method.
        """
        self.__exit__(None, None, None)

    def _settle(self) -> None:
        """Lock the store, and write the settings, or compare them with the recorded settings."""
        if self._meets:
            self._owned.enter_context(owned_path(self.store.folder, self.patience, self.remedy))
        self.store.tidy()
        remove_partial_files(self.settings_file.parent, self.settings_file.stem)
        found = stored_settings(self.settings_file)
        if self.store.is_empty():
            write_settings(self.settings_file, self.settings)
        elif found is None:
            raise ValueError(
                f"{self.store.folder} has results, but {self.settings_file}, which records their settings, is missing: "
                f"restore it, or remove {self.store.folder} to start again"
            )
        else:
            reject_other_settings(found, self.settings, f"the content of {self.store.folder}", self.remedy)

    def fill(
        self,
        keys: Sequence[Any],
        compute: Callable[[list[int]], Iterable[Any]],
        digests: Sequence[str] | None = None,
    ) -> list[Any]:
        """Compute the results that are missing for a batch of items of this rank.

        Call this method in a loop over batches.

        Args:
            keys: keys of the items of the batch.
            compute: function that maps the positions of missing keys in `keys` to their results.
            digests: for each item, a digest of its inputs.

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
            self._fail(error)
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
            keys: keys of all items, the same on all ranks.
            compute: function that maps positions of missing keys in `keys` to an iterator of (position, result), in any
                order. It is called on each rank with a share of the positions.
            digests: for each item, a digest of its inputs.
            together: whether all ranks compute each item together, and rank 0 writes the result. False shards the items
                over ranks.
            progress: callback that shows the progress. It is called after each item, and while this rank waits for the
                other ranks. None prints one line per minute.
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
        """Return a function that reports how many items are done.

        The function prints on rank 0, at most once per minute.
        """
        said = time.monotonic()

        def report() -> None:
            nonlocal said
            if rank() == 0 and time.monotonic() - said > SECONDS_BETWEEN_REPORTS:
                said = time.monotonic()
                from lightning.pytorch.utilities import rank_zero_info

                rank_zero_info(f"{self.name}: {len(keys) - len(self.store.missing(keys))} of {len(keys)} done")

        return report
