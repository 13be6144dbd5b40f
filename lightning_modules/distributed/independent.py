"""Train separate models on several ranks: model rows sharded over ranks, and a strategy without gradient averaging.

Several models that are trained together, such as the nodes of a network or the members of a population, are rows of
stacked tensors. Each rank hosts a block of rows (`Hosted`). Under the strategy `Independent`, weights and gradients are
not communicated; modules implement their own communication. A checkpoint holds the rows of all models, and loads on any
number of ranks. If a process is killed, the other processes exit with an error that names the killed process.
"""

import contextlib
import os
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.arguments import positive
from datamodules.distributed import collectives
from lightning_modules.distributed.per_sample import gather_rows, share_sizes
from lightning_modules.lightning_internals import (
    ChildProcessObserver,
    SubprocessScriptLauncher,
    set_num_threads_if_needed,
)

GRACE = 10.0
"""Seconds in which a process may end with its own error once another process is lost."""
BROKEN = re.compile(r"connection|broken pipe|socket|gloo|nccl|remote process|timed? ?out", re.IGNORECASE)
"""Patterns of errors from a collective that another process has left."""


class Hosted(nn.Module):
    """Parameters and buffers with a row for each of several models; after `deal`, a rank keeps only its block of rows.

    Args:
        count: number of models over all ranks.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.own = range(count)
        """The models hosted by this rank."""

    def deal(self) -> None:
        """Keep only the rows of the models that this rank hosts. This is called before training, testing or prediction.

        Raises:
            ValueError: if a rank would have no rows.
        """
        own = collectives.block(self.count, collectives.rank(), collectives.world_size())
        if not own:
            processes = collectives.world_size()
            raise ValueError(f"{self.count} models cannot be sharded over {processes} ranks: use at most {self.count}")
        if own != self.own:
            for tensor in (*self.parameters(), *self.buffers()):
                tensor.data = tensor.data[own.start : own.stop].clone()
            self.own = own

    def whole(self, rows: Tensor) -> Tensor:
        """Gather the rows of all models, `[count, ...]`, from all ranks, without gradient.

        Must be called on every rank. With a single process, the input is returned.
        """
        rows = rows.detach()
        return rows if len(self.own) == self.count else gather_rows(rows, share_sizes(self.count))

    def part(self, whole: Tensor) -> Tensor:
        """Select the rows that this rank hosts from the rows of all models, `[count, ...]`."""
        return whole[self.own.start : self.own.stop]


class LostProcess(ConnectionError):
    """Raised if a process of the run is lost; the message names the process."""


class Heartbeats(threading.Thread):
    """Report to all processes that a process was lost, even if they wait for a collective.

    Each process increments a counter in a store of process 0, which monitors the counters. A process that learns of a
    lost process has some seconds to end with its own error. A process that still waits for a collective after this time
    reports the loss and exits.

    Args:
        strategy: strategy of the run.
        patience: seconds without a heartbeat after which a process counts as lost.
    """

    def __init__(self, strategy: DDPStrategy, patience: float) -> None:
        super().__init__(daemon=True, name="lost processes")
        self.rank, self.processes, self.patience = strategy.global_rank, strategy.world_size, patience
        self.interval = min(1.0, patience / 10)
        self.lost = ""
        """Names the lost process, if any."""
        self.running = False
        self.runs = self.left = 0
        assert strategy.cluster_environment is not None
        options: Any = {"timeout": timedelta(seconds=patience), "wait_for_workers": False}
        address = strategy.cluster_environment.main_address
        own = dist.TCPStore(address, 0, is_master=True, **options) if self.rank == 0 else None
        port = strategy.broadcast(own.port if own else 0)
        self.store = own or dist.TCPStore(address, port, **options)
        names = collectives.all_gather(f"{socket.gethostname()}, PID {os.getpid()}")
        self.names = [f"process {rank} of {self.processes} ({name})" for rank, name in enumerate(names)]
        self.answered = time.monotonic()
        self.beaten = [(0, self.answered)] * self.processes
        self.calls: queue.Queue[tuple[Callable[[], None], threading.Event]] = queue.Queue()
        threading.Thread(target=self._beat, daemon=True, name="heartbeats").start()
        self.start()

    def run(self) -> None:
        while not self.lost:
            time.sleep(self.interval)
            if time.monotonic() - self.answered > self.patience:
                self.lost = f"{self.names[0]} does not respond: it was killed or hangs"
        time.sleep(GRACE)
        if self.running:
            print(f"error: {self.message}", file=sys.stderr, flush=True)
            os._exit(1)

    def _beat(self) -> None:
        """Access the store.

        Only this thread may do so, because a call never returns if the machine of process 0 is gone.
        """
        try:
            while not self.lost:
                self.store.add(f"beats/{self.rank}", 1)
                if self.rank == 0:
                    self._watch()
                if self.store.check(["lost"]):
                    self.lost = self.store.get("lost").decode()
                self.answered = time.monotonic()
                with contextlib.suppress(queue.Empty):
                    call, done = self.calls.get(timeout=self.interval)
                    call()
                    done.set()
        except RuntimeError:  # the connection is closed
            self.lost = f"{self.names[0]} does not respond: it ended or was killed"

    def _watch(self) -> None:
        now = time.monotonic()
        for rank, (beats, since) in enumerate(self.beaten):
            if (count := self.store.add(f"beats/{rank}", 0)) != beats:
                self.beaten[rank] = (count, now)
            elif now - since > self.patience:
                self._say(f"{self.names[rank]} sent no heartbeat for {self.patience:g} s: it was killed or hangs")

    def _say(self, sentence: str) -> None:
        self.store.compare_set("lost", "", sentence)  # keeps the first sentence

    def _ask(self, call: Callable[[], None]) -> None:
        """Ask the thread to access the store, and wait until it has done so, until a process is lost, or until time
        runs out.
        """
        done, end = threading.Event(), time.monotonic() + self.patience
        self.calls.put((call, done))
        while not (self.lost or done.wait(0.02)) and time.monotonic() < end:
            pass

    def _count_left(self, more: int) -> None:
        self.left = self.store.add("left", more)

    @property
    def message(self) -> str:
        return f"{self.lost}; resume from the last checkpoint with --resume RUN_DIRECTORY, on any number of processes"

    def enter(self) -> None:
        """Start a run; from here on, the loss of a process is an error."""
        self.running = True
        self.runs += 1

    def leave(self) -> None:
        """End a run. Process 0 waits for the others to end, since its exit would count as a loss."""
        end = time.monotonic() + self.patience
        self._ask(lambda: self._count_left(1))
        while self.rank == 0 and self.left < self.runs * self.processes and not self.lost and time.monotonic() < end:
            self._ask(lambda: self._count_left(0))
        self.running = False

    def fail(self, exception: BaseException) -> None:
        """End a run with an error; report the error to other ranks unless the loss of a process caused the error.

        Raises:
            LostProcess: if another process is lost.
        """
        lost, end = "", time.monotonic() + self.patience + GRACE
        if isinstance(exception, RuntimeError) and BROKEN.search(str(exception)):
            while not (lost := self.lost) and time.monotonic() < end:
                time.sleep(self.interval)
        self.running = False
        if not lost:
            reason = " ".join(f"{type(exception).__name__} {exception}".split())
            self._ask(lambda: self._say(f"{self.names[self.rank]} ended with {reason[:300]}"))
        if self.rank == 0:
            time.sleep(3 * self.interval)  # so that the others can read the message in its store
        if lost:
            raise LostProcess(self.message) from exception


class _UntilWatched(ChildProcessObserver):
    """The observer of Lightning, which is active until `Heartbeats` starts.

    It kills all processes without giving a reason.
    """

    watched = False

    def _run(self) -> bool:
        return self.watched or super()._run()


class _Launcher(SubprocessScriptLauncher):
    observer: _UntilWatched | None = None

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            self.observer = _UntilWatched(os.getpid(), self.procs)
            self.observer.start()
        set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class Independent(DDPStrategy):
    """Let each rank train the models it hosts, without averaging gradients.

    Neither weights nor gradients are broadcast or averaged. Modules keep per-rank parameters in `Hosted`; a checkpoint
    holds the rows of all models, and their optimizer state.

    Args:
        patience: seconds without a heartbeat after which a process counts as lost; other processes then end with an
            error that names the lost process.

    Raises:
        LostProcess: if a process is lost.
        ValueError: if `patience` is not positive, or batch normalisation is set to be synchronised.
    """

    def __init__(self, patience: float = 30.0) -> None:
        positive(patience=patience)
        super().__init__()
        self.patience = patience
        self.heartbeats: Heartbeats | None = None

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_environment(self) -> None:
        super().setup_environment()
        if self.world_size > 1:
            self.heartbeats = self.heartbeats or Heartbeats(self, self.patience)
            self.heartbeats.enter()
        if isinstance(self._launcher, _Launcher) and self._launcher.observer is not None:
            self._launcher.observer.watched = True

    def setup(self, trainer: Any) -> None:
        if self._layer_sync is not None:
            raise ValueError(
                "trainer.sync_batchnorm must be false: ranks that train separate models share no statistics"
            )
        super(DDPStrategy, self).setup(trainer)  # skips DDP's wrapping and synchronisation

    def _setup_model(self, model: Any) -> Any:
        return model

    # checkpoints

    def _parts(self) -> Iterator[tuple[str, Hosted]]:
        assert self.lightning_module is not None
        for name, part in self.lightning_module.named_modules():
            if isinstance(part, Hosted):
                yield f"{name}.", part

    def lightning_module_state_dict(self) -> dict[str, Any]:
        state = super().lightning_module_state_dict()
        for prefix, part in self._parts():
            state |= {prefix + name: part.whole(rows) for name, rows in part.state_dict().items()}
        return state

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        state = dict(checkpoint["state_dict"])
        for prefix, part in self._parts():
            state |= {name: part.part(state[name]) for key in part.state_dict() if (name := prefix + key) in state}
        super().load_model_state_dict({**checkpoint, "state_dict": state}, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return self._by_rows(optimizer, super().optimizer_state(optimizer), Hosted.whole)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        pairs = zip(self.optimizers, checkpoint["optimizer_states"], strict=True)
        own = [self._by_rows(optimizer, state, Hosted.part) for optimizer, state in pairs]
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": own})

    def _by_rows(self, optimizer: Optimizer, state: Any, change: Callable[[Hosted, Tensor], Tensor]) -> dict[str, Any]:
        """Apply a change to the optimizer state of each model row."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        parts = {id(parameter): part for _, part in self._parts() for parameter in part.parameters()}
        changed = {}
        for number, values in state["state"].items():
            part = parts.get(id(parameters[number]))
            of_rows = {key for key, value in values.items() if isinstance(value, Tensor) and value.ndim}
            changed[number] = {k: change(part, v) if part and k in of_rows else v for k, v in values.items()}
        return {**state, "state": changed}

    # errors

    def on_exception(self, exception: BaseException) -> None:
        if self.heartbeats is not None and self.heartbeats.running:
            self.heartbeats.fail(exception)

    def teardown(self) -> None:
        if self.heartbeats is not None and self.heartbeats.running:
            self.heartbeats.leave()
        super().teardown()


def require_independent(trainer: Any) -> None:
    """Reject strategies that would synchronise several ranks.

    Raises:
        ValueError: if the strategy is rejected; the message names the required strategy and its config.
    """
    if trainer.world_size > 1 and not isinstance(trainer.strategy, Independent):
        raise ValueError(
            f"trainer.strategy must be {Independent.__module__}.Independent on several processes "
            f"(--config configs/trainer/independent.yaml), got {type(trainer.strategy).__name__}"
        )
