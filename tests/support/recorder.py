"""Record what a process reads of a segmentation, which code it loads, and which code is sent to it.

The file $DEADLY may hold the path of a file. A process that opens that file exits at once, as if killed.

This module is installed as sitecustomize. It appends lines to the file $RECORD: process id, parent process
id, working folder, event, path.
"""

import os
import sys
from typing import Any

OURS = ("/beam_jobs/", "/l2features/")
READS, LOADS, IS_SENT = "reads", "loads", "is sent"


def is_deadly(path: str) -> bool:
    """Return whether a process that opens ``path`` must exit."""
    deadly = os.environ["DEADLY"]
    if not os.path.exists(deadly):
        return False
    with open(deadly) as file:
        return path == file.read()


def start(file: str, segmentation: str) -> None:
    """Append the process's events to ``file``."""
    record = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(event: str, path: str) -> None:
        line = "\t".join([str(os.getpid()), str(os.getppid()), os.getcwd(), event, path])
        os.write(record, f"{line}\n".encode())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(segmentation):
            write(READS, str(arguments[0]))
            if is_deadly(str(arguments[0])):
                os._exit(9)
        elif event == "exec" and any(part in arguments[0].co_filename for part in OURS):
            write(LOADS, arguments[0].co_filename)
        elif event == "code.__new__" and any(part in arguments[1] for part in OURS):
            write(IS_SENT, f"{arguments[1]} {arguments[2]}")

    sys.addaudithook(hook)


if "RECORD" in os.environ:
    start(os.environ["RECORD"], os.environ["SEGMENTATION"])
