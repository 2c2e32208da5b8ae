"""A Hugging Face Hub of one process, on loopback and in memory: what pushing and loading by name need of its protocol.

    with LoopbackHub() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(cache_folder)})

huggingface_hub reads its address from the environment when it is imported, so a client is a new process.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_FILES = (".safetensors", ".parquet", ".tar")  # uploaded by content hash, like git LFS
TOKEN = "hf_LoopbackTokenThatMustNeverBeSeen01"
_ROUTES: list[tuple[str, re.Pattern, Callable]] = []


class LoopbackHub(ThreadingHTTPServer):
    """Serves from a background thread while the `with` block lasts.

    repositories: "models/org/name" or "datasets/org/name" -> its commits on main, oldest first, as (id, {path: content}).
    branches: the same for (repository, branch). tags: (repository, tag) -> commit id.
    private: repositories that need the token, for reading too.
    faults: (pattern of "METHOD /path", status or None), used up by the first request that matches: a refusal that quotes
        the request's headers, as the worst of servers might; None breaks the connection in the middle of what is sent.
    requests: what was asked for, as "METHOD /path".
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Request)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.branches: dict[tuple[str, str], list[tuple[str, dict[str, bytes]]]] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.private: set[str] = set()
        self.faults: list[tuple[str, int | None]] = []
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def environment(self, cache_folder: Path) -> dict[str, str]:
        """Variables that send a client here, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache_folder),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
        }

    def commit(self, repository: str, changes: dict[str, bytes | None], branch: str = "main") -> str:
        """Adds a commit; None deletes a file."""
        commits = self.history(repository, branch)
        files = {**(commits[-1][1] if commits else {}), **changes}
        files = {path: content for path, content in files.items() if content is not None}
        names = repr((repository, branch, len(commits), sorted(files))).encode()
        commits.append((hashlib.sha1(names).hexdigest(), files))
        return commits[-1][0]

    def history(self, repository: str, branch: str = "main") -> list[tuple[str, dict[str, bytes]]]:
        """The commits of a branch."""
        return self.repositories[repository] if branch == "main" else self.branches[repository, branch]

    def refs(self, repository: str) -> tuple[dict[str, str], dict[str, str]]:
        """Branches and tags, with their commits."""
        branches = {branch: commits for (owner, branch), commits in self.branches.items() if owner == repository}
        branches = {"main": self.repositories[repository], **branches}
        tags = {tag: commit for (owner, tag), commit in self.tags.items() if owner == repository}
        return {branch: commits[-1][0] for branch, commits in branches.items()}, tags

    def files_at(self, repository: str, revision: str = "main") -> tuple[str, dict[str, bytes]]:
        """Commit id and files of a branch, a tag or a commit."""
        if repository not in self.repositories:
            raise _Missing("RepoNotFound", f"no repository {repository}")
        branches, tags = self.refs(repository)
        revision = branches.get(revision) or tags.get(revision) or revision
        for branch in branches:
            for commit_id, files in self.history(repository, branch):
                if commit_id == revision:
                    return commit_id, files
        raise _Missing("RevisionNotFound", f"no revision {revision} of {repository}")


class _Missing(Exception):
    """Answered as 404 with the code by which huggingface_hub tells what is missing."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def answer(self):
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        name = f"{self.command} {path}"
        fault = next((fault for fault in self.server.faults if re.search(fault[0], name)), None)
        if fault:
            self.server.faults.remove(fault)
            self.server.requests.append(f"{name} failed")
            if fault[1] is None:
                self.rfile.read(1000)
                self.close_connection = True
                return self.connection.close()
        self.body = self._read_body()
        if fault:
            said = f"refused as the test wants; you sent {dict(self.headers)}"
            return self.reply(fault[1], {"error": said}, {"X-Error-Message": said})
        wanted = "GET" if self.command == "HEAD" else self.command
        with self.server.lock:
            self.server.requests.append(f"{self.command} {path}")
            try:
                for method, pattern, handler in _ROUTES:
                    if method == wanted and (match := pattern.fullmatch(path)):
                        self._refuse_strangers(path)
                        return self.reply(*handler(self, self.server, **match.groupdict()))
                raise _Missing("NotFound", f"this hub does not serve {self.command} {path}")
            except _Missing as missing:
                code, message = missing.args
                self.reply(404, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def _refuse_strangers(self, path: str):
        """A private repository does not exist for those without the token; nor can they change a public one."""
        if self.headers.get("Authorization") == f"Bearer {TOKEN}" or path.startswith("/large/"):
            return
        owner = next((name for name in self.server.private if name.removeprefix("models/") in path), None)
        if owner or (self.command == "POST" and "paths-info" not in path):
            raise _Missing("RepoNotFound", "no such repository, or not with this token")

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def reply(self, status: int, body: dict | list | bytes, headers: dict[str, str] | None = None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if content is body else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def _route(method: str, pattern: str) -> Callable:
    """`{kind}`, `{name}`, `{revision}`, `{path}` and `{digest}` in the pattern become arguments of the function."""
    parts = {
        "kind": "models|datasets",
        "name": "[^/]+/[^/]+",
        "revision": "[^/]+",
        "path": ".*",
        "digest": "[0-9a-f]{64}",
    }
    expression = re.sub(r"\{(\w+)\}", lambda part: f"(?P<{part[1]}>{parts[part[1]]})", pattern)

    def add(handler: Callable) -> Callable:
        _ROUTES.append((method, re.compile(expression), handler))
        return handler

    return add


@_route("GET", "/api/whoami-v2")
def _whoami(request, hub):
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        return 401, {"error": "wrong token"}
    organizations = [{"type": "org", "name": "org"}]
    token = {"displayName": "loopback", "role": "write"}
    return 200, {"type": "user", "name": "tester", "orgs": organizations, "auth": {"accessToken": token}}


@_route("POST", "/api/repos/create")
def _create(request, hub):
    wish = json.loads(request.body)
    name = f"{wish.get('organization') or 'tester'}/{wish['name']}"
    repository = f"{wish.get('type') or 'model'}s/{name}"
    if repository in hub.repositories:
        return 409, {"error": "exists already", "url": f"{hub.url}/{name}"}
    hub.repositories[repository] = []
    if wish.get("private") or wish.get("visibility") == "private":
        hub.private.add(repository)
    hub.commit(repository, {".gitattributes": b""})
    return 200, {"url": f"{hub.url}/{name}", "name": name}


@_route("POST", "/api/validate-yaml")
def _validate_card(request, hub):
    return 200, {"errors": [], "warnings": []}


@_route("GET", "/api/{kind}/{name}")
@_route("GET", "/api/{kind}/{name}/revision/{revision}")
def _describe(request, hub, kind, name, revision="main"):
    commit_id, files = hub.files_at(f"{kind}/{name}", revision)
    names = [{"rfilename": path} for path in sorted(files)]
    private = f"{kind}/{name}" in hub.private
    return 200, {"id": name, "sha": commit_id, "private": private, "gated": False, "tags": [], "siblings": names}


@_route("GET", "/api/{kind}/{name}/refs")
def _list_refs(request, hub, kind, name):
    hub.files_at(f"{kind}/{name}")
    branches, tags = (
        [{"name": ref, "ref": f"refs/{what}/{ref}", "targetCommit": commit} for ref, commit in refs.items()]
        for what, refs in zip(("heads", "tags"), hub.refs(f"{kind}/{name}"), strict=True)
    )
    return 200, {"branches": branches, "tags": tags, "converts": [], "pullRequests": []}


@_route("POST", "/api/{kind}/{name}/branch/{revision}")
def _branch(request, hub, kind, name, revision):
    repository = f"{kind}/{name}"
    if revision in hub.refs(repository)[0]:
        return 409, {"error": "exists already"}
    hub.branches[repository, revision] = list(hub.repositories[repository])
    return 200, {}


@_route("POST", "/api/{kind}/{name}/tag/{revision}")
def _tag(request, hub, kind, name, revision):
    wish = json.loads(request.body)
    if (f"{kind}/{name}", wish["tag"]) in hub.tags:
        return 409, {"error": "exists already"}
    hub.tags[f"{kind}/{name}", wish["tag"]] = hub.files_at(f"{kind}/{name}", revision)[0]
    return 200, {}


@_route("GET", "/api/{kind}/{name}/tree/{revision}/?{path}")
def _list(request, hub, kind, name, revision, path):
    _, files = hub.files_at(f"{kind}/{name}", revision)
    prefix = f"{path}/" if path else ""
    inside = [file for file in sorted(files) if file.startswith(prefix)]
    if path and not inside:
        raise _Missing("EntryNotFound", f"no folder {path}")
    below = [f"{prefix}{file[len(prefix) :].rpartition('/')[0]}" for file in inside if "/" in file[len(prefix) :]]
    if request.query.get("recursive", "").lower() not in ("1", "true"):
        inside = [file for file in inside if "/" not in file[len(prefix) :]]
        below = [prefix + folder[len(prefix) :].split("/")[0] for folder in below]
    folders = [
        {"type": "directory", "path": folder, "oid": _git_digest(folder.encode())} for folder in dict.fromkeys(below)
    ]
    return 200, folders + [_file_info(file, files[file]) for file in inside]


@_route("POST", "/api/{kind}/{name}/paths-info/{revision}")
def _describe_files(request, hub, kind, name, revision):
    _, files = hub.files_at(f"{kind}/{name}", revision)
    paths = json.loads(request.body)["paths"]
    return 200, [_file_info(path, files[path]) for path in paths if path in files]


@_route("POST", "/api/{kind}/{name}/preupload/{revision}")
def _plan_upload(request, hub, kind, name, revision):
    paths = [file["path"] for file in json.loads(request.body)["files"]]
    there = hub.files_at(f"{kind}/{name}", revision)[1]
    plan = [
        {
            "path": path,
            "uploadMode": "lfs" if path.endswith(LARGE_FILES) else "regular",
            "shouldIgnore": False,
            "oid": _digest(path, there[path]) if path in there else None,
        }
        for path in paths
    ]
    return 200, {"files": plan}


@_route("POST", "/(?:datasets/)?{name}[.]git/info/lfs/objects/batch")
def _plan_large_files(request, hub, name):
    objects = [{"oid": file["oid"], "size": file["size"]} for file in json.loads(request.body)["objects"]]
    for file in objects:
        if file["oid"] not in hub.large_files:
            file["actions"] = {"upload": {"href": f"{hub.url}/large/{file['oid']}", "header": {}}}
    return 200, {"transfer": "basic", "objects": objects}


@_route("PUT", "/large/{digest}")
def _take_large_file(request, hub, digest):
    if hashlib.sha256(request.body).hexdigest() != digest:
        return 400, {"error": "the content does not have this hash"}
    hub.large_files[digest] = request.body
    return 200, b""


@_route("POST", "/api/{kind}/{name}/commit/{revision}")
def _commit(request, hub, kind, name, revision):
    changes, repository = {}, f"{kind}/{name}"
    for line in request.body.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        head = hub.refs(repository)[0][revision]
        if entry["key"] == "header" and value.get("parentCommit", head) != head:
            return 412, {"error": "the branch has moved"}
        if entry["key"] == "file":
            changes[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            changes[value["path"]] = hub.large_files[value["oid"]]
        elif entry["key"] == "deletedFile":
            changes[value["path"]] = None
    commit_id = hub.commit(repository, changes, revision)
    return 200, {"commitOid": commit_id, "commitUrl": f"{hub.url}/{name}/commit/{commit_id}"}


@_route("GET", "/(?:{kind}/)?{name}/resolve/{revision}/{path}")
def _send(request, hub, kind, name, revision, path):
    commit_id, files = hub.files_at(f"{kind or 'models'}/{name}", revision)
    if path not in files:
        raise _Missing("EntryNotFound", f"no file {path}")
    content = files[path]
    headers = {"X-Repo-Commit": commit_id, "ETag": f'"{_digest(path, content)}"', "Accept-Ranges": "bytes"}
    if path.endswith(LARGE_FILES):
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
    part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if not part:
        return 200, content, headers
    first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return 206, content[first : last + 1], headers


def _file_info(path: str, content: bytes) -> dict:
    info = {"type": "file", "path": path, "size": len(content), "oid": _git_digest(content)}
    if path.endswith(LARGE_FILES):
        info["lfs"] = {"oid": _digest(path, content), "size": len(content), "pointerSize": 134}
    return info


def _digest(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LARGE_FILES) else _git_digest(content)


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
