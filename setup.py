"""Maps the folders of the repository into one package: `pipeline/` installs as `tgo.pipeline`.

The settings, presets, prompts and the embedded world travel with the code, for `tgo init`.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
FOLDERS = ("pipeline", "trainer", "rewards", "data.world")
CODE = find_namespace_packages(
    include=[pattern for name in FOLDERS for pattern in (name, f"{name}.*")],
    exclude=["data.world.build"],  # intermediate state of `make world`
)
PROJECT = [
    "params.yaml",
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
    ".dvc/plots/*.json",
    "presets/*.yaml",
    "data/prompts/*",
]
WORLD = [
    str(path.relative_to(HERE / "data/world"))
    for name in ("diffusion", "masked", "rewards")
    for path in sorted((HERE / "data/world" / name).rglob("*"))
    if path.is_file()
]


class Build(build_py):
    """Leaves out setup.py, which lies in the root of the package."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Modules of a package as (package, module, file); the root has data only."""
        return [] if package == "tgo" else super().find_package_modules(package, package_dir)


setup(
    cmdclass={"build_py": Build},
    packages=["tgo", *(f"tgo.{name}" for name in CODE)],
    package_dir={"tgo": "."},
    package_data={
        "": ["py.typed"],
        "tgo": PROJECT,
        "tgo.data.world": WORLD,
        "tgo.pipeline": ["templates/*"],
    },
    include_package_data=False,
)
