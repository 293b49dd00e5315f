"""The stand-in's commands: qsub, qstat, qdel, qhold, qrls, qrerun, qsig, qselect, pbsnodes.

    python commands.py FOLDER NAME ARGUMENTS...

Rule of this module: it prints what PBS prints, and refuses options that it does not know, so that no test passes since
something was ignored. ``FOLDER/config.json`` names defects of some versions that it is to have (see ``cluster.py``).
"""
# ruff: noqa: T201 - commands print

from __future__ import annotations

import getopt
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import attributes as a

_CONNECT_FAILED = 15010
_STAT_USAGE = (
    "usage:\n\tqstat [-f] [-J] [-p] [-t] [-x] [-E] [-F format] [-D delim] [ job_identifier... | destination... ]"
)
_SUB_USAGE = "usage: qsub [-a date_time] [-A account_string] [-c interval] ... [script | -- command [arg1 ...]]"


def fail(text: str, code: int) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(code & 255)


class Client:
    """One command: its name, the server's folder, and how it is configured."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.torque: bool = self.config["torque"]
        self.defects: list[str] = self.config["defects"]

    def ask(self, do: str, **request: Any) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(30)
            try:
                connection.connect(str(self.folder / "server.sock"))
                connection.sendall(json.dumps({"do": do, **request}).encode() + b"\n")
                reply = json.loads(connection.makefile("r").readline())
            except (OSError, ValueError):
                server = self.config["name"]
                if self.torque:
                    code, reason = 111, f"{self.name}: cannot connect to server {server} (errno=111) Connection refused"
                    fail(reason, code)
                said = f"Connection refused\n{self.name}: cannot connect to server {server} (errno={_CONNECT_FAILED})"
                fail(said, 255 if self.name == "qstat" else _CONNECT_FAILED)
        if "error" in reply:
            raise a.Refused(*reply["error"])
        return reply["answer"]

    def identifier(self, text: str) -> str | None:
        """Return the full id of a job; None, with a message, if it cannot be one."""
        number, dot, server = text.partition(".")
        if not number.removesuffix("[]").isdigit() or (dot and not server):
            print(f"{self.name}: illegally formed job identifier: {text}", file=sys.stderr)
            return None
        return text if dot else f"{number}.{self.config['name']}"

    def options(self, arguments: Sequence[str], known: str, usage: str) -> tuple[list[tuple[str, str]], list[str]]:
        try:
            found, rest = getopt.getopt(list(arguments), known)
        except getopt.GetoptError as error:
            fail(f"{self.name}: invalid option -- '{error.opt}'\n{usage}", 2)
        return [(name[1:], value) for name, value in found], rest

    def each(self, arguments: Sequence[str], known: str, do: str, **request: Any) -> int:
        """Ask one thing of each job that is named; the exit code is the last failure's."""
        found, ids = self.options(arguments, known, f"usage: {self.name} job_identifier...")
        for name, value in found:
            request |= {"kinds": value} if name == "h" else {"name": value} if name == "s" else {}
        if not ids:
            fail(f"usage: {self.name} job_identifier...", 2)
        failed = 0
        for text in ids:
            identifier = self.identifier(text)
            if identifier is None:
                failed = 1
                continue
            try:
                self.ask(do, identifier=identifier, **request)
            except a.Refused as error:
                print(f"{self.name}: {error} {identifier}", file=sys.stderr)
                failed = error.code & 255
        return failed

    # --- qsub

    def qsub(self, arguments: Sequence[str]) -> int:
        asked: dict[str, Any] = {"l": {}, "v": {}, "arguments": shlex.join(arguments)}
        rest = self._take(asked, list(arguments), directive=False)
        given = {**asked, "l": dict(asked["l"])}
        if rest and rest[0] != "-":
            if len(rest) > 1:
                fail(_SUB_USAGE, 2)
            path = Path(rest[0])
            if not path.is_file():
                fail("qsub: script file:: No such file or directory", 1)
            script = path.read_text()
            asked.setdefault("N", path.name[: 15 if self.torque else 230])
        else:
            script = sys.stdin.read()
            asked.setdefault("N", "STDIN")
        for line in script.splitlines():
            if line.startswith("#PBS"):
                # The command line says more than the script does; within the script, the first of a resource counts,
                # and the last of everything else.
                directive: dict[str, Any] = {"l": {}, "v": {}}
                if self._take(directive, a.words(line.removeprefix("#PBS")), directive=True):
                    fail(f"qsub: directive error: {line.removeprefix('#PBS').strip()} ", 255)
                asked["l"] = {**directive.pop("l"), **asked["l"]}
                asked["v"] = {**directive.pop("v"), **asked["v"]}
                asked.update({name: value for name, value in directive.items() if name not in given})
            elif line.strip() and not line.startswith("#"):
                break
        if asked.pop("V", False):
            asked["v"] = {**os.environ, **asked["v"]}
        variables = {
            k: os.environ[k] for k in ("HOME", "LANG", "LOGNAME", "PATH", "MAIL", "SHELL", "TZ") if k in os.environ
        }
        quiet = asked.pop("z", False)
        try:
            identifier = self.ask("submit", options=asked, script=script, workdir=str(Path.cwd()), variables=variables)
        except a.Refused as error:
            fail(f"qsub: submit error ({error})" if self.torque else f"qsub: {error}", error.code)
        if not quiet:
            print(identifier)
        return 0

    def _take(self, asked: dict[str, Any], arguments: list[str], directive: bool) -> list[str]:
        known = "a:A:e:hj:k:l:m:M:N:o:p:q:r:v:V" + ("" if directive else "z") + ("" if self.torque else "P:")
        if directive:
            try:
                found, rest = getopt.getopt(arguments, known)
            except getopt.GetoptError:
                fail(f"qsub: directive error: {' '.join(arguments)} ", 255)
            options = [(name[1:], value) for name, value in found]
        else:
            options, rest = self.options(arguments, known, _SUB_USAGE)
        allowed = {"j": ("oe", "eo", "n"), "r": ("y", "n")}
        for name, value in options:
            if (
                (name in allowed and value not in allowed[name])
                or (name == "k" and not self._may_keep(value))
                or (name == "N" and not a.check_job_name(value, self.torque))
                or (name == "p" and not -1024 <= int(value) <= 1023)
            ):
                fail(f"qsub: illegal -{name} value", 2)
            if name == "l":
                try:
                    # Within a line, and between lines of a script, the first of a resource counts.
                    asked["l"] = {**a.resources(value), **asked["l"]}
                except a.Refused:
                    fail("qsub: illegal -l value", 2)
            elif name == "v":
                for part in value.split(","):
                    variable, equals, its = part.partition("=")
                    asked["v"][variable] = its if equals else os.environ.get(variable, "")
            elif name == "a":
                asked["a"] = time.mktime(time.strptime(value, "%Y%m%d%H%M.%S"))
            else:
                asked[name] = True if name in "hVz" else value
        return rest

    def _may_keep(self, value: str) -> bool:
        direct = not self.torque and "no_direct_write" not in self.defects  # PBS Pro has it since version 18
        return value == "n" or (set(value) <= set("oed" if direct else "oe") and len(set(value)) == len(value) > 0)

    # --- qstat

    def qstat(self, arguments: Sequence[str]) -> int:
        known = "f1n" if self.torque else "fxw1" + ("" if "no_json" in self.defects else "F:")
        options, ids = self.options(arguments, known, _STAT_USAGE)
        given = dict(options)
        full = [i for i in (self.identifier(text) for text in ids) if i is not None]
        failed = 0 if len(full) == len(ids) else 1
        as_json = given.get("F", "").lower() == "json"
        if as_json and "f" not in given:
            fail("qstat: illegal -F value", 2)
        jobs: dict[str, dict[str, Any]] = {}
        try:
            answer = self.ask("status", ids=full, finished="x" in given) if full or not ids else []
            if as_json and "first_only" in self.defects:
                answer = answer[:1]
            for identifier, said, error in answer:
                if error is None:
                    jobs[identifier] = said
                else:
                    failed = error[0] & 255
                    words = f"{identifier} {error[1]}" if error[0] == a.FINISHED else f"{error[1]} {identifier}"
                    print(f"qstat: {words}", file=sys.stderr)
        except a.Refused as error:
            print(f"qstat: {error} {' '.join(full)}".rstrip(), file=sys.stderr)
            failed = error.code & 255
        except SystemExit:
            if as_json:
                print(self._json({}))
            raise
        if as_json:
            print(self._json(jobs))
        elif "f" in given:
            for identifier, said in jobs.items():
                print(self._text(identifier, said, wrapped=not {"w", "1"} & given.keys()))
        elif jobs:
            print(self._table(jobs))
        return failed

    def _json(self, jobs: dict[str, dict[str, Any]]) -> str:
        head: dict[str, Any] = {
            "timestamp": int(time.time()),
            "pbs_version": "19.0.0",
            "pbs_server": self.config["name"],
        }
        if jobs:
            head["Jobs"] = {i: {k: _number(v) for k, v in said.items()} for i, said in jobs.items()}
        text = json.dumps(head, indent=4, separators=(",", ":"))
        for i in jobs:
            if "unescaped" in self.defects:  # openpbs issue 2541
                text = text.replace(
                    '"PBS_O_SYSTEM":', '"BASH_FUNC_ml%%":"() {  eval "$(lmod bash "$@")"\n}",\n"PBS_O_SYSTEM":'
                )
            if "leading_zero" in self.defects:  # openpbs issue 1255
                text = text.replace('"PBS_O_SYSTEM":', '"COUNT":005,\n"PBS_O_SYSTEM":')
            if "repeated_jobs" in self.defects and i != next(iter(jobs)):  # openpbs pull request 585
                text = text.replace(f'        "{i}":', f'"Jobs":{{\n        "{i}":')
        return text

    def _text(self, identifier: str, said: dict[str, Any], wrapped: bool) -> str:
        lines = [f"Job Id: {identifier}"]
        for name, value in said.items():
            if name == "Variable_List":
                value = ",".join(f"{k}={v}" for k, v in value.items())
            pairs = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
            for key, shown in pairs.items():
                line = f"    {key} = {shown}"
                pieces = [line[:78], *(line[i : i + 70] for i in range(78, len(line), 70))] if wrapped else [line]
                lines.append(("\n        " if self.torque else "\n\t").join(pieces))
        return "\n".join(lines) + "\n"

    def _table(self, jobs: dict[str, dict[str, Any]]) -> str:
        """The short form, whose column of ids is cut: nobody can tell long ids from it."""
        wide = 25 if self.torque else 17
        rows = [
            f"{'Job id':<{wide}} {'Name':<16} {'User':<17} {'Time Use':<8} S Queue",
            f"{'-' * (wide - 1)}  {'-' * 16} {'-' * 16}  {'-' * 8} - -----",
        ]
        for identifier, said in jobs.items():
            shown = identifier if len(identifier) < wide else identifier[: wide - 2] + "*"
            owner = said["Job_Owner"].partition("@")[0]
            used = said.get("resources_used", {}).get("walltime", "0")
            name, state, queue = said["Job_Name"][:16], said["job_state"], said["queue"]
            rows.append(f"{shown:<{wide}} {name:<16} {owner[:16]:<17} {used:<8} {state} {queue}")
        return "\n".join(rows)

    # --- the others

    def qselect(self, arguments: Sequence[str]) -> int:
        usage = "usage: qselect [-N name] [-s states] [-u user_list] [-x]"
        given = dict(self.options(arguments, "N:s:u:x", usage)[0])
        for identifier, said, _ in self.ask("status", ids=[], finished="x" in given):
            owner, name = said["Job_Owner"].partition("@")[0], said["Job_Name"]
            wanted = given.get("N", name) == name and given.get("u", owner) == owner
            if wanted and said["job_state"] in given.get("s", said["job_state"]):
                print(identifier)
        return 0

    def pbsnodes(self, arguments: Sequence[str]) -> int:
        given = dict(self.options(arguments, "aF:", "usage: pbsnodes -a [-F json]")[0])
        nodes = self.ask("nodes")
        if given.get("F") == "json":
            head = {"timestamp": int(time.time()), "pbs_version": "19.0.0", "pbs_server": self.config["name"]}
            print(json.dumps({**head, "nodes": nodes}, indent=4, separators=(",", ":")))
        else:
            for name, node in nodes.items():
                print(f"{name}\n     Mom = {name}\n     state = {node['state']}\n     pcpus = {node['pcpus']}\n")
        return 0

    def run(self, arguments: Sequence[str]) -> int:
        match self.name:
            case "qdel":
                return self.each(arguments, "", "delete")
            case "qhold":
                return self.each(arguments, "h:", "hold", kinds="u")
            case "qrls":
                return self.each(arguments, "h:", "release", kinds="u")
            case "qrerun":
                return self.each(arguments, "", "rerun")
            case "qsig":
                return self.each(arguments, "s:", "signal", name="TERM")
            case name:
                return int(getattr(self, name)(arguments))


def _number(value: Any) -> Any:
    """What looks like a number is written without quotes, in whatever is nested too."""
    if isinstance(value, dict):
        return {k: _number(v) for k, v in value.items()}
    return int(value) if isinstance(value, str) and value.isdigit() and str(int(value)) == value else value


if __name__ == "__main__":
    sys.exit(Client(Path(sys.argv[1]), sys.argv[2]).run(sys.argv[3:]))
