"""Notices at once when a process of the run ends, so that no other process waits for it in vain.

A collective call waits for all processes and can't be interrupted; its time-out must be longer than
the longest rollout. Therefore the first process holds a connection to each other process, which the
operating system closes when either of them dies, for whatever reason. The process that notices this
informs the others, says why, and ends.

A process that is stopped, for example by SIGSTOP or a debugger, keeps its connections. So all
processes send a beat every few seconds. If the beats of a process stop, a message reports it, but
the process is not ended, since it may be continued.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.system.printable import indented, one_line

log = logging.getLogger(__name__)

Broadcast = Callable[[Any], Any]
Message = Mapping[str, Any]

SILENCE = 30
"""Seconds after which a machine that does not answer is considered gone."""

SETTLING = 3.0
"""Seconds to wait and see whether the end of another process caused the error of this one."""

BEAT = 10.0
"""Seconds between two beats of a process."""

MISSED = 6
"""Number of missed beats of another process, counted by one's own beats, that is reported."""

GRACE = 20.0
"""Seconds that a process has to end by itself after another process was asked to stop."""


class PeerWatch:
    """Holds connections between the first process and all others, and watches them in a thread.

    Args:
        rank: Number of this process.
        world_size: Number of all processes.
        host: Host on which the first process can be reached.
        broadcast: Function that returns the first process's object on all processes.
    """

    def __init__(self, rank: int, world_size: int, host: str, broadcast: Broadcast) -> None:
        self.rank, self.world_size = rank, world_size
        self._lock = threading.Lock()
        self._has_left = False
        self._stopped: str | None = None  # "process N was asked to stop", once another one was
        # launchers treat a nonzero status of any process but the first as a failure
        self._status_if_stopped = 0 if rank else 143
        self._names: dict[socket.socket, int] = {}
        self._missed: dict[socket.socket, int] = {}  # beats since each one's last message
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        door = None
        if rank == 0 and world_size > 1:
            self._listener = open_door(world_size)
            door = (host, self._listener.getsockname()[1], secrets.token_hex(16))
        door = broadcast(door)
        if door is None:
            return
        self._token: str = door[2]
        if self._listener is not None:
            self._selector.register(self._listener, selectors.EVENT_READ)
        else:
            self._connect(door[0], door[1])
        threading.Thread(target=self._listen, name="peer-watch", daemon=True).start()

    def _connect(self, host: str, port: int) -> None:
        try:
            first = socket.create_connection((host, port), timeout=SILENCE)
        except OSError as error:
            log.warning(
                "process %d can't reach port %d of %s (%s): a process that dies is noticed only "
                "when collective calls time out. Open the ports between the nodes",
                *(self.rank, port, one_line(host), one_line(error)),
            )
            return
        self._add(first, 0)
        self._send(first, {"token": self._token, "rank": self.rank})

    def _add(self, peer: socket.socket, rank: int) -> None:
        peer.settimeout(None)
        keep_alive(peer)
        self._names[peer], self._missed[peer] = rank, 0
        self._selector.register(peer, selectors.EVENT_READ)

    # ---- leaving

    def leave(self, exception: BaseException | None = None) -> None:
        """Informs the others that this process ends, and why; later calls do nothing.

        Args:
            exception: Exception that ends the process; none at the regular end.
        """
        if self._has_left:
            return
        # a failing collective call also raises this, but can't say which process has ended
        if isinstance(exception, RuntimeError):
            time.sleep(SETTLING)
            if self._stopped is not None:
                self._die(self._stopped, self._status_if_stopped)
        self._has_left = True
        message: Message = {"left": True}
        if isinstance(exception, (SystemExit, KeyboardInterrupt)):
            message = {"stopped": self.rank}
        elif exception is not None:
            known = isinstance(exception, ConfigError)
            text = str(exception) if known else f"{type(exception).__name__}: {exception}"
            message = {"failed": f"process {self.rank}: {text}", "status": 2 if known else 1}
        self._tell_all(message)

    def _tell_all(self, message: Message) -> None:
        with self._lock:
            for peer in list(self._names):
                self._send(peer, message)

    @staticmethod
    def _send(peer: socket.socket, message: Message) -> None:
        try:
            peer.sendall((json.dumps(message) + "\n").encode())
        except OSError as error:
            log.debug("a process is already gone: %s", one_line(error))

    # ---- listening

    def _listen(self) -> None:
        pending: dict[socket.socket, bytes] = {}
        next_beat = time.monotonic() + BEAT
        while self._selector.get_map():
            events = self._selector.select(max(0.0, next_beat - time.monotonic()))
            if time.monotonic() >= next_beat:
                self._beat()
                next_beat = time.monotonic() + BEAT
            for key, _ in events:
                peer: Any = key.fileobj
                if peer is self._listener:
                    self._welcome()
                    continue
                data = self._receive(peer)
                self._note(peer, bool(data))
                *lines, pending[peer] = (pending.get(peer, b"") + data).split(b"\n")
                for line in lines:
                    self._hear(peer, json.loads(line))
                if not data and peer in self._names:
                    self._die(f"process {self._names[peer]} ended without giving a reason", 1)

    def _beat(self) -> None:
        """Shows the others that this process runs, and counts how long they have not done so.

        Beats are counted, not seconds: if all processes are stopped and continued together, none
        has missed more than one.
        """
        with self._lock:
            for peer, rank in self._names.items():
                self._missed[peer] += 1
                if self._missed[peer] == MISSED:
                    self._say(
                        f"process {rank} has been silent for {MISSED * BEAT:.0f} s: it was "
                        "stopped, or its machine hangs. The others wait for it as long as "
                        "timeout_hours of the strategy allows; if it is killed, they end, too"
                    )
                elif self._missed[peer] < MISSED:  # unread messages would fill the connection
                    self._send(peer, {"beat": True})

    def _note(self, peer: socket.socket, has_spoken: bool) -> None:
        """Restarts the count of missed beats when another process sends a message."""
        if has_spoken and self._missed.get(peer, 0) >= MISSED:
            self._say(f"process {self._names[peer]} runs again")
        self._missed[peer] = 0

    @staticmethod
    def _say(text: str) -> None:
        """Writes a line at once, because only the first process's log messages are shown."""
        os.write(2, f"{indented(text)}\n".encode())

    def _welcome(self) -> None:
        listener = self._listener
        assert listener is not None
        peer, _ = listener.accept()
        peer.settimeout(SILENCE)
        try:
            # without a buffer, which would swallow what follows in the same packet
            line = peer.makefile("rb", buffering=0).readline(1000)
            hello = json.loads(line)
            known = secrets.compare_digest(str(hello["token"]), self._token)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.debug("an unknown connection: %s", one_line(error))
            known = False
        if not known:
            peer.close()
            return
        self._add(peer, int(hello["rank"]))
        if len(self._names) == self.world_size - 1:
            self._selector.unregister(listener)
            listener.close()

    @staticmethod
    def _receive(peer: socket.socket) -> bytes:
        try:
            return peer.recv(65536)
        except OSError as error:  # the connection was reset, or silent for too long
            log.debug("lost a process: %s", one_line(error))
            return b""

    def _hear(self, peer: socket.socket, message: Message) -> None:
        if "beat" in message:
            return
        if "failed" in message:
            self._die(message["failed"], message["status"])
        self._forget(peer)
        if "stopped" in message:
            self._stopped = f"process {message['stopped']} was asked to stop"
            self._tell_all(message)
            time.sleep(GRACE)  # usually this process has been asked, too, and is about to end
            self._die(self._stopped, self._status_if_stopped)

    def _forget(self, peer: socket.socket) -> None:
        with self._lock:
            self._names.pop(peer, None)
        self._selector.unregister(peer)

    def _die(self, text: str, status: int) -> None:
        """Ends this process, whose main thread may wait in a collective call forever."""
        if self._has_left:
            return
        self._tell_all({"failed": text, "status": status})
        told = f"error: {indented(text.rstrip('.'))}. "
        told += f"Process {self.rank:d} of {self.world_size:d} stops, too; "
        told += "files saved earlier are complete, and the same command resumes the run\n"
        os.write(2, told.encode())
        os._exit(status)


def open_door(backlog: int) -> socket.socket:
    """Opens a port for connections over IPv4 and, if available, over IPv6."""
    if not socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), backlog=backlog)
    return socket.create_server(
        ("", 0), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
    )


@contextmanager
def all_arrive(minutes: float, host: str) -> Iterator[None]:
    """Ends this process if the block in which all processes connect takes too long.

    The block can't be interrupted in another way, and until it is done, nothing reports a process
    that has failed.

    Args:
        minutes: Longest time that the block may take, in minutes.
        host: Host of the first process, for the message.
    """

    def give_up() -> None:
        told = f"error: after {minutes:g} minutes not all processes have connected to the first "
        told += f"one, on {one_line(host)}: another process failed at its start and says why, or "
        told += "can't reach it. Training can wait longer: raise "
        told += "trainer.strategy.init_args.connect_minutes\n"
        os.write(2, told.encode(errors="replace"))
        os._exit(1)

    timer = threading.Timer(minutes * 60, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def keep_alive(peer: socket.socket) -> None:
    """Makes the system check on an idle connection whether the other machine still exists."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE // 3)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE // 6)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE * 1000)
