"""Listening: a port of one process, or one that several processes share."""

from __future__ import annotations

import os
import socket
import sys

from jackfield.errors import SettingsError

#: Connections that wait to be accepted.
_BACKLOG = 2048
#: Whether the system spreads connections over the sockets that share a port.
SPREADS = sys.platform == "linux"


def listen(host: str, port: int, setting: str, *, shares_port: bool = False) -> socket.socket:
    """Listen on a TCP port.

    Args:
        host: An address of this machine; an IPv6 one has colons.
        port: 0 takes a free one.
        setting: Name of the port's setting, for the error.
        shares_port: Other processes of this user may listen on it, too, if all of them say so.

    Raises:
        SettingsError: The address can't be listened on.
    """
    try:
        return socket.create_server(
            (host, port), family=_family(host), backlog=_BACKLOG, reuse_port=shares_port
        )
    except OSError as error:
        raise _refusal(host, port, setting, error) from error


class Reservation:
    """A port that is kept for other processes, which listen on it.

    A port that is taken is found by listening on it alone for a moment. Then a socket that shares
    it, and does not listen, keeps it: no connection comes to it, and no other program gets the port
    between the death of one process and the birth of another.

    Args:
        host: As for `listen`; so are the others.
        port: As for `listen`.
        setting: As for `listen`.
        is_inherited: The processes get a listening socket from this one instead.

    Raises:
        SettingsError: The port can't be listened on, or not shared.
    """

    def __init__(self, host: str, port: int, setting: str, *, is_inherited: bool = False) -> None:
        self.setting = setting
        self.is_inherited = is_inherited
        self.sock = listen(host, port, setting)
        self.port: int = self.sock.getsockname()[1]
        if is_inherited:
            return
        self.sock.close()
        self.sock = socket.socket(_family(host), socket.SOCK_STREAM)
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if self.sock.family == socket.AF_INET6:
                self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.sock.bind((host, self.port))
        except OSError as error:
            self.sock.close()
            raise _refusal(host, self.port, setting, error) from error

    def close(self) -> None:
        """Let go of the port."""
        self.sock.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _refusal(host: str, port: int, setting: str, error: OSError) -> SettingsError:
    option = setting.replace("_", "-")
    # Python adds the address to the system's own words
    number = error.errno or 0
    reason = os.strerror(number) if number > 0 else error.strerror
    problem = f"can't listen on {host}:{port}: {reason}; choose another with --{option}"
    return SettingsError(setting, problem)
