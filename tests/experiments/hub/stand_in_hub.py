"""A server that answers like the Hugging Face Hub, with the given folders."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

COMMIT = "0123456789" * 4
REFUSED = {"secret/model": (401, "RepoNotFound"), "gated/model": (403, "GatedRepo")}


class StandInHub:
    """Serves a folder for each repository name, and records the requested files."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.asked: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and content with which the Hub answers a request for this path."""
        match = re.match(r"/(api/models/)?([\w.-]+/[\w.-]+)/(revision|tree|resolve)/([^/?]+)/?([^?]*)", path)
        assert match is not None, path
        _, repo_id, kind, revision, name = match.groups()
        if repo_id not in self.repositories:
            status, code = REFUSED.get(repo_id, (404, "RepoNotFound"))
            return status, {"X-Error-Code": code}, b"{}"
        if revision not in ("main", "v1", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        folder = self.repositories[repo_id]
        names = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
        if kind == "revision":
            siblings = [{"rfilename": each} for each in names]
            return 200, {}, json.dumps({"id": repo_id, "sha": COMMIT, "siblings": siblings}).encode()
        if kind == "tree":
            content = {each: (folder / each).read_bytes() for each in names}
            listed = [{"type": "file", "path": each, "size": len(content[each])} for each in names]
            for each in listed:
                each["oid"] = hashlib.sha1(content[str(each["path"])]).hexdigest()
            return 200, {}, json.dumps(listed).encode()
        self.asked.append(name)
        found = (folder / name).read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(found).hexdigest()}"', "X-Repo-Commit": COMMIT}, found


@contextmanager
def served(hub: StandInHub) -> Iterator[str]:
    """Serve the stand-in at a local address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """Replace the Hub by a stand-in, and use an empty cache."""
    from huggingface_hub import constants

    own = StandInHub()
    with served(own) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield own
