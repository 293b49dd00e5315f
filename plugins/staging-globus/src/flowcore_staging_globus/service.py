"""The questions that are put to Globus Transfer, one method for each.

Rules of this module: each method asks once, or twice if only the login was too old, and waits for one answer, for a
bounded time. Pauses and further attempts are their caller's. All errors are :class:`Problem`.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import globus_sdk
from globus_sdk.transport import RetryConfig

from flowcore_staging_globus.auth import Login
from flowcore_staging_globus.batches import Item
from flowcore_staging_globus.outcomes import Report, details_wanted, pause_messages
from flowcore_staging_globus.problems import Problem, told

T = TypeVar("T")

logger = logging.getLogger("flowcore.staging.globus")

#: Seconds for one answer of Globus Transfer.
ANSWER_S = 30.0
#: Events of a task that are looked at.
_EVENTS = 100


class Service:
    """Globus Transfer, for one login. One thread at a time.

    Args:
        login: who asks.
        verify_checksum: whether Globus compares the files on both sides after it has moved them.
        encrypt_data: whether they travel encrypted.
    """

    def __init__(self, login: Login, verify_checksum: bool = True, encrypt_data: bool = False) -> None:
        self._login = login
        self._verify_checksum = verify_checksum
        self._encrypt_data = encrypt_data
        self._client = globus_sdk.TransferClient(authorizer=login, retry_config=RetryConfig(max_retries=0))
        self._client.transport.http_timeout = ANSWER_S

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextlib.contextmanager
    def answers_within(self, seconds: float) -> Iterator[None]:
        """Wait for no answer longer than that, for a while."""
        with self._client.transport.tune(http_timeout=seconds):
            yield

    def endpoint(self, uuid: str) -> Mapping[str, Any]:
        """Return the document of an endpoint."""
        return self._ask(f"find endpoint {uuid}", lambda: _document(self._client.get_endpoint(uuid)))

    def submission_id(self) -> str:
        """Return a new name for a submission: what is submitted twice under one name is done once."""
        return self._ask("submit a transfer", lambda: str(self._client.get_submission_id()["value"]))

    def submit(self, items: Sequence[Item], submission_id: str, left_s: float) -> str:
        """Submit transfers as one task.

        Args:
            items: they; all from one endpoint to one other.
            submission_id: see :meth:`submission_id`.
            left_s: seconds after which Globus is to give up.

        Returns:
            The task's id.
        """
        deadline = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=left_s)
        data = globus_sdk.TransferData(
            items[0].source.endpoint,
            items[0].destination.endpoint,
            label=f"flowcore {items[0].action}",
            submission_id=submission_id,
            deadline=deadline.isoformat(timespec="seconds"),
            verify_checksum=self._verify_checksum,
            encrypt_data=self._encrypt_data,
            # A file that is not there is told of by itself, and does not hold up the others.
            skip_source_errors=True,
            fail_on_quota_errors=True,
            # The program tells; nobody wants a letter for each batch.
            notify_on_succeeded=False,
            notify_on_failed=False,
            notify_on_inactive=False,
        )
        for item in items:
            data.add_item(item.source.path, item.destination.path)
        return self._ask("submit a transfer", lambda: str(self._client.submit_transfer(data)["task_id"]))

    def task(self, task_id: str) -> Mapping[str, Any]:
        """Return the document of a task."""
        return self._ask(f"ask about task {task_id}", lambda: _document(self._client.get_task(task_id)))

    def cancel(self, task_id: str) -> None:
        """Cancel a task; one that has ended is left as it is."""
        self._ask(f"cancel task {task_id}", lambda: self._client.cancel_task(task_id))

    def pause(self, task_id: str) -> str:
        """Return what administrators say who have paused a task."""
        what = f"ask about task {task_id}"
        info = self._known(lambda: self._ask(what, lambda: _document(self._client.task_pause_info(task_id))))
        return pause_messages(info or {})

    def report(self, task: Mapping[str, Any]) -> Report:
        """Return all that there is to know about a task.

        What Globus does not tell is left out: of a task that has not ended, which files were moved.

        Args:
            task: its document.
        """
        if not details_wanted(task):
            return Report(task)
        task_id = str(task["task_id"])
        if task.get("status") == "SUCCEEDED":
            # Without these, files that were left out would be taken for moved.
            return Report(task, skipped=self._skipped(task_id))
        errors = self._known(lambda: self._errors(task_id)) or []
        if task.get("status") != "FAILED":
            return Report(task, errors)
        arrived = self._known(lambda: self._arrived(task_id)) or frozenset()
        return Report(task, errors, arrived, self._known(lambda: self._skipped(task_id)) or {})

    def _errors(self, task_id: str) -> list[Mapping[str, Any]]:
        wanted = {"filter": "is_error:1"}
        events = self._ask(
            f"ask about task {task_id}",
            lambda: list(self._client.task_event_list(task_id, limit=_EVENTS, query_params=wanted)),
        )
        return sorted((e for e in events if e.get("is_error")), key=lambda e: str(e.get("time")), reverse=True)

    def _arrived(self, task_id: str) -> frozenset[tuple[str, str]]:
        pages = self._client.paginated.task_successful_transfers
        rows = self._ask(f"ask about task {task_id}", lambda: list(pages(task_id).items()))
        return frozenset((row["source_path"], row["destination_path"]) for row in rows)

    def _skipped(self, task_id: str) -> dict[str, tuple[str, str]]:
        pages = self._client.paginated.task_skipped_errors
        rows = self._ask(f"ask about task {task_id}", lambda: list(pages(task_id).items()))
        return {row["source_path"]: (str(row["error_code"]), str(row.get("error_details") or "")) for row in rows}

    def _known(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except Problem as problem:
            if problem.passing or problem.needs_login:
                raise
            # Globus keeps details for a limited time. What became of the task as a whole is known.
            logger.info("%s", problem.text)
            return None

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        try:
            with told(what):
                return call()
        except Problem as problem:
            if problem.unauthorized:
                self._login.handle_missing_authorization()
            elif not (problem.scopes and self._login.consent(problem.scopes)):
                raise
        with told(what):
            return call()


def _document(response: globus_sdk.GlobusHTTPResponse) -> Mapping[str, Any]:
    data = response.data
    return data if isinstance(data, dict) else {}
