"""Train separate models on different ranks, without averaging gradients.

Models that are trained together, such as the nodes of a network or the members of a population, are stored as rows of
stacked tensors. Each rank hosts a block of rows (`Hosted`). The strategy `Independent` communicates neither weights nor
gradients between ranks. A module itself must implement any communication that its models need. A checkpoint contains
the rows of all models, and can be loaded with any number of ranks. If a process is killed, the other processes exit
with an error that names the killed process.
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
"""Number of seconds that a process may still need to end with its own error after another process was lost."""
BROKEN = re.compile(r"connection|broken pipe|socket|gloo|nccl|remote process|timed? ?out", re.IGNORECASE)
"""Pattern for error messages that collective operations raise after another process has ended."""


class Hosted(nn.Module):
    """Parameters and buffers with one row for each model. After a call of `deal`, each rank stores only its own rows.

    Args:
        count: total number of models on all ranks.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.own = range(count)
        """Indices of the models on this rank."""

    def deal(self) -> None:
        """Keep only the rows of this rank's models; this method must be called before training, testing and prediction.

        Raises:
            ValueError: if there are more ranks than models.
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
        """Gather the rows of all models from all ranks; the result, `[count, ...]`, is detached from the graph.

        This method must be called on every rank. With a single process, it returns `rows` itself.
        """
        rows = rows.detach()
        return rows if len(self.own) == self.count else gather_rows(rows, share_sizes(self.count))

    def part(self, whole: Tensor) -> Tensor:
        """Select the rows of this rank's models from `whole`, the rows of all models, `[count, ...]`."""
        return whole[self.own.start : self.own.stop]


class LostProcess(ConnectionError):
    """Error raised after a process of the run was lost; the message names this process."""


class Heartbeats(threading.Thread):
    """Thread that detects lost processes and ends the other processes, even if they wait in a collective.

    Each process increments its own counter in a store; process 0 hosts the store, and monitors all counters. When a
    process is lost, each remaining process has `GRACE` seconds to end with its own error. If a process is still running
    after this time, for example because it waits in a collective, its `Heartbeats` thread prints an error and ends it.

    Args:
        strategy: strategy of the run.
        patience: number of seconds without a heartbeat after which a process counts as lost.
    """

    def __init__(self, strategy: DDPStrategy, patience: float) -> None:
        super().__init__(daemon=True, name="lost processes")
        self.rank, self.processes, self.patience = strategy.global_rank, strategy.world_size, patience
        self.interval = min(1.0, patience / 10)
        self.lost = ""
        """Message that names the lost process; empty if no process was lost."""
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
        """Exchange heartbeats through the store in a loop; this function runs in a separate thread.

        No other thread may access the store, because such a thread would wait for ever if the machine of process 0 were
        down.
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
        except RuntimeError:  # the connection was closed
            self.lost = f"{self.names[0]} does not respond: it ended or was killed"

    def _watch(self) -> None:
        now = time.monotonic()
        for rank, (beats, since) in enumerate(self.beaten):
            if (count := self.store.add(f"beats/{rank}", 0)) != beats:
                self.beaten[rank] = (count, now)
            elif now - since > self.patience:
                self._say(f"{self.names[rank]} sent no heartbeat for {self.patience:g} s: it was killed or hangs")

    def _say(self, sentence: str) -> None:
        self.store.compare_set("lost", "", sentence)  # does not overwrite an earlier message

    def _ask(self, call: Callable[[], None]) -> None:
        """Run `call` in the thread of `_beat`, because only this thread may access the store.

        Wait until the call has returned, a process is lost, or `patience` seconds have passed.
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
        """Mark the start of a run. During the run, the loss of a process is an error."""
        self.running = True
        self.runs += 1

    def leave(self) -> None:
        """End a run.

        Process 0 waits for all other processes, because its own exit would count as the loss of a process.
        """
        end = time.monotonic() + self.patience
        self._ask(lambda: self._count_left(1))
        while self.rank == 0 and self.left < self.runs * self.processes and not self.lost and time.monotonic() < end:
            self._ask(lambda: self._count_left(0))
        self.running = False

    def fail(self, exception: BaseException) -> None:
        """End a run after an error. Report the error to the other ranks, unless a lost process caused it.

        Raises:
            LostProcess: if the error was caused by a lost process.
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
            time.sleep(3 * self.interval)  # gives the other processes time to read the message from the store
        if lost:
            raise LostProcess(self.message) from exception


class _UntilWatched(ChildProcessObserver):
    """Lightning's observer of child processes, which is active only until `Heartbeats` starts.

    Afterwards, it is switched off, because it would kill all processes without reporting a reason.
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
    """Strategy in which each rank trains its own models, without averaging gradients.

    Neither weights nor gradients are broadcast or averaged. Parameters that differ between ranks must be in `Hosted`
    modules. A checkpoint contains the rows of all models, and their optimizer state.

    Args:
        patience: number of seconds without a heartbeat after which a process counts as lost. The other processes then
            end with an error that names the lost process.
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
                "trainer.sync_batchnorm must be false: ranks that train separate models do not share statistics"
            )
        super(DDPStrategy, self).setup(trainer)  # skips the DDP wrapper and the synchronisation of weights

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
        """Apply the function `change` to those tensors of the optimizer state that have one row for each model."""
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
    """Reject strategies that synchronise weights or gradients, if there are several ranks."""
    if trainer.world_size > 1 and not isinstance(trainer.strategy, Independent):
        raise ValueError(
            f"trainer.strategy must be {Independent.__module__}.Independent on several processes "
            f"(--config configs/trainer/independent.yaml), got {type(trainer.strategy).__name__}"
        )
