"""MkDocs hooks: bring the README, the changelog and the figures, which lie outside `docs/`, into the site.

Links in the repository are relative to its files; `on_page_markdown` turns them into links within the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r'(?<=\]\()[^)\s]+|(?<=src=")[^"]+')  # the target of [text](target), ![alt](target) and <img src="">
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CITATION.cff": "CITATION.cff"}  # file: its page


def on_files(files: Files, config) -> Files:
    """Add the files outside of `docs/`."""
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for path in sorted((ROOT / "figures").rglob("*")):
        if path.is_file():
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Rewrite the links of a page to where their targets are in the site."""
    return LINK.sub(lambda match: _in_site(match[0], page.file.src_uri), markdown)


def _in_site(link: str, page: str) -> str:
    target, hash_, anchor = link.partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return link
    places = {site: repository for repository, site in OUTSIDE.items()}
    here = places.get(page, page if page.startswith("figures/") else f"docs/{page}")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    if (ROOT / there).is_dir():  # a folder of figures has no page; its description has a section
        there, hash_, anchor = "figures/README.md", "#", posixpath.basename(there)
    site = OUTSIDE.get(there, there.removeprefix("docs/"))
    return posixpath.relpath(site, posixpath.dirname(page)) + hash_ + anchor
