"""Processes for tests that need several, or one that may be killed. All are forked from one that has imported everything
already, which saves seconds each time."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import connection

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["accelerate", "datasets", "transformers", "hf_slap.engine", "hf_slap.finetuning"])


def start(function: Callable, *arguments) -> multiprocessing.Process:
    """A process of its own that calls a function of a test module."""
    process = PROCESSES.Process(target=_quietly, args=(function, arguments))
    process.start()
    return process


def run_ranks(count: int, function: Callable, *arguments) -> None:
    """Calls a function on `count` ranks, whose process group is made by whoever needs it, and waits for them: until one
    fails, for which the others would wait in vain, or ten minutes have gone."""
    (port,) = free_ports(1)
    ranks = [start(_as_rank, rank, count, port, function, arguments) for rank in range(count)]
    end = time.monotonic() + 600
    while running := [process for process in ranks if process.is_alive()]:
        connection.wait([process.sentinel for process in running], timeout=max(0, end - time.monotonic()))
        if any(process.exitcode for process in ranks) or time.monotonic() > end:
            for process in running:
                process.kill()
                process.join()
    codes = [process.exitcode for process in ranks]
    assert codes == [0] * count, f"exit codes {codes}; what the processes said is above"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for number in sockets:
            number.bind(("127.0.0.1", 0))
        return [number.getsockname()[1] for number in sockets]


def _as_rank(rank: int, count: int, port: int, function: Callable, arguments: tuple) -> None:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    function(*arguments)


def _quietly(function: Callable, arguments: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.stdout = open(os.devnull, "w")  # progress of runs; errors go to stderr
    function(*arguments)


def die_at(folder: os.PathLike, number: int) -> None:
    """From now on this process is killed, as by `kill -9`, when it changes something under `folder` for the `number`-th
    time: before it opens a file to write, renames or removes, or when it has written half of a safetensors file.
    """
    import hf_slap.checkpoint

    left = number

    def change(about_to: Callable = lambda: None) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            about_to()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple) -> None:
        changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or (
            event == "open" and arguments[1] != "r"
        )
        if changes and str(arguments[0]).startswith(str(folder)):
            change()

    def save_file(tensors: dict, path: os.PathLike) -> None:
        write(tensors, path)
        change(lambda: os.truncate(path, os.path.getsize(path) // 2))

    write, hf_slap.checkpoint.save_file = hf_slap.checkpoint.save_file, save_file
    sys.addaudithook(watch)
