"""MkDocs' hook: which files the site consists of.

The site has the layout of the repository, with README.md as its start, so that a link that works there works here. The
reference is made from the code while the site is built.
"""

from __future__ import annotations

from pathlib import Path

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "*.md",
    "docs/**/*.md",
    "docs/**/*.png",
    "docs/mkdocs/*.css",
    "benchmarks/results/*",
    "dino_ros/models/*.md",
    "examples/*.py",  # pages link to them
)
"""Patterns of the pages, and of the files that they show or link to."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of `docs_dir` by those of SOURCES, under their paths in the repository, and the reference."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for path, page in reference.PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files
