"""How an evaluation elsewhere, in a process or on a cluster, tells the search of its steps: by TCP, a line each way."""

import json
import secrets
import socket
import socketserver
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

import psutil

from lmsearcher_local.errors import ObjectiveError

CONNECTING = 5.0  # seconds to wait for each address of the search's machine
ANSWER = 120.0  # seconds to wait for the pruner
LINE = 1000  # bytes at most
HERE = "127.0.0.1"


@dataclass(frozen=True)
class RemoteWatch:
    """What a trial elsewhere reports to; a ``Watch`` that can be pickled.

    Calling it raises ``ObjectiveError`` where the search cannot be reached.
    """

    host: str
    addresses: tuple[str, ...]
    port: int
    token: str
    trial: int  # its number

    def __call__(self, step: int, value: float) -> bool:
        line = json.dumps([self.token, self.trial, step, value]).encode() + b"\n"
        addresses = (HERE,) if self.host == socket.gethostname() else self.addresses
        reasons = []
        for address in sorted(addresses, key=lambda one: one != _REACHED.get(self.port)):  # stable: that one first
            try:
                with socket.create_connection((address, self.port), CONNECTING) as connection:
                    connection.settimeout(ANSWER)
                    connection.sendall(line)
                    answer = connection.makefile("rb").readline(LINE)
                if answer:
                    _REACHED[self.port] = address
                    return bool(json.loads(answer))
                reasons.append("it does not answer")
            except (OSError, ValueError) as error:
                reasons.append(str(error))
        raise ObjectiveError(
            f"{socket.gethostname()} cannot reach the search at {' or '.join(addresses)}, port {self.port}"
            f" ({reasons[-1]}), which --pruner needs"
        )


_REACHED: dict[int, str] = {}  # by port the address that answered


@contextmanager
def listen(judge: Callable[[int, int, float], bool], *, here: bool) -> Iterator[Callable[[int], RemoteWatch]]:
    """Answer evaluations elsewhere; given is what makes the ``RemoteWatch`` of a trial by its number.

    Who does not know the token, drawn anew each time, gets no answer.

    Args:
        judge: called by a thread for each report, with a trial's number, a step and a value; whether it is to stop.
        here: evaluations are on this machine, and no other can connect.
    """
    token = secrets.token_hex(16)

    class Handler(socketserver.StreamRequestHandler):
        timeout = ANSWER

        def handle(self) -> None:
            try:
                given, trial, step, value = json.loads(self.rfile.readline(LINE))
                if secrets.compare_digest(str(given).encode(), token.encode()):
                    self.wfile.write(json.dumps(judge(int(trial), int(step), float(value))).encode() + b"\n")
            except (OSError, ValueError, TypeError):  # somebody else, or gone
                pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False  # what ends the search waits for no evaluation
        request_queue_size = 128

    with Server((HERE if here else "", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        addresses = (HERE,) if here else _addresses()
        try:
            yield lambda trial: RemoteWatch(socket.gethostname(), addresses, server.server_address[1], token, trial)
        finally:
            server.shutdown()


def _addresses() -> tuple[str, ...]:
    """This machine's, as other machines may know them."""
    found = [one for interface in psutil.net_if_addrs().values() for one in interface if one.family == socket.AF_INET]
    return tuple(one.address for one in found if not one.address.startswith("127.")) or (HERE,)
