"""Tests of `free_port`, which chooses ports for tests' servers."""

import socket

from l2features.local.emulator_programs import LOOPBACK, free_port


def _chosen_by_system() -> int:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        return int(other.getsockname()[1])


def test_no_other_process_gets_a_chosen_port() -> None:
    """Let the system choose 20,000 of its 28,000 ports. None is one of the 100 that `free_port` chose."""
    chosen = {free_port() for _ in range(100)}
    assert len(chosen) == 100
    assert not chosen & {_chosen_by_system() for _ in range(20_000)}


def test_a_server_can_listen_at_a_chosen_port() -> None:
    with socket.create_server((LOOPBACK, free_port())) as server:
        assert server.getsockname()[1]
