"""Settings that every test shares, and tiny models that tests in many folders need."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tgo.pipeline.generators.diffusion import Diffusion
    from tgo.rewards.panel import Panel

# a slow or busy machine is no failure, and a found example must be found again
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion folder: 16 px images, 4 x 8 x 8 latents; copy it to harm it."""
    from tests.models import write_random_diffusion

    return write_random_diffusion(tmp_path_factory.mktemp("generator") / "diffusion")


@pytest.fixture(scope="session")
def tiny_rewards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Five random reward models in the published formats; copy them to harm them."""
    from tests.rewards.miniatures import write_random_panel

    return write_random_panel(tmp_path_factory.mktemp("rewards"))


@pytest.fixture(scope="session")
def tiny_family(tiny_generator: Path) -> Diffusion:
    """The random generator, loaded: two steps with guidance."""
    from tests.stage_one import load_family

    return load_family(tiny_generator)


@pytest.fixture(scope="session")
def tiny_panel(tiny_rewards: dict[str, str]) -> Panel:
    """Two reward models, loaded: enough for most tests, and faster than five."""
    from tgo.rewards.panel import Panel

    return Panel.load({name: tiny_rewards[name] for name in ("clip", "aesthetic")})


@pytest.fixture
def on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lift the GPU checks of diffusers and tgo, since bitsandbytes also runs on a CPU."""
    quantizers = pytest.importorskip("diffusers.quantizers.bitsandbytes.bnb_quantizer")
    target = quantizers.BnB4BitDiffusersQuantizer
    monkeypatch.setattr(target, "validate_environment", lambda *_, **__: None)
    monkeypatch.setattr("tgo.pipeline.generators.quantization.NEEDS_GPU", ())
    # where a CPU has AVX512-BF16, it packs weights in rows of 32, which tiny models do not have
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture
def small_project(
    tiny_generator: Path,
    tiny_rewards: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A project with tiny models, one reward model among them, as the working folder."""
    from tests import workspace

    workspace.fill(tmp_path, tiny_generator, {"clip": tiny_rewards["clip"]})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 96 KiB, where the tests may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("cannot mount a tmpfs here; the file size limit test covers the same code")
    yield place
    subprocess.run(["umount", str(place)], check=True)
