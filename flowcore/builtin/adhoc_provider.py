"""The provider of hosts without a scheduler: a block is a process group on one of them, started through its channel.

Rule of this module: a process is ours if its number *and* its start time are; numbers are given to others in time.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import attrs

from flowcore.builtin.launchers import SingleNodeLauncher
from flowcore.plugins.api import (
    Channel,
    ChannelError,
    Completed,
    ConfigurationError,
    Finding,
    JobState,
    JobStatus,
    Launcher,
    Provider,
    ProviderContext,
    ScaleOutFailed,
    SchedulerUnavailable,
    ScriptPathError,
    Site,
    at_least,
    block_script,
    check_blocks,
    component,
    free_stem,
)

logger = logging.getLogger(__name__)

#: Seconds that a cancelled block has to end by itself.
GRACE_S = 5
#: Hosts that are spoken to at the same time.
MOST_AT_ONCE = 16

_PROCESS = re.compile(r"\d+/\d*")

T = TypeVar("T")
R = TypeVar("R")

#: Starts a script, whose mark holds what this prints too: the process's number and its start time (proc(5), field 22),
#: by which it is known again.
_START = """\
cd || exit
flowcore_start() {{ sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }}
export -f flowcore_start
setsid bash -c 'export FLOWCORE_JOB="$$/$(flowcore_start $$)"; unset -f flowcore_start; exec bash "$0"' \
    {script} </dev/null >{script}.out 2>{script}.err &
echo "$!/$(flowcore_start $!)"
"""
#: Prints what is there of some processes: the groups that live, `start PID TIME`, `exit PID CODE`. In this order: what
#: ends in between has recorded its code by then.
_LOOK = """\
ps -e -o pgid=,stat= | while read -r group state; do case $state in [ZX]*) ;; *) echo "group $group" ;; esac; done
set -- {jobs}
while [ $# -gt 0 ]; do
    if [ -r "/proc/$1/stat" ]; then echo "start $1 $(sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20)"; fi
    if [ -s "$2.exit" ]; then echo "exit $1 $(head -c 16 "$2.exit")"; fi
    shift 2
done
"""
#: Ends process groups: asked first, killed after a grace period.
_END = """\
lives() {{ ps -e -o pgid=,stat= | grep -Eq "^ *($1) +[^ZX]"; }}
for group in {groups}; do kill -TERM -- "-$group"; done 2>/dev/null
for again in $(seq {tenths}); do lives '{pattern}' || exit 0; sleep 0.1; done
for group in {groups}; do kill -KILL -- "-$group"; done 2>/dev/null
true
"""


@attrs.define(slots=True, eq=False)
class _Job:
    """A process group on a host. ``started``: its leader's start time; empty where that could not be read."""

    site: int
    pid: str
    started: str
    base: str
    status: JobStatus = attrs.field(factory=lambda: JobStatus(JobState.RUNNING))
    cancelled: bool = False

    @classmethod
    def of(cls, site: int, process: str, base: str) -> _Job:
        """Return the job of a process, given as ``PID/START``."""
        pid, _, started = process.partition("/")
        return cls(site, pid, started, base)


@attrs.frozen
class _Sight:
    """What is there on one host: exit codes that scripts recorded, start times of processes, groups that live."""

    exits: dict[str, int]
    starts: dict[str, str]
    groups: set[str]

    @classmethod
    def read(cls, stdout: str) -> _Sight:
        rows = [line.split() for line in stdout.splitlines()]
        return cls(
            {r[1]: int(r[2]) for r in rows if len(r) == 3 and r[0] == "exit" and r[2].isdigit()},
            {r[1]: r[2] for r in rows if len(r) == 3 and r[0] == "start"},
            {r[1] for r in rows if len(r) == 2 and r[0] == "group"},
        )

    def lives(self, job: _Job) -> bool:
        """Return whether anything of a job runs."""
        if job.pid not in self.groups:
            return False
        # A number is not given away while a group has it: without a leader, the group is what the leader left.
        return job.pid not in self.starts or job.started in ("", self.starts[job.pid])


def _check_channels(instance: object, attribute: attrs.Attribute[Sequence[Channel]], value: Sequence[Channel]) -> None:
    if not value:
        raise ConfigurationError("AdHocProvider(channels=[]): give a channel to each host that is to run a block")


@component
class AdHocProvider(Provider):
    """Runs one block on each of some hosts that have no scheduler, through a channel to each.

    The hosts must have bash, setsid and ps. A strategy other than ``none`` has nothing to scale here.

    Attributes:
        channels: one to each host.
        worker_init: shell lines to run before the workers, on every host.
        cmd_timeout: seconds for one command on a host.
        parallelism: task slots to provide per active task, 0 to 1.
        move_files: copy scripts through the channels; False: the hosts see the run directory. None: as True, for
            hosts that are not this one.
        launcher: wraps the worker command.
    """

    channels: Sequence[Channel] = attrs.field(factory=tuple, validator=_check_channels)
    worker_init: str = ""
    cmd_timeout: float = attrs.field(default=30, validator=at_least(0.1))
    parallelism: float = 1
    move_files: bool | None = None
    launcher: Launcher = attrs.field(factory=SingleNodeLauncher)

    def __attrs_post_init__(self) -> None:
        self.nodes_per_block = 1
        self.init_blocks = self.min_blocks = self.max_blocks = len(self.channels)
        check_blocks(self)
        self._context: ProviderContext | None = None
        self._sites: list[Site] = []
        self._jobs: dict[str, _Job] = {}
        #: Submissions to each host that failed, since one went well.
        self._failed: list[int] = [0] * len(self.channels)

    @property
    def label(self) -> str:
        """``adhoc``."""
        return "adhoc"

    @property
    def status_polling_interval(self) -> float:
        """Each question is a command on every host."""
        return 5.0

    def start(self, context: ProviderContext) -> None:
        """Connect to all hosts, and make the folder for scripts on each.

        Raises:
            ScriptPathError: it cannot be made.
            ChannelError: there is no connection.
        """
        self._context = context
        self._sites = [self._site(channel, context) for channel in self.channels]
        _at_once(Site.prepare, self._sites)

    def preview(self, context: ProviderContext, command: str, tasks_per_node: int, job_name: str) -> str:
        """Return the script for the first host; see the contract."""
        site = self._site(self.channels[0], context)
        return self._script(context, f"{site.folder}/{job_name}", command, tasks_per_node, job_name)

    def submit(self, command: str, tasks_per_node: int, job_name: str = "flowcore.adhoc") -> str:
        """Start a process group on the host that has the fewest.

        Returns:
            Host, number and start time of the process: ``host/123/456``.

        Raises:
            SchedulerUnavailable: the host cannot be reached.
            ScaleOutFailed: it cannot start the script.
        """
        assert self._context is not None, "submit before start"
        self._give_up_doubtful()
        number = min(range(len(self._sites)), key=lambda n: (self._running(n), self._failed[n]))
        site = self._sites[number]
        self._failed[number] += 1
        stem = free_stem(self._context.script_dir, job_name)
        # Executors name what place() returned, which is where the first host has it.
        command = command.replace(self._sites[0].folder, site.folder)
        script = self._script(self._context, f"{site.folder}/{stem}", command, tasks_per_node, job_name)
        try:
            base = site.write(stem, script)
        except ChannelError as error:
            raise SchedulerUnavailable(self.label, str(error)) from error
        said = site.run(_START.format(script=shlex.quote(f"{base}.sh")), starts_job=True)
        process = said.stdout.strip()
        if said.exit_code != 0 or not _PROCESS.fullmatch(process):
            process = site.give_up(base) or ""
            if not process:
                failure = SchedulerUnavailable if said.exit_code == -1 else ScaleOutFailed
                raise failure(self.label, f"on {site.name}: {said}")
        self._failed[number] = 0
        job_id = f"{_name(site)}/{process}"
        self._jobs[job_id] = _Job.of(number, process, base)
        return job_id

    def find(self, job_name: str) -> list[str] | None:
        """Return the process group of a block, on whichever host it is, by the mark of its script; see the contract."""
        marks = _at_once(lambda site: site.mark(f"{site.folder}/{job_name}"), self._sites)
        if None in marks:
            return None
        begun = ((site, mark.job_id) for site, mark in zip(self._sites, marks, strict=True) if mark is not None)
        return [f"{_name(site)}/{process}" for site, process in begun if process is not None]

    def adopt(self, job_id: str, job_name: str) -> None:
        """Take over a process group that another process started; see the contract."""
        name, process = job_id.split("/", 1)
        for number, site in enumerate(self._sites):
            if _name(site) == name:
                self._jobs[job_id] = _Job.of(number, process, f"{site.folder}/{job_name}")
                return

    def status(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Look at all jobs of a host by one command; see the contract."""
        self._give_up_doubtful()
        asked = [self._jobs[i] for i in dict.fromkeys(job_ids) if i in self._jobs]
        groups = self._by_site(j for j in asked if not j.status.terminal)
        _at_once(lambda number: self._look(self._sites[number], groups[number]), groups)
        unknown = "no block of this provider has the id"
        return [
            self._jobs[i].status if i in self._jobs else JobStatus(JobState.UNKNOWN, f"{unknown} {i}") for i in job_ids
        ]

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """End process groups: asked first, killed after a grace period. Hosts that do not answer accept nothing."""
        self.status(job_ids)
        jobs = [self._jobs.get(i) for i in job_ids]
        alive = {id(j): j for j in jobs if j is not None and not j.status.terminal}
        groups = self._by_site(alive.values())

        def end(number: int) -> bool:
            silent = any(job.status.state is JobState.UNKNOWN for job in groups[number])
            return not silent and self._end(self._sites[number], groups[number])

        ended = dict(zip(groups, _at_once(end, groups), strict=True))
        for job in alive.values():
            job.cancelled = job.cancelled or ended[job.site]
        return [job is not None and (id(job) not in alive or ended[job.site]) for job in jobs]

    def place(self, path: Path) -> str:
        """Copy a file to all hosts; return where the first has it. :meth:`submit` puts the others' in its place."""
        return _at_once(lambda site: site.place(path), self._sites)[0] if self._sites else str(path)

    def close(self) -> None:
        """Remove the files that :meth:`place` copied, and close the channels."""
        self._give_up_doubtful()
        _at_once(Site.close, self._sites)

    def dry_run(self, context: ProviderContext, command: str, tasks_per_node: int) -> Iterator[Finding]:
        """Try each host out; see the contract."""
        self._context = context
        for channel in self.channels:
            site = self._site(channel, context)
            try:
                site.prepare()
            except (ChannelError, ScriptPathError) as error:
                yield Finding(str(error), "mend the channel, or set its script_dir to a folder of yours")
                continue
            missing = site.lacks("bash", "setsid", "ps")
            if missing:
                yield Finding(f"{', '.join(missing)} not found on {site.name}", "install what is missing there")
            else:
                yield Finding(f"{site.name} can run a block; scripts go to {site.folder}")
            self._sites.append(site)

    # --- parts

    def _site(self, channel: Channel, context: ProviderContext) -> Site:
        return Site(channel, context, self.cmd_timeout, self.move_files is not False)

    def _script(self, context: ProviderContext, base: str, command: str, tasks_per_node: int, job_name: str) -> str:
        script = block_script(
            self.launcher(command, tasks_per_node, self.nodes_per_block),
            job_name,
            worker_init=self.worker_init,
            variables=self.variables,
            base=base,
            job_id="$FLOWCORE_JOB",
        )
        return context.final_script(self.label, script)

    def _running(self, number: int) -> int:
        return sum(1 for job in self._jobs.values() if job.site == number and not job.status.terminal)

    def _by_site(self, jobs: Iterable[_Job]) -> dict[int, list[_Job]]:
        groups: dict[int, list[_Job]] = {}
        for job in jobs:
            groups.setdefault(job.site, []).append(job)
        return groups

    def _look(self, site: Site, jobs: Sequence[_Job]) -> None:
        said = site.run(_LOOK.format(jobs=shlex.join(word for job in jobs for word in (job.pid, job.base))))
        if said.exit_code != 0:
            logger.warning("provider %s: %s: %s", self.label, site.name, said)
            for job in jobs:
                job.status = JobStatus(JobState.UNKNOWN, f"no answer from {site.name}: {said}")
            return
        sight = _Sight.read(said.stdout)
        left = [job for job in jobs if job.pid in sight.exits and sight.lives(job)]
        if left:
            # As a batch system does: what the script left running in its group ends with it.
            self._end(site, left, grace_s=0)
        for job in jobs:
            job.status = self._seen(site, job, sight)

    def _seen(self, site: Site, job: _Job, sight: _Sight) -> JobStatus:
        code = sight.exits.get(job.pid)
        if code is None and sight.lives(job):
            return JobStatus(JobState.RUNNING)
        message = None
        if job.cancelled:
            state = JobState.CANCELLED
        elif code is None:
            state, message = JobState.FAILED, f"its processes on {site.name} were killed, or that host was restarted"
        else:
            state = JobState.FAILED if code else JobState.COMPLETED
        streams = [site.fetch(f"{job.base}.sh.{ending}") for ending in ("out", "err")]
        return JobStatus(state, message, code, *streams)

    def _end(self, site: Site, jobs: Sequence[_Job], grace_s: int = GRACE_S) -> bool:
        groups = [job.pid for job in jobs]
        command = _END.format(groups=shlex.join(groups), pattern="|".join(groups), tenths=10 * grace_s)
        said: Completed = site.run(command, self.cmd_timeout + grace_s)
        if said.exit_code != 0:
            logger.warning("provider %s: ending blocks on %s: %s", self.label, site.name, said)
        return said.exit_code == 0

    def _give_up_doubtful(self) -> None:
        for number, site in enumerate(self._sites):
            begun = [_Job.of(number, process, "") for process in site.give_up_doubtful()]
            if begun:
                self._end(site, begun)


def _name(site: Site) -> str:
    return site.name.replace(" ", "-")


def _at_once(do: Callable[[T], R], hosts: Collection[T]) -> list[R]:
    """Do something for each host, many at a time: each has its own way to go."""
    if len(hosts) < 2:
        return [do(host) for host in hosts]
    with ThreadPoolExecutor(min(len(hosts), MOST_AT_ONCE), "flowcore-adhoc") as pool:
        return list(pool.map(do, hosts))
