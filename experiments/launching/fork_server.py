"""Server process that imports modules once and starts each run as a fork of itself.

Importing torch, Lightning and a method's modules takes seconds. This is too long to repeat in every run of a sweep. A
run is therefore a forked copy of a server that has imported all modules. The copy contains no state of earlier runs:
random number generators, default dtype, threads, logging and signal handlers are the same as in a new process. A crash
affects only one run, and the memory of a run is freed when the run ends. If one process were reused for several runs,
all this state would have to be reset explicitly.

Before a run ends, it reports which modules it had to import itself. The server imports these modules for later runs.
The server does not start threads, compute anything or use a GPU, because a process that does so cannot be forked
safely. If an import starts a thread or uses a GPU, the server reports this, and the client then starts each run as a
new process.

The forkserver of `multiprocessing` (Python 3.11) cannot replace this server, for several reasons. If its client is
killed, the forkserver and its processes keep running: a closed pipe should signal the end of the client, but the
processes keep this pipe open. It preloads modules only at its start, when it is not yet known which modules the runs of
a sweep need. There is only one forkserver per Python process, and it keeps the environment, directory and output of its
first use. It does not detect imports that start a thread or use a GPU, and does not run `atexit` handlers. The process
group, files, environment variables and random number generators of a run would still have to be set here.

    python fork_server.py SCRIPT MODULE ...        with a socket as standard input

This command imports the modules and runs `python SCRIPT ARGUMENTS` for each message on the socket.
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
"""Maximum number of file descriptors in a message."""
CLOSE_SECONDS = 10.0
AVAILABLE = sys.platform == "linux"
"""Whether a process can fork after many imports. On macOS, it cannot, because system libraries start threads."""
WITHOUT_OPENING = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Environment variable that makes torch detect GPUs without opening them."""
_LIBC = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, so that no run continues unattended."""
    _LIBC.prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


class Forked:
    """A process that was forked by a server. It leads the process group with its ID."""

    waiting, said = False, ""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self.server = server
        self.pid = pid

    def poll(self) -> int | None:
        """Return None while the process runs, then its exit status, or the negative signal number if it was killed."""
        self.server.listen(0)
        if self.server.gone:
            return self.server.ended.get(self.pid, -signal.SIGKILL)  # the kernel kills children with their parent
        return self.server.ended.get(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


class ForkServer:
    """Client of a fork server.

    Args:
        script: script that every process runs.
        environment: environment variables of the server and its processes.
        imports: modules that the server imports at its start.
    """

    def __init__(self, script: Path, environment: Mapping[str, str], imports: Sequence[str] = ()) -> None:
        self.ended: dict[int, int] = {}
        self.forked = 0
        self.unsafe = ""
        """Reason why the server can no longer be forked. Empty if it can be forked."""
        self.gone = False
        self.own = {name: environment[name] for name in (WITHOUT_OPENING,) if name in environment}
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(script), *imports],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**environment, WITHOUT_OPENING: "1"},
                process_group=0,  # Ctrl-C is sent only to the queue
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
        """Run a script in a forked process, or return None if the server cannot be forked or has ended.

        Args:
            arguments: arguments of the script.
            log: file to which standard output and standard error are appended.
            environment: environment variables to set or change. All others are those of the server.
            script: script to run. None means the script of the server.
            given: file for standard input. None means empty input.
        """
        request: dict[str, Any] = {"arguments": list(arguments), "log": str(log.absolute())}
        request |= {"environment": {**self.own, **environment}, "given": str(given.absolute() if given else os.devnull)}
        if script is not None:
            request["script"] = str(script)
        self.forked = 0
        with contextlib.suppress(OSError):  # the server has ended
            self.channel.send(json.dumps(request).encode())
        while not self.forked and not self.unsafe and not self.gone:
            self.listen(None)
        return Forked(self, self.forked) if self.forked else None

    def hold(self, descriptors: Sequence[int]) -> None:
        """Pass file descriptors, such as those of locks, to the server and its later processes."""
        with contextlib.suppress(OSError):  # the server has ended
            socket.send_fds(self.channel, [json.dumps({"hold": True}).encode()], list(descriptors))

    def listen(self, seconds: float | None) -> None:
        """Wait for messages for at most `seconds`, or indefinitely if `seconds` is None, and process them."""
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
                    self.ended.pop(value, None)  # status of an earlier process with this ID
                    self.forked = value
                else:
                    self.unsafe = value
            seconds = 0

    def close(self) -> None:
        """Kill the server and its forked processes."""
        self.gone = True
        self.channel.close()
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may wait for a disk
            self.process.wait(CLOSE_SECONDS)


# server side


def serve(channel: socket.socket, imports: Sequence[str]) -> dict[str, Any] | None:
    """Fork a process for each request of the client, and report the exit statuses.

    Return the request in the forked process that must process it, and None in the server after the client has ended.
    """
    notes: dict[int, int] = {}  # file to which each process writes its imports, by process ID
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
            for pid, status in list(_wait_for_end()):
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
                    os.set_inheritable(each, True)  # child processes of runs inherit them too
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
                os.setpgid(pid, pid)  # before the client is notified
            notes[pid] = note
            channel.send(json.dumps({"forked": pid}).encode())


def _wait_for_end() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def learn(names: Sequence[str]) -> str:
    """Import modules that a run has imported, and return the reason if this process can no longer be forked."""
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception, SystemExit):  # fails, for example, for a module that the run created
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # garbage collection would copy memory pages that processes share
    if threading.active_count() > 1:
        return f"an import started the thread {threading.enumerate()[-1].name}"
    pid = os.fork()
    if pid == 0:
        torch = sys.modules.get("torch")
        os._exit(torch is not None and torch.cuda._is_in_bad_fork())
    return "an import opened a GPU" if os.waitpid(pid, 0)[1] else ""


def _become(request: Mapping[str, Any], server: int) -> None:
    """Give a forked process the state of a new process: process group, signals, files, variables, random generators."""
    os.setpgid(0, 0)  # so that child processes end with the run
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
        sys.modules["numpy"].random.seed()  # after a fork, Python reseeds only its own generator


def _run(note: int) -> int:
    """Run the script, write the names of newly imported modules, and return the exit status."""
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
    """Exit like the interpreter, but do not tear down modules: this would copy all shared memory pages."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    imports = sys.argv[2:]
    sys.argv[:] = sys.argv[1:2]
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    doing = serve(socket.socket(fileno=0), imports)
    if doing is not None:
        _end_process(_run(doing["note"]))
