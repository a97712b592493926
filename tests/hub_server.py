"""A small Hub on loopback, for the unmodified clients: repositories, uploads by LFS and by Xet, commits, files.

Faults are asked for by the number of the request: a status, or a connection that is dropped before the request is
handled or after, or silence. Everything else is as the real one answers, as far as the clients look.
"""

import base64
import copy
import fnmatch
import hashlib
import json
import re
import struct
import threading
import time
import urllib.parse
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

ACCOUNTS = {
    "hf_write": {"name": "user", "orgs": [{"name": "club", "roleInOrg": "write"}], "role": "write"},
    "hf_read": {"name": "user", "orgs": [], "role": "read"},
}
LFS = (".parquet", ".png", ".arrow")


class Answer(Exception):
    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass
class Stored:
    """A file in a commit: its bytes, or the size and hash of an LFS pointer."""

    content: bytes | None
    size: int
    sha256: str = ""

    @property
    def oid(self):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()
        blob = pointer if self.content is None else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


@dataclass
class Repository:
    private: bool = False
    card: dict = field(default_factory=dict)
    commits: list = field(default_factory=lambda: [("0" * 39 + "1", "initial commit", {})])

    def at(self, revision):
        if revision == "main":
            return self.commits[-1]
        found = [commit for commit in self.commits if commit[0] == revision]
        if not found:
            raise Answer(404, "no such revision", "RevisionNotFound")
        return found[0]

    @property
    def files(self):
        return self.commits[-1][2]


class HubServer(ThreadingHTTPServer):
    daemon_threads = True
    silence = 20.0  # seconds without an answer, before the connection is dropped

    def __init__(self, folder: Path, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.folder = folder
        self.lock = threading.RLock()
        self.reset()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reset(self, state=({}, {}), faults=None):
        """Restore an earlier state; faults map the number of a request to a status, "before", "after" or "silence"."""
        with self.lock:
            self.repositories, self.blobs = copy.deepcopy(state[0]), dict(state[1])
            self.watch(faults)

    def state(self):
        """What there is, for `reset`."""
        with self.lock:
            return copy.deepcopy(self.repositories), dict(self.blobs)

    def watch(self, faults=None):
        """Count requests from 0 again."""
        self.faults, self.log = dict(faults or {}), []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def dataset(self, name) -> Repository:
        return self.repositories["datasets", name]

    def read(self, name, path) -> bytes:
        """The bytes of a file at main, unless it was uploaded by Xet."""
        stored = self.dataset(name).files[path]
        return self.blobs[stored.sha256] if stored.content is None else stored.content

    def xet_hash(self, sha256):
        """Xet's hash of a file, from the shards that the client left in the store: blocks of 48 bytes."""
        wanted = _swapped(bytes.fromhex(sha256))
        for shard in self.folder.rglob("shards/*.mdb"):
            data, place = shard.read_bytes(), 48
            while data[place : place + 32] != b"\xff" * 32:
                flags, entries = struct.unpack_from("<II", data, place + 32)
                blocks = 1 + entries * (2 if flags & 0x80000000 else 1) + bool(flags & 0x40000000)
                if data[place + 48 * (blocks - 1) :][:32] == wanted:
                    return _swapped(data[place : place + 32]).hex()
                place += 48 * blocks
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits 40 ms for the client's acknowledgement of its head
    server: HubServer

    def log_message(self, *arguments):
        pass

    def do(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path, _, query = self.path.partition("?")
        self.code = None
        with self.server.lock:
            fault = self.server.faults.get(len(self.server.log))
            self.server.log.append(f"{self.command} {path}")
        if fault == "silence":
            threading.Event().wait(self.server.silence)
            return self.drop()
        with self.server.lock:
            if fault == "before":
                return self.drop()
            if isinstance(fault, int):
                return self.answer({"error": f"fault {fault}"}, fault)
            try:
                response = self.handle_path(urllib.parse.unquote(path), dict(urllib.parse.parse_qsl(query)), body)
            except Answer as answer:
                self.code = answer.code
                return self.answer({"error": answer.message}, answer.status)
            if fault == "after":
                return self.drop()
        return self.answer(*response) if isinstance(response, tuple) else self.answer(response)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do

    def drop(self):
        self.close_connection = True
        self.connection.close()

    def answer(self, content, status=200, headers=()):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if self.code:
            self.send_header("X-Error-Code", self.code)
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def handle_path(self, path, query, body):
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, path):
                return method(self, body=body, query=query, **found.groupdict())
        raise Answer(404, f"no {self.command} {path}")

    @property
    def account(self):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in ACCOUNTS:
            raise Answer(401, "Invalid username or password.")
        return ACCOUNTS.get(token)

    def repository(self, kind, name, write=False):
        account = self.account
        if write and (account is None or account["role"] == "read"):
            raise Answer(403 if account else 401, "you may not write")
        found = self.server.repositories.get((kind, name))
        if found is None or (found.private and account is None):
            raise Answer(404 if account else 401, "Repository not found", "RepoNotFound")
        return found

    def whoami(self, body, query):
        if self.account is None:
            raise Answer(401, "Invalid username or password.")
        role = self.account["role"]
        return {**self.account, "type": "user", "auth": {"accessToken": {"displayName": role, "role": role}}}

    def create(self, body, query):
        asked = json.loads(body)
        if self.account is None or self.account["role"] == "read":
            raise Answer(401, "Invalid username or password.")
        owner = asked.get("organization") or self.account["name"]
        key = f"{asked['type']}s", f"{owner}/{asked['name']}"
        address = {"url": f"{self.server.url}/{key[0]}/{key[1]}"}
        if key in self.server.repositories:
            return {"error": "You already created this repo", **address}, 409
        self.server.repositories[key] = Repository(asked.get("visibility") == "private")
        return address

    def info(self, body, query, kind, name, revision="main"):
        repository = self.repository(kind, name)
        oid, _, files = repository.at(revision)
        info = {"id": name, "_id": "0", "sha": oid, "private": repository.private, "disabled": False, "tags": []}
        siblings = [{"rfilename": path} for path in files]
        return {**info, "downloads": 0, "likes": 0, "siblings": siblings, "cardData": repository.card}

    def may(self, body, query, kind, name, write=None):
        self.repository(kind, name, write=bool(write))
        return {}

    def validate(self, body, query):
        found = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        license = (yaml.safe_load(found.group(1)) if found else {}).get("license", "mit")
        if license not in ("mit", "apache-2.0"):
            return {"errors": [{"message": f'"license" must not be {license}'}]}, 400
        return {"errors": [], "warnings": []}

    def preupload(self, body, query, kind, name, revision):
        files = self.repository(kind, name, write=True).files
        ignored = files[".gitignore"].content.decode().split() if ".gitignore" in files else []
        uploads = []
        for asked in json.loads(body)["files"]:
            path = asked["path"]
            there = files.get(path)
            uploads.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(LFS) else "regular",
                    "shouldIgnore": any(fnmatch.fnmatch(path, pattern) for pattern in ignored),
                    "oid": there and (there.sha256 or there.oid),
                }
            )
        return {"files": uploads}

    def batch(self, body, query, name):
        self.repository("datasets", name, write=True)
        objects = json.loads(body)["objects"]
        for one in objects:
            if one["oid"] not in self.server.blobs:
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
        return {"objects": objects, "transfer": "basic"}

    def put(self, body, query, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Answer(400, "another content")
        self.server.blobs[oid] = body
        return {}

    def xet_token(self, body, query, kind, name, right, revision):
        self.repository(kind, name, write=right == "write")
        store, until = f"local://{self.server.folder}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(until)}
        return {"casUrl": store, "accessToken": "xet", "exp": until}, 200, headers

    def commit(self, body, query, kind, name, revision):
        repository = self.repository(kind, name, write=True)
        lines = [json.loads(line) for line in body.splitlines()]
        header, files = lines[0]["value"], dict(repository.files)
        if header.get("parentCommit", repository.commits[-1][0]) != repository.commits[-1][0]:
            raise Answer(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = Stored(content, len(content))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.blobs and not self.server.xet_hash(value["oid"]):
                    raise Answer(400, f"{value['path']} was not uploaded")
                files[value["path"]] = Stored(None, value["size"], value["oid"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = new_oid()
        repository.commits.append((oid, header["summary"], files))
        return {"commitOid": oid, "commitUrl": f"{self.server.url}/{kind}/{name}/commit/{oid}"}

    def tree(self, body, query, kind, name, revision, under=""):
        files = self.repository(kind, name).at(revision)[2]
        folder = f"{under.strip('/')}/" if under and under.strip("/") else ""
        if folder and not any(path.startswith(folder) for path in files):
            raise Answer(404, "no such folder", "EntryNotFound")
        found = {}
        for path, stored in sorted(files.items()):
            inner = path.removeprefix(folder) if path.startswith(folder) else ""
            for slash in (place for place, sign in enumerate(inner) if sign == "/"):
                below = folder + inner[:slash]
                found.setdefault(below, {"type": "directory", "path": below, "size": 0, "oid": "0" * 40})
            if inner:
                found[path] = entry(path, stored)
        deep = query.get("recursive", "").lower() == "true"
        return [one for path, one in found.items() if deep or "/" not in path.removeprefix(folder)]

    def paths(self, body, query, kind, name, revision):
        asked = urllib.parse.parse_qs(body.decode())["paths"]
        deep = self.tree(body, {"recursive": "true"}, kind, name, revision)
        return [one for one in deep if one["path"] in asked]

    def resolve(self, body, query, kind, name, revision, path):
        oid, _, files = self.repository(kind, name).at(revision)
        if path not in files:
            raise Answer(404, "Entry not found", "EntryNotFound")
        stored = files[path]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{stored.sha256 or stored.oid}"', "Accept-Ranges": "bytes"}
        content = self.server.blobs.get(stored.sha256) if stored.content is None else stored.content
        if content is None:
            route = f"{self.server.url}/api/{kind}/{name}/xet-read-token/{oid}"
            headers |= {"X-Xet-Hash": self.server.xet_hash(stored.sha256), "X-Xet-Refresh-Route": route}
            headers |= {"X-Linked-Size": str(stored.size), "X-Linked-ETag": headers["ETag"]}
            return b"", 200, headers
        first, last = 0, len(content) - 1
        if asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), min(int(asked[2] or last), last)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return content[first : last + 1], 206, headers
        return content, 200, headers | {"Content-Length": str(len(content))}

    def resolve_model(self, body, query, name, revision, path):
        return self.resolve(body, query, "models", name, revision, path)

    def refs(self, body, query, kind, name):
        oid = self.repository(kind, name).commits[-1][0]
        return {
            "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": oid}],
            "converts": [],
            "tags": [],
        }


def new_oid():
    """Return a unique name of a commit, since the client caches files by it."""
    return uuid.uuid4().hex + "0" * 8


def entry(path, stored):
    """What a listing says of a file."""
    lfs = {"oid": stored.sha256, "size": stored.size, "pointerSize": 134}
    fields = {"type": "file", "path": path, "size": stored.size, "oid": stored.oid}
    return fields | ({"lfs": lfs} if stored.sha256 else {})


def _swapped(data):
    """Xet writes a hash as four numbers, each with its last byte first."""
    return b"".join(data[place : place + 8][::-1] for place in range(0, 32, 8))


_REPO = r"/api/(?P<kind>models|datasets)/(?P<name>[\w.-]+/[\w.-]+)"
_FILE = r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
ROUTES = [
    (r"/api/whoami-v2", Handler.whoami),
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"{_REPO}", Handler.info),
    (rf"{_REPO}/revision/(?P<revision>[^/]+)", Handler.info),
    (rf"{_REPO}/auth-check(?P<write>/write)?", Handler.may),
    (rf"{_REPO}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    (rf"{_REPO}/commit/(?P<revision>[^/]+)", Handler.commit),
    (rf"{_REPO}/tree/(?P<revision>[^/]+)(?P<under>/.*)?", Handler.tree),
    (rf"{_REPO}/paths-info/(?P<revision>[^/]+)", Handler.paths),
    (rf"{_REPO}/refs", Handler.refs),
    (rf"{_REPO}/xet-(?P<right>read|write)-token/(?P<revision>[^/]+)", Handler.xet_token),
    (r"/datasets/(?P<name>[\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", Handler.batch),
    (r"/lfs/(?P<oid>\w+)", Handler.put),
    (rf"/(?P<kind>datasets)/(?P<name>[\w.-]+/[\w.-]+){_FILE}", Handler.resolve),
    (rf"/(?P<name>[\w.-]+/[\w.-]+){_FILE}", Handler.resolve_model),
]
