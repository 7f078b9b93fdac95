"""Maps the folders of the repository into one package: `pipeline/` installs as `tgo.pipeline`."""

from setuptools import find_namespace_packages, setup

FOLDERS = ("pipeline", "trainer", "rewards", "data.world")
found = find_namespace_packages(
    include=[pattern for name in FOLDERS for pattern in (name, f"{name}.*")]
)

setup(packages=[f"tgo.{name}" for name in found], package_dir={"tgo": "."})
