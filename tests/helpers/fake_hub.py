"""A small local server that speaks the Hub's protocol as far as the real client uses it here.

Repositories with commits, preupload, LFS hand-off, commit, tree, resolve with ranges; tokens with
rights; and faults on request: a status, a connection cut in the middle, a slow answer.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

OWNER_TOKEN = "hf_owner_of_me"
READER_TOKEN = "hf_reader_only"
OWNER = "me"


@dataclass(frozen=True)
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    commits: list[Commit] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1].files if self.commits else {}


@dataclass
class Fault:
    """What happens to requests that match, `times` times."""

    pattern: str
    """Of `METHOD /path`."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int = -1
    """Bytes of the answer (of a PUT: of the request) after which the connection is closed."""
    waits: bool = False
    """Answer only after `GET /test/release`."""
    times: int = 1


class FakeHub(ThreadingHTTPServer):
    """The server and what is stored on it."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.large_suffixes: tuple[str, ...] = (".safetensors",)
        """Files that are handed over by LFS; the client would use Xet for them if it may."""
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.is_waiting = threading.Event()
        self.is_released = threading.Event()

    def take_fault(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are part of the tests."""


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: FakeHub

    ROUTES = (
        ("GET", r"/test/until-waiting", "until_waiting"),
        ("GET", r"/test/release", "release"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/main", "preupload"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "large_file_batch"),
        ("PUT", r"/large-files/(\w+)", "large_file"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/main", "commit"),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", "tree"),
        ("HEAD|GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.fault = self.server.take_fault(f"{self.command} {path}")
        if self.fault and self.fault.waits:
            self.server.is_waiting.set()
            self.server.is_released.wait(60)
        self.body = self.read_body()
        if self.fault and self.fault.status:
            self.answer(self.fault.status, {"error": "made to fail"}, **self.fault.headers)
            return
        for methods, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split("|"):
                getattr(self, name)(*match.groups())
                return
        self.answer(404, {"error": f"no route {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = serve  # noqa: N815

    def read_body(self) -> bytes:
        if self.command == "PUT" and self.fault and self.fault.cut_after >= 0:
            self.rfile.read(self.fault.cut_after)
            self.cut()
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.close()
        raise ConnectionAbortedError

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.cut_after >= 0:
            self.wfile.write(body[: self.fault.cut_after])
            self.wfile.flush()
            time.sleep(0.05)  # let the client have these bytes before the connection ends
            self.cut()
        self.wfile.write(body)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def may_write(self, repo_id: str) -> bool:
        """Answers itself if not."""
        if self.token not in (OWNER_TOKEN, READER_TOKEN):
            self.answer(401, {"error": "Invalid username or password."})
            return False
        if self.token == READER_TOKEN or repo_id.partition("/")[0] != OWNER:
            self.answer(403, {"error": "You don't have the rights."})
            return False
        return True

    def readable(self, repo_id: str) -> Repository | None:
        """The repository; answers itself if there is none for this token."""
        if self.token and self.token not in (OWNER_TOKEN, READER_TOKEN):
            message = "Invalid credentials in Authorization header"
            self.answer(401, {"error": message}, X_Error_Message=message)
            return None
        repository = self.server.repositories.get(repo_id)
        if repository is None or (repository.private and not self.token):
            code = 404 if self.token else 401
            self.answer(code, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return repository

    def at_revision(self, repository: Repository, revision: str | None) -> Commit | None:
        for commit in reversed(repository.commits):
            if revision in (None, "main", commit.oid):
                return commit
        self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        return None

    def until_waiting(self) -> None:
        self.server.is_waiting.wait(60)
        self.answer(200)

    def release(self) -> None:
        self.server.is_released.set()
        self.answer(200)

    def create(self) -> None:
        wanted = json.loads(self.body)
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        if not self.may_write(repo_id):
            return
        if repo_id in self.server.repositories:
            url = f"{self.server.url}/{repo_id}"
            self.answer(409, {"error": "You already created this model repo", "url": url})
            return
        self.server.repositories[repo_id] = Repository(wanted.get("visibility") == "private")
        self.answer(200, {"url": f"{self.server.url}/{repo_id}"})

    def validate(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, repo_id: str) -> None:
        if not self.may_write(repo_id) or not (repository := self.readable(repo_id)):
            return
        files = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            is_large = path.endswith(self.server.large_suffixes)
            entry = {"path": path, "uploadMode": "lfs" if is_large else "regular"}
            stored = repository.files.get(path)
            if stored is not None:
                entry["oid"] = sha256(stored) if is_large else git_hash(stored)
            files.append({**entry, "shouldIgnore": False})
        self.answer(200, {"files": files})

    def large_file_batch(self, repo_id: str) -> None:
        if not self.may_write(repo_id):
            return
        objects = []
        for item in json.loads(self.body)["objects"]:
            if item["oid"] not in self.server.large_files:
                upload = {"href": f"{self.server.url}/large-files/{item['oid']}"}
                item["actions"] = {"upload": upload}
            objects.append(item)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def large_file(self, oid: str) -> None:
        if sha256(self.body) != oid:
            self.answer(400, {"error": "checksum"})
            return
        self.server.large_files[oid] = self.body
        self.answer(200)

    def commit(self, repo_id: str) -> None:
        if not self.may_write(repo_id) or not (repository := self.readable(repo_id)):
            return
        message, files = "", dict(repository.files)
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.large_files[value["oid"]]
        number = f"{repo_id} {len(repository.commits)}".encode()
        commit = Commit(hashlib.sha1(number).hexdigest(), message, files)
        repository.commits.append(commit)
        url = f"{self.server.url}/{repo_id}/commit/{commit.oid}"
        self.answer(200, {"commitUrl": url, "commitOid": commit.oid})

    def info(self, repo_id: str, revision: str | None) -> None:
        if (repository := self.readable(repo_id)) and (
            commit := self.at_revision(repository, revision)
        ):
            files = [{"rfilename": path} for path in commit.files]
            self.answer(200, {"id": repo_id, "sha": commit.oid, "siblings": files})

    def tree(self, repo_id: str, revision: str) -> None:
        if not (repository := self.readable(repo_id)):
            return
        if not (commit := self.at_revision(repository, revision)):
            return
        entries = []
        for path, content in commit.files.items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
            if path.endswith(self.server.large_suffixes):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self.answer(200, entries)

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        if not (repository := self.readable(repo_id)):
            return
        if not (commit := self.at_revision(repository, revision)):
            return
        if path not in commit.files:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit.oid)
            return
        content = commit.files[path]
        headers = {"X_Repo_Commit": commit.oid, "ETag": f'"{sha256(content)}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            if self.command == "HEAD":
                headers["Content-Length"] = str(len(content))
            self.answer(200, content, **headers)
            return
        start = int(wanted[1])
        part = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(206, content[start:], Content_Range=part, **headers)

    def log_message(self, format: str, *arguments: Any) -> None:
        """The tests speak for themselves."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
