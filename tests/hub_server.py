"""As much of the Hugging Face hub as a download asks for, on loopback: the repository org/tiny, and how a hub fails."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Other repositories answer every question as their names say: status, X-Error-Code of the hub.
REFUSED = {
    "forbidden": (403, "GatedRepo"), "none": (404, "RepoNotFound"), "secret": (401, "RepoNotFound"), "ill": (500, ""),
}  # fmt: skip


class Asked(NamedTuple):
    method: str
    path: str
    range: str | None


class Hub(ThreadingHTTPServer):
    """files: what org/tiny holds. Of org/gated anyone may read the list, and nobody the files, as at the true hub.

    faults: what happens to the next questions for a file (or "list", the repository's own page), one after the other:
    a status; "cut" sends half of what was asked for and hangs up; "short" has the file end 100 bytes early; "endless"
    sends zeros until the other side hangs up.
    """

    def __init__(self, files: Path):
        super().__init__(("127.0.0.1", 0), Answers)
        self.files, self.asked, self.faults = files, [], {}
        self.streaming, self.hung_up = threading.Event(), threading.Event()  # of what is endless
        self.address = f"http://127.0.0.1:{self.server_port}"

    def got(self, name: str) -> list[str | None]:
        """The Range of every GET of a file."""
        return [one.range for one in self.asked if one.method == "GET" and one.path.endswith(f"/{name}")]


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, self.path.split("?")[0]
        hub.asked.append(Asked(self.command, path, self.headers.get("Range")))
        for word, (status, code) in REFUSED.items():
            if f"org/{word}" in path:
                return self.answer(status, b"", {"X-Error-Code": code} if code else {})
        if "/api/models/" in path:
            return self.about(path)
        if "org/gated" in path:
            return self.answer(401, b"", {"X-Error-Code": "GatedRepo"})
        file = hub.files / path.rsplit("/")[-1]
        return self.file(file) if file.is_file() else self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def about(self, path: str):
        if fault := self.fault("list"):
            return self.answer(fault, b"")
        if "/tree/" not in path:
            name = path.split("/api/models/")[1].split("/revision")[0]
            return self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
        files = sorted(self.server.files.iterdir())
        entries = [{"path": file.name, "size": file.stat().st_size, "oid": oid(file)} for file in files]
        return self.answer(200, json.dumps([{"type": "file"} | entry for entry in entries]).encode())

    def file(self, file: Path):
        fault = self.fault(file.name) if self.command == "GET" else None
        if isinstance(fault, int):
            return self.answer(fault, b"")
        if fault == "endless":
            return self.stream()
        whole = file.read_bytes()
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers.get("Range") else 0
        body = whole[start:-100] if fault == "short" else whole[start:]
        headers = {"ETag": f'"{oid(file)}"', "X-Repo-Commit": COMMIT}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        self.answer(206 if start else 200, body, headers, cut=fault == "cut")

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Length", str(2**40))
        self.end_headers()
        self.close_connection = True
        try:
            while not self.server.hung_up.wait(0.01):
                self.wfile.write(bytes(2**16))
                self.server.streaming.set()
        except OSError:
            self.server.hung_up.set()

    def fault(self, name: str) -> str | int | None:
        left = self.server.faults.get(name)
        return left.pop(0) if left else None

    def answer(self, status: int, body: bytes, headers=(), cut: bool = False):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, *args):
        """Nothing on stderr."""


def oid(file: Path) -> str:
    return f"{file.name:0<40.40}"


@contextmanager
def serving(files: Path) -> Iterator[Hub]:
    hub = Hub(files)
    hub.daemon_threads = True
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.hung_up.set()
        hub.shutdown()
        thread.join()
        hub.server_close()
