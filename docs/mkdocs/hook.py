"""MkDocs' hook: which files the site consists of.

The site has the layout of the repository, with README.md as its start, so that a link that works there works here. The
reference is made from the code while the site is built.
"""

from __future__ import annotations

import re
from pathlib import Path

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("*.md", "docs/**/*.md", "docs/mkdocs/*.css", "benchmarks/results/*.md", "dino_ros/models/*.md")
"""Patterns of the pages and of their style; pictures and code come along where a page links to them."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of `docs_dir` by those of SOURCES, under their paths in the repository, and the reference."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    sources = {path for pattern in SOURCES for path in ROOT.glob(pattern)}
    for path in sorted(sources.union(*(linked(page) for page in sources))):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for uri, page in reference.PAGES.items():
        files.append(File.generated(config, uri, content=page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Give a page that is alone under its tab the room of the menu beside it, which would hold itself alone."""
    if page.parent is None:
        page.meta["hide"] = ["navigation"]
    return markdown


def linked(page: Path) -> set[Path]:
    """Files of the repository that a page shows or links to."""
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return {target for link in links if (target := (page.parent / link).resolve()).is_file()}
