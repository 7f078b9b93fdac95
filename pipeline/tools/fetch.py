"""`tgo fetch`: what the settings name and this machine lacks, with size and licence, then fetched.

Models and reward models come from the hub by the code that loads them, so what is fetched is what
is read. A few published files lie elsewhere; their addresses are listed here. Every download goes
on where it was stopped.
"""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tgo.pipeline.cards.licence import README
from tgo.pipeline.config.prompt_settings import PromptSet
from tgo.pipeline.config.settings import Reward, Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.wording import size
from tgo.rewards import checkpoint, registry
from tgo.rewards.checksum import file_sha256
from tgo.rewards.source import Files, Source, cached, hub_id

TIMEOUT = 60.0
_CHUNK = 1 << 20
_NETWORK = ("*.json", "*/*.json", "*/*.txt", "*/*.safetensors")
"""What of a model's repository is read, nearly; diffusers decides it file by file."""


@dataclass(frozen=True)
class Published:
    """A published file outside the hub's models: where it lies, and whose it is."""

    address: str
    licence: str
    sha256: str | None = None


_HEAD = "sac+logos+ava1-l14-linearMSE.pth"
PUBLISHED = {
    "PartiPrompts.tsv": Published(
        "https://raw.githubusercontent.com/google-research/parti/main/PartiPrompts.tsv",
        "Apache-2.0",
    ),
    _HEAD: Published(
        "https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/main/"
        + _HEAD.replace("+", "%2B"),
        "Apache-2.0",
        checkpoint.PUBLISHED_SHA256[_HEAD],
    ),
}
HPSV2 = Published(
    "https://huggingface.co/datasets/zhwang/HPDv2/resolve/main/benchmark", "Apache-2.0"
)
"""The folder of HPSv2's four prompt lists."""
HPSV2_LISTS = ("anime.json", "concept-art.json", "paintings.json", "photo.json")


@dataclass(frozen=True)
class Item:
    """Something that is missing here and can be had.

    Attributes:
        key: The setting that names it.
        source: What the setting says.
        ask: Asks its publisher for licence and size in bytes; None for what is not said.
        get: Fetches it.
        at_first_use: Whether a stage that needs it fetches it, too.
    """

    key: str
    source: str
    ask: Callable[[], tuple[str | None, int | None]]
    get: Callable[[], object]
    at_first_use: bool = False

    def __str__(self) -> str:
        return f"{self.key} = {self.source}"

    @cached_property
    def facts(self) -> tuple[str | None, int | None]:
        """Licence and size in bytes."""
        return self.ask()

    @property
    def line(self) -> str:
        """What it is, how large, and under which licence."""
        licence, total = self.facts
        amount = "size unknown" if total is None else f"about {size(total)}"
        return f"{self}: {amount}, licence: {licence or 'none stated'}"


def missing(settings: Settings) -> tuple[list[Item], list[str]]:
    """What the settings name and this machine lacks; nobody is asked yet.

    Args:
        settings: The settings.

    Returns:
        What can be fetched, and a line each for what nobody offers.
    """
    every = list(_all(settings))
    found = [item for item in every if isinstance(item, Item)]
    return found, [item for item in every if isinstance(item, str)]


def fetch(items: Sequence[Item]) -> None:
    """Fetch all of them, one after the other; run again, it goes on.

    Args:
        items: What to fetch.

    Raises:
        InputError: an address or the hub does not answer, or a file is not the published one.
    """
    for item in items:
        print(f"fetching {item}", flush=True)
        item.get()


def room(items: Sequence[Item]) -> str:
    """How much the items take, and how much is free here."""
    total = sum(item.facts[1] or 0 for item in items)
    return f"together about {size(total)}; {size(shutil.disk_usage('.').free)} are free here"


def _all(settings: Settings) -> Iterator[Item | str]:
    model = settings.generator.model
    if not Path(model).exists() and not _is_cached(model):
        if hub_id(model) is None:
            yield _lost("generator.model", model)
        else:
            yield _of_hub("generator.model", model, _NETWORK, lambda: _get_model(model))
    for name, reward in settings.rewards.items():
        yield from _reward(f"rewards.{name}", name, reward)
    sets = settings.prompts.by_key()
    if settings.imported:
        del sets["prompts.train"]  # the prompts are those of the ratings
    wanted: dict[str, tuple[str, PromptSet]] = {}
    for key, entry in sets.items():  # splits of one dataset come together
        wanted.setdefault(entry.source, (key, entry))
    for key, prompt_set in wanted.values():
        yield from _prompts(key, prompt_set)


def _reward(key: str, name: str, entry: Reward) -> Iterator[Item | str]:
    files: Files | None = getattr(registry.module_of(name, entry.module), "FILES", None)
    source = entry.source
    if files is None or not source or "://" in source:
        return
    there = cached(source, files)
    if there is not None and not there.missing():
        return
    if hub_id(source) is None:
        yield _file(key, Path(source)) if not Path(source).exists() else _lost(key, source)
        return
    patterns = (files.weights[0], *files.needed, *files.optional)
    yield _of_hub(key, source, patterns, lambda: Source(source, files))


def _prompts(key: str, entry: PromptSet) -> Iterator[Item | str]:
    path = Path(entry.source)
    if path.exists():
        return
    if entry.format == "hpsv2":
        addresses = {path / name: f"{HPSV2.address}/{name}" for name in HPSV2_LISTS}
        yield Item(
            key,
            entry.source,
            lambda: (HPSV2.licence, _sizes(addresses)),
            lambda: _get_all(addresses),
        )
    elif path.suffix:
        yield _file(key, path)
    elif hub_id(entry.source):
        from tgo.pipeline.sources import prompts

        if not _is_cached(entry.source, README, "dataset"):
            yield _of_hub(key, entry.source, (), lambda: prompts.check(entry))
    else:
        yield _lost(key, entry.source)


def _file(key: str, path: Path) -> Item | str:
    published = PUBLISHED.get(path.name)
    if published is None:
        return _lost(key, str(path))
    addresses = {path: published.address}
    return Item(
        key,
        str(path),
        lambda: (published.licence, _sizes(addresses)),
        lambda: download(published.address, path, published.sha256),
    )


def _of_hub(key: str, source: str, patterns: Sequence[str], get: Callable[[], object]) -> Item:
    return Item(key, source, lambda: _hub_facts(source, patterns), get, at_first_use=True)


def _lost(key: str, source: str) -> str:
    return f"{key} = {source}: nobody is known to offer it; put it there, or name another"


def _is_cached(source: str, file: str = "model_index.json", kind: str = "model") -> bool:
    from huggingface_hub import try_to_load_from_cache

    if hub_id(source) is None:
        return False
    return isinstance(try_to_load_from_cache(source, file, repo_type=kind), str)


def _get_model(model: str) -> None:
    """The model, and its card, which says the licence that an export has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    from tgo.pipeline.generators.model_folder import ModelFolder

    ModelFolder(model)
    with suppress(EntryNotFoundError):
        hf_hub_download(model, README)


def _hub_facts(source: str, patterns: Sequence[str]) -> tuple[str | None, int | None]:
    """Licence and size of what matches in a repository; None for what the hub does not say."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    place = hub_id(source)
    assert place is not None
    api = HfApi()
    look = api.model_info if patterns else api.dataset_info
    try:
        info = look(place.repo, revision=place.revision, files_metadata=True)
    except (HTTPError, OSError, ValueError):  # the reason is said when it is fetched
        return "not known, the hub does not answer", None
    wanted = [place.file] if place.file else patterns
    sizes = [
        file.size
        for file in info.siblings or ()
        if file.size
        and (not wanted or any(fnmatch(file.rfilename, each) for each in wanted))
        and ".fp16" not in file.rfilename
    ]
    card: Any = info.card_data
    licence = card.get("license") if isinstance(card, Mapping) else getattr(card, "license", None)
    return licence, sum(sizes) or None


def _sizes(addresses: Mapping[Path, str]) -> int | None:
    """Bytes of some addresses together; None where one does not say."""
    total = 0
    for address in addresses.values():
        try:
            request = urllib.request.Request(address, method="HEAD")
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                total += int(answer.headers["Content-Length"])
        except (OSError, TypeError, ValueError):
            return None
    return total


def _get_all(addresses: Mapping[Path, str]) -> None:
    for path, address in addresses.items():
        if not path.exists():
            download(address, path)


def download(address: str, path: Path, sha256: str | None = None) -> None:
    """Fetch a file; what an earlier call left is continued.

    Args:
        address: Its URL.
        path: Where it goes, in one step when it is whole.
        sha256: Its checksum, where it is known.

    Raises:
        InputError: the address does not answer, the disk is full, or the file is another one.
    """
    partial = path.with_name(f".{path.name}.download")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _receive(address, partial)
    except (urllib.error.URLError, OSError) as error:
        raise InputError(
            f"{address}: cannot be fetched ({getattr(error, 'reason', error)}); run the same "
            f"command again to go on, or put the file at {path} yourself"
        ) from error
    if sha256 is not None and (found := file_sha256(partial)) != sha256:
        partial.unlink()
        raise InputError(
            f"{address}: is not the published file (sha256 {found[:12]}, not {sha256[:12]}); "
            "run again, or fetch it from the authors yourself"
        )
    os.replace(partial, path)


def _receive(address: str, partial: Path) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to fetch
            return
        raise
    with answer, partial.open("ab" if answer.status == 206 else "wb") as file:
        left = answer.headers["Content-Length"]
        with tqdm(total=int(left) if left else None, unit="B", unit_scale=True) as bar:
            while part := answer.read(_CHUNK):
                file.write(part)
                bar.update(len(part))
        file.flush()
        os.fsync(file.fileno())
        if left and bar.n < int(left):
            raise OSError(f"the connection ended after {size(bar.n)} of {size(int(left))}")
