"""``GlobusStaging``: files on Globus endpoints, moved by Globus itself.

Rule of this module: the stager only says what is to be moved where. Nothing here waits, but for
:meth:`GlobusStaging.start`, which makes sure that it can work.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

import attrs

from flowcore.plugins.api import (
    ConfigurationError,
    File,
    Staging,
    StagingContext,
    StagingError,
    StagingPlace,
    TransferError,
    at_least,
    component,
)
from flowcore_staging_globus.mapping import SCHEME, Location, PathMap, is_uuid, location
from flowcore_staging_globus.outputs import with_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcore_staging_globus.service import Service
    from flowcore_staging_globus.transfers import Transfers

logger = logging.getLogger("flowcore.staging.globus")

#: Attempts to reach Globus before a run begins, and seconds between the first two.
_START_ATTEMPTS = 4
_START_PAUSE_S = 0.5


def a_uuid(instance: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    """Validate an option: a UUID, where there is one."""
    if value is not None and not is_uuid(value):
        raise ConfigurationError(
            f"{type(instance).__name__}({attribute.name}={value!r}): expected a UUID, such as "
            "'037f054a-15cf-11e8-b611-0ac6873fc732'; the web application of Globus shows those of endpoints"
        )


@component
class GlobusStaging(Staging):
    """Lets Globus move files ``globus://<endpoint UUID>/path`` to and from the file system of an executor.

    That file system must be behind a Globus endpoint (or collection), and the executor must have a ``working_dir``, an
    absolute path there. Transfers of the same kind that come together go as one task of Globus.

    Attributes:
        endpoint_uuid: UUID of the endpoint that shows the executor's file system.
        endpoint_path: the folder ``local_path``, by its path on the endpoint.
        local_path: a folder that holds the executor's ``working_dir``, by its path where tasks run. Neither is needed
            where the endpoint shows the whole file system as it is.
        client_id: UUID of the program, registered with Globus, that users log in with; None for that of the environment
            variable ``FLOWCORE_GLOBUS_NATIVE_CLIENT_ID``, or of the stored login.
        deadline_s: seconds in which a file has to arrive, all waiting included.
        fault_patience_s: seconds that a transfer may be held up by what waiting does not mend: files that are not
            there, or may not be read or written.
        outage_patience_s: seconds that Globus itself may be out of reach.
        batch_window_s: seconds that a transfer waits for others to go with it.
        poll_interval_s: seconds between two questions about a transfer at first; old ones are asked about less often,
            up to every 30 s.
        verify_checksum: have Globus compare the files on both sides after each transfer.
        encrypt_data: have Globus encrypt the files on their way.
    """

    endpoint_uuid: str = attrs.field(validator=a_uuid)
    endpoint_path: str | None = None
    local_path: str | None = None
    client_id: str | None = attrs.field(default=None, validator=a_uuid)
    deadline_s: float = attrs.field(default=86400.0, validator=at_least(1))
    fault_patience_s: float = attrs.field(default=60.0, validator=at_least(0))
    outage_patience_s: float = attrs.field(default=600.0, validator=at_least(0))
    batch_window_s: float = attrs.field(default=0.5, validator=at_least(0))
    poll_interval_s: float = attrs.field(default=1.0, validator=at_least(0.01))
    verify_checksum: bool = True
    encrypt_data: bool = False
    _mutex: Any = attrs.field(init=False, repr=False, factory=threading.Lock)
    _transfers: Any = attrs.field(init=False, repr=False, default=None)
    #: Since the last run that had it; until then it begins by itself, for who uses it without a run.
    _closed: bool = attrs.field(init=False, repr=False, default=False)

    def __attrs_post_init__(self) -> None:
        self._map.check()

    @property
    def _map(self) -> PathMap:
        return PathMap(self.local_path, self.endpoint_path)

    def start(self, place: StagingPlace) -> None:
        """Check the executor's folder, log in, and find the endpoint.

        Asks at the terminal for a login if there is none, and somebody sits there.

        Raises:
            ConfigurationError: the executor has no folder that the endpoint can reach, or there is no such endpoint.
            StagingError: there is no login, or Globus is out of reach.
        """
        self._root(place.executor, place.working_dir)
        with self._mutex:
            if self._transfers is None:
                self._transfers = self._opened(ask=True)
            self._closed = False

    def initialize_globus(self) -> None:
        """Log in now, before a run does: ask at the terminal for a login if there is none, and somebody sits there.

        Raises:
            StagingError: there is no login, or Globus does not accept it.
            ConfigurationError: what there is cannot be used.
        """
        from flowcore_staging_globus.conversation import logged_in

        logged_in(self.client_id)

    def close(self) -> None:
        """Cancel what is open, at Globus too."""
        with self._mutex:
            transfers, self._transfers = self._transfers, None
            self._closed = True
        if transfers is not None:
            transfers.close()

    def can_stage_in(self, file: File) -> bool:
        """Return whether the file's scheme is ``globus``."""
        return file.scheme == SCHEME

    def can_stage_out(self, file: File) -> bool:
        """Return whether the file's scheme is ``globus``."""
        return file.scheme == SCHEME

    def stage_in(self, context: StagingContext, file: File, parent: Future[Any] | None) -> Future[Any]:
        """Begin to bring a file to the executor's folder.

        Raises:
            StagingError: its URL names no file, there is no login, or the run has ended.
            ConfigurationError: the executor has no folder that the endpoint can reach.
        """
        source = location(file)
        future: Future[Any] = Future()
        destination = self._place(context, file)
        self._move("fetch", file, source, destination, future)
        return future

    def stage_out(self, context: StagingContext, file: File, app_future: Future[Any]) -> Future[Any]:
        """Say where a file has to be made, and take it from there once the app has run.

        Raises:
            StagingError: its URL names no file, there is no login, or the run has ended.
            ConfigurationError: the executor has no folder that the endpoint can reach.
        """
        destination = location(file)
        source = self._place(context, file)
        future: Future[Any] = Future()

        def take(ran: Future[Any]) -> None:
            if ran.cancelled():
                future.cancel()
                return
            error = ran.exception()
            if error is None:
                try:
                    self._move("push", file, source, destination, future)
                except Exception as trouble:  # noqa: BLE001 - whatever it is, somebody waits
                    error = trouble
            if error is not None:
                with contextlib.suppress(InvalidStateError):  # cancelled
                    future.set_exception(error)

        app_future.add_done_callback(take)
        return future

    def replace_task_stage_out(
        self, context: StagingContext, file: File, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return a call that makes the file's folder first."""
        return with_folder(function, file)

    def _root(self, executor: str, working_dir: str | None) -> str:
        if working_dir is None or not working_dir.startswith("/"):
            given = "has none" if working_dir is None else f"has working_dir={working_dir!r}"
            example = self.local_path or "/home/me"
            raise ConfigurationError(
                f"GlobusStaging needs the working_dir of executor {executor!r} to be an absolute path, where the "
                f"endpoint can put files; it {given}. Give the executor, for example, "
                f"working_dir={example.rstrip('/') + '/staged'!r}"
            )
        self._map.to_endpoint(working_dir)
        return working_dir

    def _place(self, context: StagingContext, file: File) -> Location:
        path = context.local_path(file, self._root(context.executor, context.working_dir))
        file.local_path = path
        return Location(self.endpoint_uuid.lower(), self._map.to_endpoint(path))

    def _move(self, action: str, file: File, source: Location, destination: Location, future: Future[Any]) -> None:
        from flowcore_staging_globus.batches import Item

        with self._mutex:
            if self._closed:
                raise TransferError(action, file.url, "the run has ended")
            if self._transfers is None:
                self._transfers = self._opened(ask=False)
            transfers: Transfers = self._transfers
        due_at = time.monotonic() + self.deadline_s
        transfers.move(Item(action, file.url, source, destination, due_at, future, file))

    def _opened(self, ask: bool) -> Transfers:
        from flowcore_staging_globus.auth import find
        from flowcore_staging_globus.batches import Ledger
        from flowcore_staging_globus.service import Service
        from flowcore_staging_globus.transfers import Transfers

        if ask:
            from flowcore_staging_globus.conversation import logged_in

            login = logged_in(self.client_id)
        else:
            login = find(self.client_id)
        service = Service(login, self.verify_checksum, self.encrypt_data)
        if ask:
            try:
                self._find_endpoint(service)
            except BaseException:
                service.close()
                raise
        ledger = Ledger(self.batch_window_s, self.poll_interval_s, self.fault_patience_s, self.outage_patience_s)
        return Transfers(service, ledger)

    def _find_endpoint(self, service: Service) -> None:
        from flowcore_staging_globus.problems import Problem

        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                document = service.endpoint(self.endpoint_uuid)
                break
            except Problem as problem:
                if problem.passing and attempt < _START_ATTEMPTS:
                    time.sleep(min(max(_START_PAUSE_S * 2 ** (attempt - 1), problem.retry_after_s or 0.0), 10.0))
                    continue
                if problem.passing or problem.needs_login:
                    raise StagingError(f"GlobusStaging cannot begin: {problem.text}") from None
                raise ConfigurationError(
                    f"GlobusStaging(endpoint_uuid={self.endpoint_uuid!r}): {problem.text}"
                ) from None
        name = document.get("display_name")
        if document.get("gcp_connected") is False:
            logger.warning(
                "Globus endpoint %r (%s) is not connected: transfers wait until it is", name, self.endpoint_uuid
            )
        if document.get("gcp_paused"):
            logger.warning(
                "Globus endpoint %r (%s) is paused: transfers wait until it goes on", name, self.endpoint_uuid
            )
        logger.info("Globus endpoint of the executor: %r (%s)", name, self.endpoint_uuid)
