"""The documentation runs: code blocks are executed, command lines parse, links lead somewhere.

Conventions for `README.md` and `docs/`:

- Python blocks of a page share one namespace and one folder, which holds the runs, checkpoints and logs of `sandbox`.
- A Python block that begins with `# name.py` is saved under that name instead, for later blocks to import.
- `<!-- skip: reason -->` above a Python block leaves it out: it needs a GPU, a download or another package.
- Every `co-probe` line of a shell block parses; `<!-- run -->` above the block executes its lines as well.
- Whatever a block trains is made tiny by `tiny_presets`.
"""

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib.pyplot
import pytest
import their_project
from conftest import TINY

import co_probe
from co_probe.cli.main import cli, main
from co_probe.config import plugins, presets
from co_probe.config.commands import COMMANDS
from co_probe.config.settings import merge
from co_probe.data import DATA
from co_probe.data.digits import digits
from co_probe.data.normalisation import NORMALISATIONS, Normalisation
from co_probe.diagnosis import KINDS
from co_probe.methods import METHODS
from co_probe.models import MODELS
from co_probe.plots import PLOTS
from co_probe.sweeps import grid

matplotlib.use("Agg")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = {"console", "bash", "sh"}
FENCE = re.compile(r"^```(\w*)[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- (skip: .+|run) -->\s*\Z")
FILE = re.compile(r"# (\w+\.py)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it begins at, and the marker above it."""

    language: str
    text: str
    line: int
    marker: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        marker = MARKER.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(match[1], match[2], line, marker[1] if marker else ""))
    return found


def commands(block: Block) -> list[list[str]]:
    """The arguments of every `co-probe` call in a shell block."""
    calls = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "||", "|", ";", ">")), len(words))
            if words[:1] == ["co-probe"]:
                calls.append(words[1:end])
            words = words[end + 1 :]
    return calls


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


TUTORIAL = ROOT / "docs" / "tutorial.md"  # runs as a notebook, at full size: test_tutorial.py
PYTHON = [page for page in PAGES if page != TUTORIAL and any(block.language == "python" for block in blocks(page))]
TYPED = [page for page in PAGES if any(block.language in SHELL and commands(block) for block in blocks(page))]


@pytest.fixture(scope="session")
def foreign(tmp_path_factory) -> Path:
    """A folder `ckpts` of checkpoints that another program trained."""
    folder = tmp_path_factory.mktemp("foreign") / "ckpts"
    folder.mkdir()
    data = digits()
    their_project.train(folder, data.train_x[:600], data.train_y[:600], 3)
    return folder


@pytest.fixture
def sandbox(trained: Path, foreign: Path, tmp_path: Path, monkeypatch, registries) -> Path:
    """The working directory of a page: `runs/`, `ckpts/`, `mymodel.py`, `curves.csv`, `pgd10.pt`.

    Digits stand in for CIFAR-10, which is not to be downloaded. Registries, modules and permissions are restored.
    """
    for part in (trained / method for method in ("apart", "apart-simple", "fgsm", "pgd")):
        shutil.copytree(part, tmp_path / "runs" / part.name)
    shutil.copytree(foreign, tmp_path / "ckpts")
    shutil.copy(their_project.__file__, tmp_path / "mymodel.py")
    curves = co_probe.open_run(tmp_path / "runs" / "fgsm").frame("metrics").pivot(index="epoch", columns="quantity")
    curves["value"][["clean", "fgsm", "pgd10"]].to_csv(tmp_path / "curves.csv")
    co_probe.export(tmp_path / "runs" / "pgd", None, tmp_path / "pgd10.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(DATA.entries, "cifar10", "co_probe.data.digits:digits")
    monkeypatch.setitem(NORMALISATIONS, "cifar10", Normalisation((their_project.MEAN,), (their_project.STD,)))
    monkeypatch.setattr(plugins, "_allowed", [*plugins._allowed])
    modules = set(sys.modules)
    yield tmp_path
    matplotlib.pyplot.close("all")
    for module in set(sys.modules) - modules:
        if getattr(sys.modules[module], "__file__", None) and str(tmp_path) in str(sys.modules[module].__file__):
            del sys.modules[module]


@pytest.fixture
def tiny_presets(monkeypatch) -> None:
    """Runs are tiny, whatever they ask for; ε, seed, method and data are theirs. Runs on `patches` stay as they are."""
    small = merge({key: TINY[key] for key in ("batch_size", "probe", "model", "epsilon_warmup")}, {"epochs": 2})
    original = presets.configure

    def configure(preset, method, *overrides):
        config = original(preset, method, *overrides)
        if config.data.name == "patches":
            return config
        sized = {"data": {"size": 8}} if config.data.name in ("digits", "cifar10") else {}
        return original(preset, method, *overrides, small, sized)

    monkeypatch.setattr(presets, "configure", configure)
    monkeypatch.setattr(grid, "configure", configure)


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON, ids=name)
def test_python_blocks_run(page, sandbox, tiny_presets):
    namespace = {"__name__": "__docs__"}
    for block in blocks(page):
        if block.language != "python" or block.marker.startswith("skip"):
            continue
        if file := FILE.match(block.text):
            (sandbox / file[1]).write_text(block.text, encoding="utf-8")
            importlib.invalidate_caches()
            continue
        # As many empty lines before it as the page has, so that a traceback names the line of the page.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", TYPED, ids=name)
def test_commands_parse(page):
    for block in blocks(page):
        if block.language in SHELL:
            for arguments in commands(block):
                parse(arguments)


def parse(arguments: list[str]) -> None:
    """Parse a command line without running it; a wrong option or value is a UsageError."""
    if "--help" in arguments or "--version" in arguments:
        return
    context = cli.make_context("co-probe", list(arguments))
    command: click.Command = cli
    while isinstance(command, click.Group):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        called, command, rest = command.resolve_command(context, rest)
        context = command.make_context(called, rest, parent=context)


def test_a_wrong_option_does_not_parse():
    with pytest.raises(click.NoSuchOption):
        parse(["gap", "--agianst", "pgd20"])
    with pytest.raises(click.UsageError):
        parse(["preset", "shwo"])


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in TYPED if any(b.marker == "run" for b in blocks(page))], ids=name)
def test_marked_commands_run(page, sandbox, tiny_presets, capsys):
    for block in blocks(page):
        if block.marker == "run":
            for arguments in commands(block):
                with pytest.raises(SystemExit) as end:
                    main(arguments)
                assert end.value.code == 0, f"{name(page)}: co-probe {shlex.join(arguments)}\n{capsys.readouterr().err}"


def targets(page: Path) -> Iterator[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r'(?:src|href)="([^"]+)"', text)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "figures" / "README.md"], ids=name)
def test_links_lead_somewhere(page):
    for target in targets(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{name(page)} links to {target}"


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / target).resolve() for target in targets(ROOT / "README.md") if "#" not in target}
    assert not [name(page) for page in PAGES[1:] if page not in linked]


NAMED = [
    ("docs/methods.md", METHODS),
    ("docs/data-and-models.md", DATA),
    ("docs/data-and-models.md", MODELS),
    ("docs/reproduce.md", PLOTS),
    ("docs/diagnosis.md", KINDS),
    ("docs/python-api.md", co_probe.__all__),
    ("docs/cli.md", [f"co-probe {command}" for command in COMMANDS]),
]


@pytest.mark.parametrize("page, names", NAMED, ids=[page for page, _ in NAMED])
def test_a_page_names_everything_there_is(page, names):
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = [each for each in names if not re.search(rf"(?<![\w-]){re.escape(each)}(?![\w-])", text)]
    assert not missing


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_shell_blocks_are_recognised():
    block = Block("console", "$ co-probe show runs/fgsm  # all epochs\npip install . && co-probe demo\n", 1, "")
    assert commands(block) == [["show", "runs/fgsm"], ["demo"]]


def test_the_command_reference_is_current():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from make_cli import render
    finally:
        sys.path.remove(str(ROOT / "docs"))
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == render(), "run: python docs/make_cli.py"
