"""Train models of their own in several processes: rows that are dealt out, and a strategy that averages no gradients.

Models that are trained together, such as the nodes of a network or the members of a population, are rows of stacked
tensors, and each process hosts a block of them (`Hosted`). Under the strategy `Independent` no process is given another
one's weights or gradients; a module exchanges what it has to say itself. A checkpoint holds the rows of all models, and
is read by any number of processes. If a process is killed, the others say which, and end.
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
"""Seconds that a process has to end by an error of its own once another one is lost."""
BROKEN = re.compile(r"connection|broken pipe|socket|gloo|nccl|remote process|timed? ?out", re.IGNORECASE)
"""Errors of a collective that another process left."""


class Hosted(nn.Module):
    """Parameters and buffers with a row for each of several models, of which a process keeps a block once it is dealt.

    Args:
        count: number of models over all processes.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.own = range(count)
        """The models that this process hosts."""

    def deal(self) -> None:
        """Keep the rows of this process alone. It is called before training, a test or a prediction.

        Raises:
            ValueError: if a process would have none.
        """
        own = collectives.block(self.count, collectives.rank(), collectives.world_size())
        if not own:
            processes = collectives.world_size()
            raise ValueError(f"{self.count} models cannot be shared by {processes} processes: use at most {self.count}")
        if own != self.own:
            for tensor in (*self.parameters(), *self.buffers()):
                tensor.data = tensor.data[own.start : own.stop].clone()
            self.own = own

    def whole(self, rows: Tensor) -> Tensor:
        """Gather the rows of all models, `[count, ...]`, from those of each process, without gradient.

        Every process calls it. A single process gets what it gives.
        """
        rows = rows.detach()
        return rows if len(self.own) == self.count else gather_rows(rows, share_sizes(self.count))

    def part(self, whole: Tensor) -> Tensor:
        """Take this process's rows of those of all models, `[count, ...]`."""
        return whole[self.own.start : self.own.stop]


class LostProcess(ConnectionError):
    """A process of the run is gone; the message says which."""


class Heartbeats(threading.Thread):
    """Tell every process which other one is gone, whatever it waits for.

    Each process counts up a number in a store of process 0, which watches the numbers. A process that learns of a lost
    one has some seconds to end by an error of its own. If it waits on, for a collective that nobody will complete, it
    says what is lost and ends.

    Args:
        strategy: the processes.
        patience: seconds without a beat after which a process is lost.
    """

    def __init__(self, strategy: DDPStrategy, patience: float) -> None:
        super().__init__(daemon=True, name="lost processes")
        self.rank, self.processes, self.patience = strategy.global_rank, strategy.world_size, patience
        self.interval = min(1.0, patience / 10)
        self.lost = ""
        """Says which process is gone, once one is."""
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
                self.lost = f"{self.names[0]} does not answer any more: it was killed or hangs"
        time.sleep(GRACE)
        if self.running:
            print(f"error: {self.message}", file=sys.stderr, flush=True)
            os._exit(1)

    def _beat(self) -> None:
        """Talk to the store, which no other thread does: without process 0's machine the answer never comes."""
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
            self.lost = f"{self.names[0]} does not answer any more: it ended or was killed"

    def _watch(self) -> None:
        now = time.monotonic()
        for rank, (beats, since) in enumerate(self.beaten):
            if (count := self.store.add(f"beats/{rank}", 0)) != beats:
                self.beaten[rank] = (count, now)
            elif now - since > self.patience:
                self._say(f"{self.names[rank]} was not heard of for {self.patience:g} s: it was killed or hangs")

    def _say(self, sentence: str) -> None:
        self.store.compare_set("lost", "", sentence)  # the first sentence stays

    def _ask(self, call: Callable[[], None]) -> None:
        """Let the store be talked to, and wait until that is done, a process is lost or patience ends."""
        done, end = threading.Event(), time.monotonic() + self.patience
        self.calls.put((call, done))
        while not (self.lost or done.wait(0.02)) and time.monotonic() < end:
            pass

    def _count_left(self, more: int) -> None:
        self.left = self.store.add("left", more)

    @property
    def message(self) -> str:
        return f"{self.lost}; --resume RUN_DIRECTORY goes on from the last checkpoint, on any number of processes"

    def enter(self) -> None:
        """Begin a run, in which no process may be lost."""
        self.running = True
        self.runs += 1

    def leave(self) -> None:
        """End a run. Process 0, whose end would be taken for a loss, waits for the others to end theirs."""
        end = time.monotonic() + self.patience
        self._ask(lambda: self._count_left(1))
        while self.rank == 0 and self.left < self.runs * self.processes and not self.lost and time.monotonic() < end:
            self._ask(lambda: self._count_left(0))
        self.running = False

    def fail(self, exception: BaseException) -> None:
        """End a run by an error: one that another process's loss caused says so, and of any other the others hear.

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
            time.sleep(3 * self.interval)  # until the others have read in its store what is lost
        if lost:
            raise LostProcess(self.message) from exception


class _UntilWatched(ChildProcessObserver):
    """Lightning's watch over the processes that it starts, which kills all without saying why, until `Heartbeats`."""

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
    """Let each process train the models that it hosts, by gradients of its own.

    Nothing is broadcast or averaged. Modules keep what differs between processes in `Hosted`, whose rows a checkpoint
    holds whole, and the state that an optimizer has for them.

    Args:
        patience: seconds after which a process that gives no sign is lost, and the others end with an error that says
            which it is.

    Raises:
        LostProcess: if a process is lost.
        ValueError: if `patience` is not positive, or batch normalisation is to be synchronised.
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
                "trainer.sync_batchnorm must be false: processes that train models of their own share none"
            )
        super(DDPStrategy, self).setup(trainer)  # without what makes processes alike

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
        """Change what an optimizer's state has for each row of the models."""
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
    """Refuse several processes under a strategy that would make them alike.

    Raises:
        ValueError: names the strategy and the layer of configuration that sets it.
    """
    if trainer.world_size > 1 and not isinstance(trainer.strategy, Independent):
        raise ValueError(
            f"trainer.strategy must be {Independent.__module__}.Independent on several processes "
            f"(--config configs/trainer/independent.yaml), got {type(trainer.strategy).__name__}"
        )
