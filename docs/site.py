"""The site's front page is the README: MkDocs calls these as it builds (`make docs`)."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md"} | {
    name: name.lower() for name in ("CONTRIBUTING.md", "CHANGELOG.md")
}
PLAIN = {"LICENSE": "license.txt", "CITATION.cff": "citation.cff"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's own pages, with links that fit their new place."""
    for name, target in (PAGES | PLAIN).items():
        text = (ROOT / name).read_text(encoding="utf-8")
        if name in PAGES:
            text = text.replace("](docs/", "](")
            for other, page in (PAGES | PLAIN).items():
                text = text.replace(f"]({other})", f"]({page})")
        files.append(File.generated(config, target, content=text))
    return files
