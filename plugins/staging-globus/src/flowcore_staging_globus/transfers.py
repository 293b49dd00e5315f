"""Carries transfers out: one thread asks Globus about all of them, and exists only while there are any.

Rules of this module: the lock is held for bookkeeping alone, never while Globus is asked or a future is set. Whatever
goes wrong, no future is left undone: an error nobody thought of fails all that is open.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError

import attrs

from flowcore.plugins.api import TransferError
from flowcore_staging_globus import outcomes
from flowcore_staging_globus.batches import Batch, Item, Ledger, Step
from flowcore_staging_globus.problems import Problem
from flowcore_staging_globus.service import Service

logger = logging.getLogger("flowcore.staging.globus")

#: Seconds after a transfer's deadline at which Globus gives up by itself, should nobody be there to cancel it.
GRACE_S = 60.0
#: Seconds for the end: for cancelling what is open.
CLOSING_S = 10.0
_CLOSING_ANSWER_S = 3.0


class Transfers:
    """The open transfers of a stager.

    Args:
        service: Globus; is closed with this.
        ledger: decides.
    """

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self._service = service
        self._ledger = ledger
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing_by: float | None = None

    def move(self, item: Item) -> None:
        """Begin a transfer; its future tells the end. Does not wait."""
        with self._changed:
            if self._closing_by is None:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="flowcore-globus", daemon=True)
                    thread.start()  # waits for the lock
                    self._thread = thread
                if self._ledger.add(item, time.monotonic()):
                    self._changed.notify()
                return
        _fail([item], "the run has ended")

    def close(self) -> None:
        """Cancel what is open, at Globus too, and fail its futures. Takes :data:`CLOSING_S` at most; idempotent."""
        with self._changed:
            if self._closing_by is None:
                self._closing_by = time.monotonic() + CLOSING_S
            self._changed.notify()
            thread = self._thread
        if thread is threading.current_thread():
            self._cancel_all()
        elif thread is not None:
            thread.join(max(0.0, self._closing_by - time.monotonic()))
        with self._changed:
            left = [item for batch in self._ledger.batches() for item in batch.items]
            for batch in list(self._ledger.batches()):
                self._ledger.ended(batch)
        _fail(left, "the run ended before it had arrived, and the transfer was cancelled")
        self._service.close()

    def _run(self) -> None:
        try:
            while (steps := self._wait()) is not None:
                for step, batch in steps:
                    self._perform(step, batch)
            if self._closing_by is not None:
                self._cancel_all()
        except Exception as error:
            logger.exception("the thread for Globus transfers ends by an error")
            with self._changed:
                self._thread = None
                left = [item for batch in self._ledger.batches() for item in batch.items]
                for batch in list(self._ledger.batches()):
                    self._ledger.ended(batch)
            _fail(left, f"a defect of flowcore-staging-globus: {type(error).__name__}: {error}")

    def _wait(self) -> list[tuple[Step, Batch]] | None:
        """Return what is due, when something is; None if there is nothing more to do."""
        with self._changed:
            while self._closing_by is None:
                steps = self._ledger.due(time.monotonic())
                if steps:
                    return steps
                if not self._ledger:
                    # Under the lock: whoever adds something after this starts a new thread.
                    self._thread = None
                    return None
                at = self._ledger.next_at()
                self._changed.wait(None if at is None else max(0.0, at - time.monotonic()))
            return None

    def _perform(self, step: Step, batch: Batch) -> None:
        if self._closing_by is not None:
            return
        try:
            if step is Step.SUBMIT:
                self._submit(batch)
            elif step is Step.ASK:
                self._ask(batch)
            elif step is Step.CANCEL:
                self._service.cancel(str(batch.task_id))
                with self._changed:
                    self._ledger.cancelled(batch, time.monotonic())
            elif step is Step.END:
                self._end(batch, last=True)
            else:
                self._drop(batch)
        except Problem as problem:
            with self._changed:
                over = self._ledger.failed(batch, problem, time.monotonic())
                if over:
                    self._ledger.ended(batch)
            if over:
                logger.warning("Globus transfer of %d files is given up: %s", len(batch.items), problem.text)
                _fail(batch.items, problem.text, problem.passing)
            else:
                logger.info("%s; to be tried again", problem.text)

    def _submit(self, batch: Batch) -> None:
        if batch.submission_id is None:
            batch.submission_id = self._service.submission_id()
        left_s = batch.due_at - time.monotonic() + GRACE_S
        task_id = self._service.submit(batch.items, batch.submission_id, left_s)
        with self._changed:
            self._ledger.submitted(batch, task_id, time.monotonic())
        first = batch.items[0]
        logger.info(
            "Globus task %s: %s of %d files, from endpoint %s to %s",
            task_id, first.action, len(batch.items), first.source.endpoint, first.destination.endpoint,
        )  # fmt: skip

    def _ask(self, batch: Batch) -> None:
        task = self._service.task(str(batch.task_id))
        fault_before = batch.last.get("nice_status")
        with self._changed:
            ended = self._ledger.asked(batch, task, time.monotonic())
        if ended:
            self._end(batch)
            return
        if not task.get("is_paused"):
            batch.pause = None
        elif batch.pause is None:
            batch.pause = self._service.pause(str(batch.task_id))
        if task.get("nice_status") != fault_before and task.get("is_ok") is False:
            report = outcomes.Report(task, pause=batch.pause)
            logger.warning("%s", outcomes.general_reason(report, None, "is held up"))

    def _end(self, batch: Batch, last: bool = False) -> None:
        """Settle each transfer by what became of it.

        Args:
            batch: has ended, or has been given up.
            last: do with what is known if Globus does not tell more.
        """
        task = {"task_id": batch.task_id, **batch.last}
        try:
            report = self._service.report(task)
        except Problem as problem:
            if not last:
                raise
            logger.info("%s", problem.text)
            report = outcomes.Report(task)
        report = attrs.evolve(report, pause=batch.pause)
        found = outcomes.judge(batch.items, report, batch.stop)
        with self._changed:
            self._ledger.ended(batch)
            for item, outcome in zip(batch.items, found, strict=True):
                if outcome is outcomes.Fine.AGAIN:
                    item.tries += 1
                    self._ledger.add(item, time.monotonic())
        for item, outcome in zip(batch.items, found, strict=True):
            if isinstance(outcome, outcomes.Failed):
                _fail([item], outcome.reason, outcome.passing)
            elif outcome is outcomes.Fine.ARRIVED:
                _settle(item.future, item.value)

    def _drop(self, batch: Batch) -> None:
        with self._changed:
            self._ledger.ended(batch)
        why = "Globus has not taken the transfer within deadline_s"
        _fail(batch.items, f"{why}: {batch.problem.text}" if batch.problem else f"{why}: others were before it")

    def _cancel_all(self) -> None:
        with self._changed:
            open_ = [batch.task_id for batch in self._ledger.batches() if batch.task_id is not None]
        for task_id in open_:
            left_s = (self._closing_by or 0.0) - time.monotonic()
            if left_s <= 0:
                logger.warning("Globus task %s could not be cancelled in time; Globus ends it at its deadline", task_id)
                continue
            try:
                with self._service.answers_within(min(left_s, _CLOSING_ANSWER_S)):
                    self._service.cancel(task_id)
            except Problem as problem:
                logger.warning("Globus task %s is left: %s", task_id, problem.text)


def _fail(items: Iterable[Item], reason: str, passing: bool = True) -> None:
    for item in items:
        error = TransferError(item.action, item.url, reason, passing)
        with contextlib.suppress(InvalidStateError):  # cancelled
            item.future.set_exception(error)


def _settle(future: Future[object], value: object) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_result(value)
