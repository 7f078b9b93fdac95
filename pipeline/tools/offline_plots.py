"""DVC's plots as a page without a network, from which `dvc plots show` loads its scripts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tgo.pipeline.errors import InputError

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>DVC plots</title>
{refresh_tag}
<script>SCRIPT</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""
"""A template of `dvc plots show --html-template` without its place for scripts of the web."""


def write(folder: Path, revisions: list[str]) -> Path:
    """Write DVC's plots into a folder.

    Args:
        folder: where index.html and pictures go.
        revisions: experiments or commits to show beside the workspace, as `dvc plots diff` does.

    Returns:
        The page.

    Raises:
        InputError: DVC cannot make it; the line is DVC's own.
    """
    import vl_convert

    verb = ["diff", *revisions] if revisions else ["show"]
    with TemporaryDirectory() as scratch:
        page = Path(scratch, "page.html")
        page.write_text(
            _PAGE.replace("SCRIPT", vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")),
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "dvc", "plots", *verb, "--html-template", str(page)]
        done = subprocess.run(
            [*command, "-o", str(folder)], check=False, capture_output=True, text=True
        )
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR: ")]
        reason = (errors or said or ["dvc said nothing"])[-1].removeprefix("ERROR: ")
        raise InputError(f"dvc plots {verb[0]} into {folder}: {reason}")
    return folder / "index.html"
