"""Processes that begin with everything imported: a server imports once, and forks itself for each run.

To import torch, Lightning and what a method needs takes seconds, which a sweep of runs of seconds must not pay for each
of them. A run gets the server's copy as it is after the imports, and nothing of an earlier run: random numbers, default
dtype, threads, logging and signal handlers are those of a fresh process, what dies is one run, and memory is given back
with its process. A process that is used again for one run after another would have to put all of that back by name.

The server learns what to import from its runs: each says at its end what it had to import. It starts no thread,
computes nothing and does not touch a GPU, as a process could not be forked safely after that. Where an import does, it
says so, and its client starts fresh processes from then on.

The forkserver of `multiprocessing` does not do this job (Python 3.11). Its processes hold the pipe by which it hears
that its client has ended, so a killed client leaves both running. Its modules are those at its start, where a sweep
learns them from its preflight. It is one for a whole Python process, with the environment, directory and output of its
first use. It does not say that an import has started a thread or opened a GPU, and calls nothing that `atexit` was
given. A run's group, files, variables and random numbers would be set here all the same.

    python fork_server.py SCRIPT MODULE ...        with a socket as standard input

imports the modules and runs `python SCRIPT ARGUMENTS` for each message that the socket brings.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LARGEST_MESSAGE = 2**17
MOST_HELD = 64
"""Most file descriptors in a message."""
AVAILABLE = sys.platform == "linux"
"""Whether a process of this system can be forked after it has imported much: macOS's own libraries start threads."""
WITHOUT_OPENING = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Variable by which torch tells whether there are GPUs without opening one."""
_LIBC = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent is killed, so that no run goes on unwatched."""
    _LIBC.prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


class Forked:
    """A process that a server has forked.

    Args:
        server: its parent, which tells how it ended.
        pid: its number, and that of the process group that it leads.
    """

    waiting, said = False, ""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self.server = server
        self.pid = pid

    def poll(self) -> int | None:
        """Give the exit status, the negative number of the signal that ended the process, or None while it runs."""
        self.server.listen(0)
        if self.server.gone:
            return self.server.ended.get(self.pid, -signal.SIGKILL)  # the kernel ends children with their parent
        return self.server.ended.get(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it launched."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


class ForkServer:
    """The client's side of a server.

    Args:
        script: what every process runs.
        environment: variables of the server and of its processes.
        pass_fds: file descriptors that they inherit.
        imports: modules that every run needs.
    """

    def __init__(
        self, script: Path, environment: Mapping[str, str], pass_fds: Sequence[int] = (), imports: Sequence[str] = ()
    ) -> None:
        self.ended: dict[int, int] = {}
        self.forked = 0
        self.unsafe = ""
        """Says what keeps the server from being forked again."""
        self.gone = False
        self.own = {name: environment[name] for name in (WITHOUT_OPENING,) if name in environment}
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(script), *imports],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**environment, WITHOUT_OPENING: "1"},
                pass_fds=pass_fds,
                process_group=0,  # Ctrl-C reaches the queue alone
                preexec_fn=end_with_parent,
            )

    def fork(
        self,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        script: Path | None = None,
        given: Path | None = None,
    ) -> Forked | None:
        """Run the script with some arguments.

        Args:
            arguments: what follows the script.
            log: file that standard output and error are added to.
            environment: variables that differ from the server's.
            script: another script to run in place of the server's.
            given: file that is its standard input; nothing otherwise.

        Returns:
            The process, or None if the server cannot be forked, or is gone.
        """
        request: dict[str, Any] = {"arguments": list(arguments), "log": str(log.absolute())}
        request |= {"environment": {**self.own, **environment}, "given": str(given.absolute() if given else os.devnull)}
        if script is not None:
            request["script"] = str(script)
        self.forked = 0
        with contextlib.suppress(OSError):  # gone
            self.channel.send(json.dumps(request).encode())
        while not self.forked and not self.unsafe and not self.gone:
            self.listen(None)
        return Forked(self, self.forked) if self.forked else None

    def hold(self, descriptors: Sequence[int]) -> None:
        """Let the server and its later processes inherit file descriptors, as those of locks."""
        with contextlib.suppress(OSError):  # gone
            socket.send_fds(self.channel, [json.dumps({"hold": True}).encode()], list(descriptors))

    def listen(self, seconds: float | None) -> None:
        """Wait for messages for some seconds, None for ever, and read what there is."""
        while not self.gone and select.select([self.channel], [], [], seconds)[0]:
            try:
                message = self.channel.recv(LARGEST_MESSAGE)
            except OSError:
                message = b""
            if not message:
                self.gone = True
                return
            for key, value in json.loads(message).items():
                if key == "ended":
                    self.ended[value[0]] = value[1]
                elif key == "forked":
                    self.ended.pop(value, None)  # of an earlier process of this number
                    self.forked = value
                else:
                    self.unsafe = value
            seconds = 0

    def close(self) -> None:
        """End the server, and with it what it has forked."""
        self.gone = True
        self.channel.close()
        self.process.kill()
        self.process.wait()


# the server's side


def serve(channel: socket.socket, imports: Sequence[str]) -> dict[str, Any] | None:
    """Fork for every message, and tell the client how the processes end.

    Args:
        channel: connection to the client.
        imports: modules to begin with.

    Returns:
        In a new process, what it shall do; None in the server, when the client is gone.
    """
    notes: dict[int, int] = {}  # process -> file that it writes down its imports in
    unsafe, learnt = "", [*imports]
    wakes, wakened = socket.socketpair()
    wakened.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakened.fileno())
    while True:
        if learnt:
            unsafe, learnt = unsafe or learn(learnt), []
        ready = select.select([channel, wakes], [], [])[0]
        if wakes in ready:
            wakes.recv(4096)
            for pid, status in list(_ended()):
                channel.send(json.dumps({"ended": [pid, status]}).encode())
                with open(notes.pop(pid), encoding="utf-8") as file:
                    file.seek(0)
                    learnt += file.read().split()
        if channel in ready:
            message, held, *_ = socket.recv_fds(channel, LARGEST_MESSAGE, MOST_HELD)
            if not message:
                return None
            request = json.loads(message)
            if "hold" in request:
                for each in held:
                    os.set_inheritable(each, True)  # by what runs launch, too
                continue
            if unsafe:
                channel.send(json.dumps({"unsafe": unsafe}).encode())
                continue
            note = os.memfd_create("imported")
            server = os.getpid()
            pid = os.fork()
            if pid == 0:
                request["note"] = note
                channel.close()
                wakes.close()
                signal.set_wakeup_fd(-1)
                wakened.close()
                for each in notes.values():
                    os.close(each)
                _become(request, server)
                return request
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # before anybody is told of it
            notes[pid] = note
            channel.send(json.dumps({"forked": pid}).encode())


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def learn(names: Sequence[str]) -> str:
    """Import modules that a run had imported.

    Returns:
        What keeps this process from being forked afterwards; nothing if it can be.
    """
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception, SystemExit):  # as of a module that a run had made itself
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection would copy the pages that processes share
    if threading.active_count() > 1:
        return f"{threading.enumerate()[-1].name}, a thread that an import has started"
    pid = os.fork()
    if pid == 0:
        torch = sys.modules.get("torch")
        os._exit(torch is not None and torch.cuda._is_in_bad_fork())
    return "a GPU, which an import has opened" if os.waitpid(pid, 0)[1] else ""


def _become(request: Mapping[str, Any], server: int) -> None:
    """Make a new process what a fresh one would be: its group, signals, files, variables and random numbers."""
    os.setpgid(0, 0)  # processes that the run launches end with it
    end_with_parent()
    if os.getppid() != server:
        os._exit(1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, path, mode in (
        (0, request["given"], os.O_RDONLY),
        *((n, request["log"], os.O_WRONLY | os.O_APPEND) for n in (1, 2)),
    ):
        opened = os.open(path, mode)
        os.dup2(opened, number)
        if opened != number:
            os.close(opened)
    os.environ.pop(WITHOUT_OPENING, None)
    os.environ.update(request["environment"])
    sys.argv[:] = [request.get("script", sys.argv[0]), *request["arguments"]]
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # Python's own generator does it by itself


def _run(note: int) -> int:
    """Run the script, write down which modules it had to import, and give the exit status."""
    before = set(sys.modules)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        with open(note, "w", encoding="utf-8") as file:
            file.write("\n".join(name for name in sys.modules if name not in before))


def _end_process(status: int) -> None:
    """End as the interpreter does, without taking every module apart, which would copy all pages that are shared."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    imports = sys.argv[2:]
    sys.argv[:] = sys.argv[1:2]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    doing = serve(socket.socket(fileno=0), imports)
    if doing is not None:
        _end_process(_run(doing["note"]))
