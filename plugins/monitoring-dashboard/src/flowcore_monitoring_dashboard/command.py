"""``flowcore dashboard``: serves the pages until it is stopped.

Rule of this module: what cannot work is said before anything is served: the database, the address, the files.
"""

from __future__ import annotations

import errno
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click
from flowcore_monitoring_sqlite.database import NAME, default_url, is_sqlite, parsed

from flowcore.plugins.api import ConfigurationError

if TYPE_CHECKING:
    import uvicorn

#: Where the runs of a folder are, as for the reference.
RUNINFO = Path("runinfo")
#: Seconds that answers on their way may take when the server is stopped.
_GRACE_S = 2


@click.command()
@click.argument("url", required=False, envvar="FLOWCORE_DASHBOARD_URL")
@click.option("--listen", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port to listen on; 0: a free one."
)
@click.option("--token", "always_token", is_flag=True, help="Demand a token on a loopback address, too.")
@click.option(
    "--host-name", "names", multiple=True, metavar="NAME",
    help="A further host name that browsers use for this server. May be given several times.",
)  # fmt: skip
@click.option(
    "--tls", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=2, metavar="CERTIFICATE KEY",
    help="Speak HTTPS, with these PEM files.",
)  # fmt: skip
def dashboard(
    url: str | None, listen: str, port: int, always_token: bool, names: tuple[str, ...], tls: tuple[Path, Path] | None
) -> None:
    """Look at runs in a web browser, while they go on and afterwards.

    URL is that of the database, such as sqlite:////tmp/my_monitoring.db, or the path of an SQLite file; by default
    runinfo/monitoring.db. A URL with a password is better given in the environment variable FLOWCORE_DASHBOARD_URL.

    The database is never written to. Beyond this machine (--listen 0.0.0.0) a token is demanded, which is part of the
    address that is printed. Ctrl-C ends it.
    """
    from flowcore_monitoring_dashboard.access import Access
    from flowcore_monitoring_dashboard.application import Source, application
    from flowcore_monitoring_dashboard.plotlyjs import plotly

    plotly()
    url = database_of(url)
    _refuse_missing(url)
    source = Source(url)
    try:
        with _bound(listen, port) as listening:
            port = listening.getsockname()[1]
            access = Access.of(listen, port, names=names, always_token=always_token, secure=tls is not None)
            server = _server(application(source, access), tls)
            click.echo(f"database: {source.shown}")
            click.echo(f"dashboard: {address(listen, port, access.token, secure=tls is not None)}")
            if access.token is None:
                click.echo("Every user of this machine can look; --token asks for a token.")
            elif not access.loopback and tls is None:
                click.echo("Others on the network can read what is sent: HTTPS (--tls) or an ssh tunnel hides it.")
            click.echo("Ctrl-C ends it.")
            try:
                server.run(sockets=[listening])
            except KeyboardInterrupt:
                click.echo("ended")
    finally:
        source.close()


def database_of(url: str | None) -> str:
    """Return the URL of the database that a user means.

    Args:
        url: a URL, the path of an SQLite file, or of a folder with ``monitoring.db``; None: that below ``runinfo``.
    """
    if not url:
        return default_url(RUNINFO)
    if "://" in url:
        return url
    path = Path(url).expanduser().absolute()
    return f"sqlite:///{path / NAME if path.is_dir() else path}"


def _refuse_missing(url: str) -> None:
    """Go on only if an SQLite file is there.

    Raises:
        ConfigurationError: it is not.
    """
    where = parsed(url)
    path = Path(str(where.database)).absolute()
    if is_sqlite(where) and not path.is_file():
        raise ConfigurationError(
            f"there is no database {path}: no run was recorded there. Runs are recorded with "
            'flowcore.Config(monitoring=MonitoringHub()), in a TOML file `monitoring = { plugin = "monitoring" }`; '
            "to look at the database of other runs: flowcore dashboard URL"
        )


def address(listen: str, port: int, token: str | None, secure: bool = False) -> str:
    """Return the address that a user opens.

    Args:
        listen: where the server listens.
        port: its port.
        token: part of the address, if one is demanded.
        secure: whether it speaks HTTPS.
    """
    host = socket.gethostname() if listen in ("0.0.0.0", "::", "") else listen  # noqa: S104 - compared, not bound
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{host}:{port}/" + (f"?token={token}" if token else "")


def _bound(listen: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    try:
        found = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigurationError(
            f"--listen {listen}: this is no address of this machine ({error.strerror}); 127.0.0.1 is for this machine "
            "alone, 0.0.0.0 for all that can reach it"
        ) from None
    family, kind, protocol, _, where = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(128)
    except OSError as error:
        listening.close()
        advice = "--port 0 takes a free port"
        if error.errno == errno.EADDRNOTAVAIL:
            advice = "this machine has no such address; 127.0.0.1 is for this machine alone, 0.0.0.0 for all"
        elif error.errno == errno.EACCES:
            advice = "ports below 1024 are for administrators"
        raise ConfigurationError(f"cannot listen on {listen} port {port}: {error.strerror}; {advice}") from None
    return listening


def _server(app: object, tls: tuple[Path, Path] | None) -> uvicorn.Server:
    import ssl

    import uvicorn

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="h11",
        ws="none",
        lifespan="off",
        log_level=logging.WARNING,
        # Addresses may hold the token.
        access_log=False,
        # Whoever connects says who they are by what they show, not by headers.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"--tls {' '.join(map(str, tls or ()))}: cannot be used: {error}") from None
    return uvicorn.Server(config)
