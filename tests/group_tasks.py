"""Functions that processes of one run call in tests; a module of its own, which other interpreters can import."""

import os
from pathlib import Path

import children
import torch

from co_probe.config import Config
from co_probe.training import loop


def member(rank: int, count: int, port: int, work, arguments) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    os.fsync = lambda handle: None
    work(*arguments)


def train(runs: dict[Path, dict], resume: bool = False) -> None:
    for path, settings in runs.items():
        list(loop.epochs(Config.from_dict(settings), path, resume=resume, device="cpu"))


def train_until(path: Path, settings: dict, rank: int, epoch: int) -> None:
    """Train; the process `rank` is killed in this epoch."""

    def progress(now: int, done: int, total: int) -> None:
        if now == epoch and done == total and os.environ["RANK"] == str(rank):
            children.kill_myself()

    list(loop.epochs(Config.from_dict(settings), path, resume=True, device="cpu", progress=progress))


def train_with_a_fuse(path: Path, settings: dict, rank: int, call: int) -> None:
    if os.environ["RANK"] == str(rank):
        children.arm(call)
    list(loop.epochs(Config.from_dict(settings), path, resume=True, device="cpu"))
