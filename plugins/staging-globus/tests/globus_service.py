"""A stand-in for Globus Transfer and Globus Auth, which really moves files between folders that pose as endpoints.

Rule of this module: it speaks HTTP on this host, to whoever asks as the SDK does; replies have the shape of those in
``globus_sdk.testing``. A task is worked on in a thread, whether anybody asks about it or not. What goes wrong is said
beforehand, by the attributes of :class:`Endpoint` and by :meth:`GlobusService.answer_next`.
"""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
import json
import re
import shutil
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import globus_sdk
from globus_sdk.testing import get_response_set
from globus_sdk.testing.data.transfer import get_endpoint, task_list

NATIVE_CLIENT = "11111111-aaaa-4bbb-8ccc-000000000001"
CONFIDENTIAL_CLIENT = "22222222-aaaa-4bbb-8ccc-000000000002"
SECRET = "the-secret-of-the-client"
TRANSFER_SCOPE = str(globus_sdk.TransferClient.scopes.all)
_DATA_ACCESS = re.compile(r"/scopes/([0-9a-f-]{36})/data_access")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def _template(name: str, case: str = "default") -> dict[str, Any]:
    response = get_response_set(name).lookup(case)
    return copy.deepcopy(response.json)


@attrs.define
class Endpoint:
    """A folder that poses as an endpoint.

    Attributes:
        folder: what is ``/`` on it.
        needs_consent: it is a mapped collection: tokens need its data_access scope.
        paused: tasks with it do not go on.
        unreadable, unwritable: paths that may not be.
        skips: it leaves out what cannot be read, if the task says so.
        fatal: a code and a text, by path of the destination, with which a whole task fails.
    """

    uuid: str
    folder: Path
    name: str
    needs_consent: bool = False
    paused: bool = False
    unreadable: set[str] = attrs.field(factory=set)
    unwritable: set[str] = attrs.field(factory=set)
    skips: bool = True
    fatal: dict[str, tuple[str, str]] = attrs.field(factory=dict)

    def at(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def put(self, path: str, content: bytes) -> str:
        """Put a file there; return its URL."""
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_bytes(content)
        return f"globus://{self.uuid}{path}"


@attrs.define
class Task:
    """A task: its document, what was asked for, and what has become of its items."""

    document: dict[str, Any]
    asked: dict[str, Any]
    begins_at: float
    events: list[dict[str, Any]] = attrs.field(factory=list)
    moved: list[dict[str, str]] = attrs.field(factory=list)
    skipped: list[dict[str, str]] = attrs.field(factory=list)

    @property
    def over(self) -> bool:
        return self.document["status"] in ("SUCCEEDED", "FAILED")

    def event(self, code: str, description: str, path: str | None = None) -> None:
        error = code not in ("STARTED", "SUCCEEDED", "CANCELED", "PROGRESS", "PAUSED")
        details = description
        if path is not None:
            details = f"Error (transfer)\nServer: stand-in (127.0.0.1)\nFile: {path}\nMessage: {description}\n---\n"
        event = {
            "DATA_TYPE": "event",
            "code": code,
            "description": description,
            "details": details,
            "is_error": error,
            "time": _now(),
        }
        if not any(e["code"] == code and e["details"] == details for e in self.events):
            self.events.append(event)

    def end(self, status: str, code: str, description: str) -> None:
        self.document.update(status=status, completion_time=_now(), is_ok=None, nice_status=None)
        if status == "FAILED":
            self.document["fatal_error"] = {"code": code, "description": description}
        self.event(code, description)


class GlobusService:
    """The stand-in. To be used as a context manager.

    Attributes:
        url: where it is.
        endpoints: by UUID.
        tasks: by id, in the order of submission.
        log: method and path of each request.
        takes_s: seconds that a task takes.
        held: tasks do not begin while this is set.
        token_s: seconds that an access token is good for.
        gives_refresh_tokens: a login gives them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Condition()
        self._faults: list[list[Any]] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._access: dict[str, dict[str, Any]] = {}
        self._refresh: dict[str, dict[str, Any]] = {}
        self._submissions: dict[str, str] = {}
        self._stopped = False
        self.endpoints: dict[str, Endpoint] = {}
        self.tasks: dict[str, Task] = {}
        self.log: list[tuple[str, str]] = []
        self.takes_s = 0.02
        self.held = False
        self.token_s = 172800
        self.gives_refresh_tokens = True
        self._server = self._listen(0)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._mover = threading.Thread(target=self._work, name="stand-in-mover")
        self._mover.start()

    def __enter__(self) -> GlobusService:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
        self._mover.join(10)
        self.go_away()

    # --- what a test says

    def endpoint(self, name: str, **faults: Any) -> Endpoint:
        """Make an endpoint."""
        folder = self._folder / name
        folder.mkdir(parents=True)
        made = Endpoint(str(uuid.uuid4()), folder, name, **faults)
        self.endpoints[made.uuid] = made
        return made

    def answer_next(
        self, method: str, path: str, status: int, headers: dict[str, str] | None = None, times: int = 1, **body: Any
    ) -> None:
        """Answer the next requests of a method to paths that match with an error."""
        with self._lock:
            self._faults.append([method, re.compile(path), status, headers or {}, times, body])

    def count(self, method: str, path: str) -> int:
        """Return how many requests there were."""
        with self._lock:
            return sum(m == method and re.fullmatch(path, p) is not None for m, p in self.log)

    def change(self) -> threading.Condition:
        """The lock, for a test that changes things while it works."""
        return self._lock

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait until something holds; it is looked at after each request and each step of a task."""
        with self._lock:
            assert self._lock.wait_for(what, timeout_s), "the stand-in waited in vain"

    def go_away(self) -> None:
        """Refuse connections, until :meth:`come_back`."""
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        """Take connections again, at the same address."""
        self._server = self._listen(urllib.parse.urlsplit(self.url).port or 0)

    def revoke_all(self) -> None:
        """Make all tokens void, as an administrator, or a change of the password, does."""
        with self._lock:
            self._access.clear()
            self._refresh.clear()

    def expire_access(self) -> None:
        """Make all access tokens void: they are to be renewed."""
        with self._lock:
            self._access.clear()

    def log_in(self, scope: str = TRANSFER_SCOPE) -> dict[str, Any]:
        """Return the tokens of a user who has logged in."""
        with self._lock:
            return self._grant(scope, refresh=True)

    def browse(self, url: str) -> str:
        """Be the user's browser at an authorize URL; return the code that it shows."""
        query = {k: v[0] for k, v in urllib.parse.parse_qs(urllib.parse.urlsplit(url).query).items()}
        assert query["response_type"] == "code"
        assert query["client_id"] == NATIVE_CLIENT
        assert query["access_type"] == "offline"
        code = uuid.uuid4().hex
        with self._lock:
            self._codes[code] = query
        return code

    # --- HTTP

    def _listen(self, port: int) -> ThreadingHTTPServer:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, reply = service._answer(self.command, self.path, self.headers, body)
                data = json.dumps(reply).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _answer

        class Server(ThreadingHTTPServer):
            daemon_threads = False
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                # Who asked does not wait for the answer any more.
                if not isinstance(sys.exc_info()[1], ConnectionError):
                    super().handle_error(request, client_address)

        server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), name="stand-in-http").start()
        return server

    def _answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], Any]:
        parts = urllib.parse.urlsplit(path)
        with self._lock:
            self.log.append((method, parts.path))
            try:
                fault = self._fault(method, parts.path)
                if fault is not None:
                    return fault
                if parts.path.startswith("/v2/"):
                    form = {k: v[0] for k, v in urllib.parse.parse_qs(body.decode()).items()}
                    return self._auth(method, parts.path, headers, form)
                scope = self._scope(headers)
                if scope is None:
                    return _refused(401, "AuthenticationFailed", "Token is not active")
                return self._transfer(method, parts.path, parts.query, json.loads(body) if body else {}, scope)
            finally:
                self._lock.notify_all()

    def _fault(self, method: str, path: str) -> tuple[int, dict[str, str], Any] | None:
        for fault in self._faults:
            if fault[0] == method and fault[1].fullmatch(path):
                fault[4] -= 1
                if not fault[4]:
                    self._faults.remove(fault)
                body = {"code": "ServiceUnavailable", "message": "try again later", "request_id": "abc123", **fault[5]}
                return fault[2], fault[3], body
        return None

    # --- Auth

    def _grant(self, scope: str, refresh: bool) -> dict[str, Any]:
        reply = _template("auth.oauth2_exchange_code_for_tokens")
        access = f"access-{uuid.uuid4().hex}"
        expires_at = time.time() + self.token_s
        reply.update(access_token=access, scope=TRANSFER_SCOPE, expires_in=self.token_s)
        self._access[access] = {"scope": scope, "expires_at": expires_at}
        if refresh and self.gives_refresh_tokens:
            reply["refresh_token"] = f"refresh-{uuid.uuid4().hex}"
            self._refresh[reply["refresh_token"]] = {"scope": scope}
        return reply

    def _auth(self, method: str, path: str, headers: Any, form: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        if path == "/v2/oauth2/token/revoke":
            self._access.pop(form["token"], None)
            self._refresh.pop(form["token"], None)
            return 200, {}, _template("auth.oauth2_revoke_token")
        assert path == "/v2/oauth2/token", path
        if form["grant_type"] == "client_credentials":
            expected = base64.b64encode(f"{CONFIDENTIAL_CLIENT}:{SECRET}".encode()).decode()
            if headers["Authorization"] != f"Basic {expected}":
                return 401, {}, {"error": "invalid_client"}
            return 200, {}, self._grant(form["scope"], refresh=False)
        if form["client_id"] != NATIVE_CLIENT:
            return 401, {}, {"error": "invalid_client"}
        if form["grant_type"] == "refresh_token":
            known = self._refresh.get(form["refresh_token"])
            if known is None:
                return 400, {}, {"error": "invalid_grant"}
            return 200, {}, self._grant(known["scope"], refresh=False)
        asked = self._codes.pop(form["code"], None)
        if asked is None:
            return 401, {}, _template("auth.oauth2_exchange_code_for_tokens", "invalid_grant")
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == asked["code_challenge"]
        assert form["redirect_uri"] == asked["redirect_uri"]
        return 200, {}, self._grant(asked["scope"], refresh=True)

    def _scope(self, headers: Any) -> str | None:
        found = self._access.get(str(headers["Authorization"]).removeprefix("Bearer "))
        return found["scope"] if found is not None and time.time() < found["expires_at"] else None

    # --- Transfer

    def _transfer(
        self, method: str, path: str, query: str, body: dict[str, Any], scope: str
    ) -> tuple[int, dict[str, str], Any]:
        if path == "/v0.10/submission_id":
            return 200, {}, {**_template("transfer.get_submission_id"), "value": str(uuid.uuid4())}
        if path == "/v0.10/transfer" and method == "POST":
            return self._submit(body, scope)
        found = re.fullmatch(r"/v0\.10/endpoint/([^/]+)", path)
        if found:
            endpoint = self.endpoints.get(found[1])
            if endpoint is None:
                return _refused(404, "EndpointNotFound", f"No such endpoint {found[1]}")
            document = copy.deepcopy(get_endpoint.ENDPOINT_DOC)
            return 200, {}, {**document, "id": endpoint.uuid, "display_name": endpoint.name}
        found = re.fullmatch(r"/v0\.10/task/([^/]+)(/\w+)?", path)
        assert found, path
        task = self.tasks.get(found[1])
        if task is None:
            return _refused(404, "TaskNotFound", f"No such task {found[1]}")
        return 200, {}, self._of_task(task, found[2], urllib.parse.parse_qs(query))

    def _of_task(self, task: Task, what: str | None, query: dict[str, list[str]]) -> dict[str, Any]:
        if what is None:
            return task.document
        if what == "/cancel":
            if not task.over:
                task.end("FAILED", "CANCELED", "The task was canceled")
            return {"DATA_TYPE": "result", "code": "Canceled", "message": "The task has been cancelled successfully."}
        if what == "/pause_info":
            rules = (
                [{"DATA_TYPE": "pause_rule_limited", "message": "back at noon"}] if task.document["is_paused"] else []
            )
            return {"DATA_TYPE": "pause_info_limited", "pause_rules": rules, "source_pause_message": None}
        if what == "/event_list":
            wanted = query.get("filter") == ["is_error:1"]
            newest = [event for event in reversed(task.events) if event["is_error"] or not wanted]
            return {"DATA_TYPE": "event_list", "DATA": newest, "offset": 0, "limit": 100, "total": len(newest)}
        name = what.strip("/")
        rows = {"successful_transfers": task.moved, "skipped_errors": task.skipped}[name]
        assert task.over, f"{name} is for tasks that are over"
        # In pages of two, so that pages are turned.
        begin = int(query.get("marker", ["0"])[0])
        more = begin + 2 if len(rows) > begin + 2 else None
        return {"DATA_TYPE": name, "marker": begin, "next_marker": more, "DATA": rows[begin : begin + 2]}

    def _submit(self, body: dict[str, Any], scope: str) -> tuple[int, dict[str, str], Any]:
        assert body["DATA_TYPE"] == "transfer"
        if not body["DATA"]:
            return 400, {}, _template("transfer.submit_transfer", "failure")
        for end in ("source_endpoint", "destination_endpoint"):
            endpoint = self.endpoints.get(body[end])
            if endpoint is None:
                return _refused(404, "EndpointNotFound", f"No such endpoint {body[end]}")
            if endpoint.needs_consent and endpoint.uuid not in _DATA_ACCESS.findall(scope):
                wanted = f"{TRANSFER_SCOPE}[*https://auth.globus.org/scopes/{endpoint.uuid}/data_access]"
                return _refused(
                    403, "ConsentRequired", "Missing required data_access consent", required_scopes=[wanted]
                )
        reply = _template("transfer.submit_transfer")
        known = self._submissions.get(body["submission_id"])
        if known is not None:
            return 200, {}, {**reply, "code": "Duplicate", "task_id": known, "submission_id": body["submission_id"]}
        task_id = str(uuid.uuid4())
        self._submissions[body["submission_id"]] = task_id
        self.tasks[task_id] = Task(self._document(task_id, body), body, time.monotonic() + self.takes_s)
        return 202, {}, {**reply, "task_id": task_id, "submission_id": body["submission_id"]}

    def _document(self, task_id: str, body: dict[str, Any]) -> dict[str, Any]:
        document = copy.deepcopy(task_list.TASK_LIST_DOC["DATA"][0])
        ends = {}
        for end in ("source", "destination"):
            endpoint = self.endpoints[body[f"{end}_endpoint"]]
            ends[f"{end}_endpoint_id"] = endpoint.uuid
            ends[f"{end}_endpoint_display_name"] = endpoint.name
        document.update(
            ends,
            DATA_TYPE="task",
            task_id=task_id,
            status="ACTIVE",
            nice_status="Queued",
            is_ok=True,
            completion_time=None,
            request_time=_now(),
            deadline=body["deadline"],
            label=body["label"],
            files=len(body["DATA"]),
            files_transferred=0,
            skip_source_errors=body["skip_source_errors"],
        )
        return document

    # --- the work

    def _work(self) -> None:
        with self._lock:
            while not self._stopped:
                now = time.monotonic()
                waiting = [task for task in self.tasks.values() if not task.over]
                for task in waiting:
                    if not self.held and now >= task.begins_at:
                        self._go_on(task)
                self._lock.notify_all()
                self._lock.wait(0.01 if waiting else None)

    def _go_on(self, task: Task) -> None:
        if task.document["status"] == "INACTIVE":
            return
        if datetime.datetime.fromisoformat(task.asked["deadline"]) <= datetime.datetime.now(datetime.UTC):
            task.end("FAILED", "EXPIRED", "The task has not completed by its deadline")
            return
        source = self.endpoints[task.asked["source_endpoint"]]
        destination = self.endpoints[task.asked["destination_endpoint"]]
        paused = source.paused or destination.paused
        task.document["is_paused"] = paused
        if paused:
            task.document.update(is_ok=False, nice_status="PAUSED", nice_status_short_description="paused by the admin")
            task.event("PAUSED", "The administrator has paused the endpoint for maintenance")
            return
        task.event("STARTED", "started")
        done = {item["source_path"] for item in (*task.moved, *task.skipped)}
        stuck: list[str] = []
        for item in task.asked["DATA"]:
            if item["source_path"] in done:
                continue
            if item["destination_path"] in destination.fatal:
                task.event(*destination.fatal[item["destination_path"]], item["destination_path"])
                task.end("FAILED", *destination.fatal[item["destination_path"]])
                return
            code = self._move(task, item, source, destination)
            if code is not None:
                stuck.append(code)
        if stuck:
            task.document.update(is_ok=False, nice_status=stuck[-1], nice_status_short_description=stuck[-1].lower())
            task.document["faults"] += 1
        else:
            task.document["subtasks_skipped_errors"] = len(task.skipped)
            task.end("SUCCEEDED", "SUCCEEDED", "The task has succeeded")

    def _move(self, task: Task, item: dict[str, str], source: Endpoint, destination: Endpoint) -> str | None:
        """Move one file; return the code of what keeps it from being moved."""
        path = item["source_path"]
        code, text = "", ""
        if path in source.unreadable:
            code, text = "PERMISSION_DENIED", "550 Permission denied"
        elif not source.at(path).is_file():
            code, text = "FILE_NOT_FOUND", "550 No such file or directory"
        if code and task.asked["skip_source_errors"] and source.skips:
            row = {"DATA_TYPE": "skipped_error", "error_code": code, "error_details": f"Error\nFile: {path}\n{text}"}
            task.skipped.append({**row, "source_path": path, "destination_path": item["destination_path"]})
            return None
        if not code and item["destination_path"] in destination.unwritable:
            code, text, path = "PERMISSION_DENIED", "553 Permission denied", item["destination_path"]
        if code:
            task.event(code, text, path)
            return code
        there = destination.at(item["destination_path"])
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.at(item["source_path"]), there)
        task.moved.append({**item, "DATA_TYPE": "successful_transfer"})
        task.document["files_transferred"] += 1
        return None


def _refused(status: int, code: str, message: str, **more: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    return status, {}, {"code": code, "message": message, "request_id": "oUAA6Sq2P", "resource": "/", **more}
