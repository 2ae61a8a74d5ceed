"""Odd names of files, and a folder with the whole corpus of hostile files: names, links, pipes and permissions."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from hostile import PNG, readable, refused

from diffad_ray.storage.locations import as_text

LONG = "/".join(["a folder of one hundred letters".ljust(100, "n")] * 8)
NAMES = (
    "with spaces .png",
    " .png",
    "日本語 🔧 ß.png",
    unicodedata.normalize("NFC", "é.png"),
    unicodedata.normalize("NFD", "é.png"),
    "\u202egnp.exe.png",
    "%20.png",
    "100%.png",
    "a%2Fb.png",
    "a+b&c=d.png",
    "#1.png",
    "what?.png",
    "new\nline.png",
    "tab\t.png",
    "'quotes' \"of\" `all` kinds.png",
    "$(touch gone); rm -rf *.png",
    "[x]*.png",
    "{a,b}.png",
    "-rf.png",
    "back\\slash.png",
    "c:d.png",
    "comma, semi;colon|pipe.png",
    "~.png",
    "run_date=2020-01-01/null.png",
    "UPPER.PNG",
    "no.jpg.tif.png",
    "n" * 251 + ".png",
    f"{LONG}/{'n' * (900 - len(LONG) - 5)}.png",
)
"Names of readable images, all of the same picture."
KEYS = (
    "bell\a.png",
    "return\r.png",
    "a//b.png",
    "a/./b.png",
    "a/../b.png",
    "./b.png",
    "../b.png",
    "/b.png",
)
"More keys in an object store, of the same picture; most are no paths of a disk."
OTHER_FILES = ("notes.txt", "png", "image.png.part", "image.png ", "Thumbs.db")
"Names that no image has."


def contents() -> dict[str, tuple[bytes, str]]:
    """Every file of the corpus that is named like an image: its bytes and the status it must get."""
    files = {f"readable/{name}": (file.data, "ok") for name, file in readable().items()}
    files |= {f"refused/{name}": (file.data, file.status) for name, file in refused().items()}
    return files | {f"names/{name}": (PNG, "ok") for name in NAMES}


def write_corpus(folder: Path) -> dict[str, str]:
    """Write all of it below a folder, links and permissions too; gives the status that each path must get."""
    statuses = {}
    for name, (data, status) in contents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        statuses[str(path)] = status
    for name in OTHER_FILES:
        (folder / name).write_bytes(PNG)

    odd = folder / "odd"
    (odd / "folder.jpg").mkdir(parents=True)
    (odd / "folder.jpg" / "inside.png").write_bytes(PNG)
    (odd / "loop of folders.png").symlink_to(odd)
    (odd / "link.png").symlink_to(folder / "readable" / "plain.png")
    (odd / "dangling.png").symlink_to("nothing")
    (odd / "loop.png").symlink_to("loop.png")
    (raw := odd / os.fsdecode(b"not \xff utf-8.png")).write_bytes(PNG)
    (odd / "device.png").symlink_to(os.devnull)
    os.mkfifo(odd / "pipe.png")  # nobody writes to it: whoever opens it waits for ever
    (odd / "link to pipe.png").symlink_to("pipe.png")
    statuses[as_text(str(raw))] = "ok"
    expected = {"folder.jpg/inside.png": "ok", "link.png": "ok", "dangling.png": "missing", "loop.png": "missing"}
    if os.geteuid() != 0:  # root may read everything
        (odd / "locked.png").write_bytes(PNG)
        (odd / "locked.png").chmod(0)
        expected["locked.png"] = "denied"
    return statuses | {str(odd / name): status for name, status in expected.items()}
