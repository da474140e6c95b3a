"""Tests of `free_port`, which reserves a port for a server on this machine."""

import socket

from l2features.local.emulator_programs import LOOPBACK, free_port, is_listening


def _chosen_by_system() -> int:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        return int(other.getsockname()[1])


def test_no_other_process_gets_a_chosen_port() -> None:
    """The system chooses a port 20,000 times. It has about 28,000, of which 100 are reserved."""
    chosen = {free_port() for _ in range(100)}
    assert len(chosen) == 100
    assert not chosen & {_chosen_by_system() for _ in range(20_000)}


def test_a_server_can_listen_at_a_chosen_port() -> None:
    port = free_port()
    with socket.create_server((LOOPBACK, port)):
        assert is_listening(port)
