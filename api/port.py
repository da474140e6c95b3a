"""Letting go of a port so that a client is either answered or refused, never cut off."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import time
from typing import Any

HANDSHAKE_S = 0.2
"""How long connections that have begun may take to be established."""
_SO_ATTACH_FILTER = 26
_WITHOUT_NEW = (
    (0x30, 0, 0, 13),  # load the byte of flags of the TCP header
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else take it
)
"""A filter of classic BPF, as (code, jump if true, jump if false, operand)."""


def refuse_before_stop(arbiter: Any) -> None:
    """Let gunicorn's master, when the whole server ends, turn new connections away before it closes the port.

    Whoever connects between a process' last accept and the close of the port would be cut off. Connections
    that are turned away are tried again by the client's system, and find the port closed.
    """
    stop = arbiter.stop

    def refuse_and_stop(graceful: bool = True) -> None:
        if arbiter.reexec_pid == arbiter.master_pid == 0 and not arbiter.systemd:
            for listener in arbiter.LISTENERS:
                turn_away(listener.sock)
            time.sleep(HANDSHAKE_S)
        stop(graceful)

    arbiter.stop = refuse_and_stop


def turn_away(listener: socket.socket) -> None:
    """Drop what would begin a connection to this port, where the system can; others go on."""
    if sys.platform != "linux" or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _WITHOUT_NEW))
    program = struct.pack("HL", len(_WITHOUT_NEW), ctypes.addressof(code))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
