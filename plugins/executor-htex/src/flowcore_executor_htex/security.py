"""CurveZMQ: who may connect to the interchange, and with which keys.

The interchange is the only server. It answers libzmq's question about each client's key (ZAP, RFC 27) itself:
only the key made for this run passes.
"""

from __future__ import annotations

import zmq

from flowcore_executor_htex import wire

ZAP_ADDRESS = "inproc://zeromq.zap.01"
_Z85_KEY_BYTES = 32


def be_server(socket: zmq.Socket[bytes], secret_key: str) -> None:
    """Make a socket accept encrypted connections only; does nothing with an empty key."""
    if secret_key:
        socket.curve_secretkey = secret_key.encode()
        socket.curve_server = True
        # libzmq asks the ZAP handler only where a domain is set.
        socket.zap_domain = b"flowcore"


def be_client(socket: zmq.Socket[bytes], server_public_key: str, public_key: str, secret_key: str) -> None:
    """Make a socket connect encrypted; does nothing with an empty key."""
    if secret_key:
        socket.curve_serverkey = server_public_key.encode()
        socket.curve_publickey = public_key.encode()
        socket.curve_secretkey = secret_key.encode()


class Gate:
    """Answers ZAP requests: one public key may pass.

    Args:
        context: of the sockets to guard.
        client_public_key: the key that may pass, in Z85.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], client_public_key: str) -> None:
        from zmq.utils import z85

        self._allowed = z85.decode(client_public_key.encode())
        self.socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(ZAP_ADDRESS)

    def answer(self) -> list[str]:
        """Answer the requests that are there; return the addresses of the clients that were refused."""
        refused = []
        while wire.waiting(self.socket):
            request = self.socket.recv_multipart(zmq.NOBLOCK)
            reply = self.reply(request)
            self.socket.send_multipart(reply)
            if reply[2] != b"200":
                refused.append(request[3].decode(errors="replace") if len(request) > 3 else "?")
        return refused

    def reply(self, request: list[bytes]) -> list[bytes]:
        """Return the reply to one request: version, id, status code, text, user, metadata."""
        # version, request id, domain, address, identity, mechanism, credentials...
        version, request_id = [*request, b"", b""][:2]
        mechanism = request[5] if len(request) > 5 else b""
        credential = request[6] if len(request) > 6 else b""
        good = mechanism == b"CURVE" and len(credential) == _Z85_KEY_BYTES and credential == self._allowed
        if not good:
            return [version, request_id, b"400", b"not a client of this run", b"", b""]
        return [version, request_id, b"200", b"OK", b"run", b""]
