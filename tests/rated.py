"""A small set of rated pictures: ten prompts with two pictures each, two of them broken."""

from __future__ import annotations

from pathlib import Path

from tests.rewards.awkward import colours

COUNT = 20
BAD = {7: b"no picture", 12: None}  # by number; None: the file is missing


def write_rated(folder: Path) -> Path:
    """Pictures of several sizes and a metadata.csv with stars; picture 0 is rated twice."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["file_name,prompt,stars,domain"]
    for number in range(COUNT):
        name = f"{number:02d}.png"
        rows.append(f"{name},a red circle {number // 2},{1 + 7 * number % 5},d{number % 2}")
        if number not in BAD:
            colours(16 + number, 16 + 2 * (number % 3), seed=number).save(folder / name)
        elif (data := BAD[number]) is not None:
            (folder / name).write_bytes(data)
    rows.append("00.png,a red circle 0,4,d0")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder
