"""Checkpoint files and their epochs, from patterns with `{epoch}`, lists of files, or one file."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from co_probe.errors import UserError

EPOCH = re.compile(r"\{epoch(?::[^}]*)?\}")  # a format such as `{epoch:03d}` matches the same files
NAMED_EPOCH = re.compile(r"ep(?:och)?[-_=.]?(\d+)", re.IGNORECASE)
SUFFIXES = (".pth", ".pt", ".ckpt", ".tar", ".bin")


@dataclass(frozen=True)
class CheckpointFiles:
    """Checkpoint files of a run.

    Attributes:
        paths: File of each epoch, in increasing order from 1.
        note: One line on the assignment of epochs if it is not obvious from names; may be empty.
    """

    paths: dict[int, Path]
    note: str = ""


def find_checkpoints(source: str | Path | Sequence[str | Path]) -> CheckpointFiles:
    """Find checkpoint files and their epochs.

    Args:
        source: A pattern with `{epoch}` for the number (`*` matches any other text), a list of files, or one file.
            Epochs of a list are the number in which the names differ, or else positions in the list. Numbers that start
            at 0 are shifted, since epochs of a run start at 1.

    Raises:
        UserError: No file matches, a file does not exist, or two files have the same epoch.

    Example:
        >>> find_checkpoints("ckpts/model_epoch_{epoch}.pth").paths
        {1: PosixPath('ckpts/model_epoch_1.pth'), 2: PosixPath('ckpts/model_epoch_2.pth')}
    """
    given = [source] if isinstance(source, str | Path) else list(source)
    if not given:
        raise UserError("there are no checkpoint files: give a pattern such as 'ckpts/model_epoch_{epoch}.pth'")
    if len(given) == 1 and EPOCH.search(str(given[0])):
        return _numbered(_matching(str(given[0])))
    files: list[Path] = []
    for name in map(str, given):
        files += _globbed(name) if glob.has_magic(name) and not Path(name).exists() else [_existing(Path(name))]
    if len(files) == 1:
        found = NAMED_EPOCH.findall(files[0].stem)
        return _numbered([(int(found[-1]) if found else 1, files[0])])
    if (numbers := _differing_numbers(files)) is not None:
        return _numbered(list(zip(numbers, files, strict=True)))
    note = "The names of the files do not differ in one number: epochs are the order in which they are given."
    return CheckpointFiles(dict(enumerate(files, 1)), note)


def _matching(pattern: str) -> list[tuple[int, Path]]:
    """Return (number, file) of each file that `pattern` matches."""
    parts = EPOCH.split(pattern)
    text = [re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") for part in parts]
    expression = re.compile(text[0] + r"(\d+)" + r"\1".join(text[1:]))  # all occurrences hold the same number
    escaped = "*".join(part.replace("[", "[[]") for part in parts)
    found = [(int(match[1]), Path(name)) for name in glob.glob(escaped) if (match := expression.fullmatch(name))]
    if not found:
        raise UserError(f"no file matches {pattern}: {_beside(Path(pattern).parent)}")
    return found


def _globbed(pattern: str) -> list[Path]:
    if not (found := [path for path in map(Path, sorted(glob.glob(pattern))) if path.is_file()]):
        raise UserError(f"no file matches {pattern}: {_beside(Path(pattern).parent)}")
    return found


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a pattern of its files; {_beside(path)}")
    if not path.exists():
        raise UserError(f"{path} does not exist: {_beside(path.parent)}")
    return path


def _beside(folder: Path) -> str:
    """Describe the files in `folder`: the pattern that fits them, or the first names."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not names:
        return f"there are no files ending in {', '.join(SUFFIXES)} in {folder}/"
    for name in names:
        if len(numbers := re.findall(r"\d+", name)) and len(names) > 1:
            head, _, tail = name.rpartition(numbers[-1])
            same = [n for n in names if re.fullmatch(re.escape(head) + r"\d+" + re.escape(tail), n)]
            if len(same) > 1:
                return f"did you mean {folder / head}{{epoch}}{tail}?"
    return f"{folder}/ has {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _differing_numbers(files: list[Path]) -> list[int] | None:
    """Return the number in which the names of `files` differ; None if they differ otherwise."""
    split = [re.split(r"(\d+)", str(path)) for path in files]
    if len({len(parts) for parts in split}) != 1:
        return None
    differing = [place for place, parts in enumerate(zip(*split, strict=True)) if len(set(parts)) > 1]
    if len(differing) != 1 or differing[0] % 2 == 0:
        return None
    return [int(parts[differing[0]]) for parts in split]


def _numbered(found: list[tuple[int, Path]]) -> CheckpointFiles:
    paths: dict[int, Path] = {}
    for number, path in sorted(found):
        if number in paths:
            raise UserError(f"{paths[number]} and {path} are both of epoch {number}: remove one, or list the files")
        paths[number] = path
    if 0 not in paths:
        return CheckpointFiles(paths)
    shifted = {number + 1: path for number, path in paths.items()}
    return CheckpointFiles(shifted, f"Epochs of a run count from 1: {paths[0].name} is epoch 1.")
