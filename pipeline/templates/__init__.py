"""The project's templates, by one environment: a page escapes what it shows, a card does not.

Cards are Markdown made from settings and from files of ours; pages show prompts of anyone's.
Neither lets control characters through (`wording.harmless`).
"""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tgo.pipeline import wording


def template(name: str) -> Template:
    """A template of this folder by file name; a name it uses and is not given is an error."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("tgo.pipeline"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: wording.harmless(value) if type(value) is str else value,
    )
    made.filters |= {
        "percent": wording.percent,
        "breakable": wording.breakable,
        "signed": wording.signed,
    }
    return made
