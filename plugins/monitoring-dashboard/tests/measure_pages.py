"""How long each page and chart of a run of 100,000 tasks takes: ``python measure_pages.py [FILE.db] [TASKS]``.

Nothing is asserted: machines differ. Each is asked for twice by a dashboard that has seen nothing yet, and once
more when the answer is kept; a page within a second is what is aimed at.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from dashboards import Client
from flowcore_monitoring_dashboard import pages
from flowcore_monitoring_dashboard.access import Access
from flowcore_monitoring_dashboard.application import Source, application
from flowcore_monitoring_sqlite import database, queries
from make_database import MadeRun, engine_of, write


def make(path: Path, tasks: int) -> None:
    """Write a run of that many tasks."""
    engine = engine_of(f"sqlite:///{path}")
    workers = max(8, tasks // 200)
    with engine.begin() as connection:
        write(connection, MadeRun(tasks, time.time() - 3600, workers=workers, nodes=max(2, workers // 32)))
    engine.dispose()


def paths_of(url: str) -> list[str]:
    """Return the addresses of all pages and charts of the newest run."""
    with database.reading(url) as connection:
        base = f"/workflow/{queries.find_run(connection).run_id}"
    rest = [f"/{name}".rstrip("/") for name in pages.PAGES]
    rest += ["/graph?open=2~simulate", "/resources?by=task", "/tasks?offset=90000", "/tasks/5000", "/apps/simulate"]
    rest += [f"/data/{name}.json" for name in pages.CHARTS if name != "durations"]
    rest += [f"/data/resources.json?by={by}" for by in ("app", "node", "task")]
    rest += ["/data/resources.json?app=simulate", "/data/durations.json?app=simulate"]
    return ["/", *(base + path for path in rest)]


def main() -> None:
    """Measure, and print a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "large.db"
        if not path.exists():
            make(path, int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
        url = f"sqlite:///{path.absolute()}"
        sys.stdout.write(f"{'wall s':>8} {'CPU s':>8} {'kept s':>8} {'kB':>8}\n")
        for address in paths_of(url):
            best, cpu = 1e9, 1e9
            for _ in range(2):
                source = Source(url)
                client = Client(application(source, Access(loopback=True)))
                began, used = time.perf_counter(), time.process_time()
                answer = client.get(address)
                best, cpu = min(best, time.perf_counter() - began), min(cpu, time.process_time() - used)
                began = time.perf_counter()
                client.get(address)
                kept = time.perf_counter() - began
                source.close()
                assert answer.status_code == 200, answer.text
            shown = "/".join(address.split("/")[3:]) if address != "/" else "all workflows"
            sys.stdout.write(f"{best:8.2f} {cpu:8.2f} {kept:8.3f} {len(answer.content) / 1000:8.0f}  {shown}\n")


if __name__ == "__main__":
    main()
