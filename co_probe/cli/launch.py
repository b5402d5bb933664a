"""Training one run in several processes of this machine, like `torchrun`, with one-line errors."""

import io
import os
import socket
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from multiprocessing import connection, get_context
from multiprocessing.queues import SimpleQueue
from typing import Any

import click

from co_probe.cli.endings import end_with_error, ending_by_signals
from co_probe.config.plugins import allow, allowed
from co_probe.sweeps.processes import cores, end_with

PATIENCE = 20  # seconds to wait for other processes when one has ended


def launch(count: int, function: Callable[..., None], *arguments: Any) -> int:
    """Call `function(*arguments)` in processes that train one run together.

    Args:
        count: Number of processes.
        function: Function of a module, which other processes can import.
        *arguments: Plain data.

    Returns:
        The exit code of the first process that failed, or 0. Its error is printed in one line to standard error.
    """
    context, errors = get_context("spawn"), get_context("spawn").SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", max(1, cores() // count))
    processes = [
        context.Process(
            target=_member,
            args=(shared | {"RANK": rank, "LOCAL_RANK": rank}, os.getpid(), allowed(), errors, function, arguments),
        )
        for rank in range(count)
    ]
    code, started = 0, []
    try:
        for process in processes:
            process.start()
            started.append(process)
        running = {process.sentinel: process for process in processes}
        while running and not code:
            for ended in connection.wait(running):
                code = code or running.pop(ended).exitcode or 0  # type: ignore[arg-type]
        for process in started:
            process.join(PATIENCE if code else None)
    finally:  # after an interrupt, or if processes wait for one that has ended
        for process in started:
            if process.is_alive():
                process.terminate()
        for process in started:
            process.join(PATIENCE)
            process.kill()
            process.join()
    own, others = dict[str, int](), dict[str, int]()
    while not errors.empty():
        follows, text, exit_code = errors.get()
        (others if follows else own)[text] = exit_code
    for text in own or others:
        click.echo(text, nl=False, err=True)
    if code < 0 and not own:
        click.echo(f"Error: a process of the run was killed (signal {-code}; out of memory?)", err=True)
    return next(iter(own.values()), 128 - code if code < 0 else code)


def _member(
    environment: dict[str, object],
    parent: int,
    names: list[str],
    errors: SimpleQueue[tuple[bool, str, int]],
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """Run one of the processes, and send its error to the parent."""
    end_with(parent)
    os.environ |= {name: str(value) for name, value in environment.items()}
    allow(*names)
    try:
        with ending_by_signals():
            function(*arguments)
    except (Exception, KeyboardInterrupt) as error:
        from co_probe.training.group import ProcessLost

        with redirect_stderr(io.StringIO()) as text:
            code = end_with_error(error)
        errors.put((isinstance(error, ProcessLost | KeyboardInterrupt), text.getvalue(), code))
        sys.exit(code)
