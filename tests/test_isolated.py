"""A decoder that dies, hangs or wants too much memory costs its own process and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from diffad_ray.images import ImageError, decode_image
from diffad_ray.scoring.isolated import DecoderDied, IsolatedDecoder

LIMIT = 100_000_000
PIXELS = np.random.default_rng(5).integers(0, 256, (24, 40, 3), dtype=np.uint8)
PNG = cv2.imencode(".png", PIXELS[..., ::-1])[1].tobytes()
DEEP = cv2.imencode(".png", PIXELS[..., 0].astype(np.uint16) * 250)[1].tobytes()

# What Linux tells of processes is in /proc, and only Linux limits the memory of one.
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.fixture(scope="module")
def large() -> bytes:
    """A black RGB PNG of 10,000 x 10,000 pixels, which takes about a second and 600 MB to decode."""
    packer, row = zlib.compressobj(1), bytes(30_001)
    rows = b"".join(packer.compress(row) for _ in range(10_000)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(LIMIT) as decoder:
        yield decoder


def test_images_are_those_of_decode_image(decoder: IsolatedDecoder) -> None:
    for data in (PNG, DEEP):
        isolated, here = decoder.decode(data), decode_image(data)
        np.testing.assert_array_equal(isolated.pixels, here.pixels)
        assert (isolated.mode, isolated.pixels.dtype) == (here.mode, here.pixels.dtype)
        assert isolated.pixels.flags.writeable


def test_errors_are_those_of_decode_image() -> None:
    with IsolatedDecoder(max_pixels=500) as decoder:
        for data in (b"", PNG[:-20], PNG, "<html>Grüße\n".encode()):
            with pytest.raises(ImageError) as isolated:
                decoder.decode(data)
            with pytest.raises(ImageError) as here:
                decode_image(data, max_pixels=500)
            assert isolated.value.args == here.value.args


def test_one_process_decodes_many_images(decoder: IsolatedDecoder) -> None:
    decoder.decode(PNG)
    first = decoder.pid
    assert first not in (None, os.getpid())
    for _ in range(20):
        decoder.decode(PNG)
        with pytest.raises(ImageError):
            decoder.decode(b"no image")
    assert decoder.pid == first


def while_decoding(decoder: IsolatedDecoder, act: Callable[[int], None]) -> threading.Thread:
    """Start a thread that acts on the decoder's process a moment after it has got an image."""
    pid = decoder.pid
    assert pid

    def wait_and_act() -> None:
        time.sleep(0.2)
        act(pid)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (signal.SIGSEGV, r"^the decoder crashed \(SIGSEGV\)$"),
        (signal.SIGABRT, r"^the decoder crashed \(SIGABRT\)$"),
        (signal.SIGKILL, r"^the decoder was killed \(SIGKILL\), most likely for lack of memory$"),
    ],
)
def test_a_death_while_decoding_is_told_and_survived(large: bytes, sent: signal.Signals, reason: str) -> None:
    with IsolatedDecoder(LIMIT) as decoder:
        decoder.decode(PNG)
        first = decoder.pid
        thread = while_decoding(decoder, lambda pid: os.kill(pid, sent))
        with pytest.raises(DecoderDied, match=reason):
            decoder.decode(large)
        thread.join()
        assert decoder.pid is None
        np.testing.assert_array_equal(decoder.decode(PNG).pixels, PIXELS)
        assert decoder.pid != first


def test_a_death_between_two_images_is_no_images_fault(decoder: IsolatedDecoder) -> None:
    decoder.decode(PNG)
    assert decoder.pid
    os.kill(decoder.pid, signal.SIGKILL)
    time.sleep(0.1)
    np.testing.assert_array_equal(decoder.decode(PNG).pixels, PIXELS)


def test_an_image_that_takes_too_long(large: bytes) -> None:
    with IsolatedDecoder(LIMIT, timeout=0.1) as decoder:
        with pytest.raises(DecoderDied, match=r"^decoding took longer than 0.1 s$"):
            decoder.decode(large)
        np.testing.assert_array_equal(decoder.decode(PNG).pixels, PIXELS)


def test_a_process_that_stands_still() -> None:
    """It does not even read, so that the pipe is full before the image is in it."""
    with IsolatedDecoder(LIMIT, timeout=0.3) as decoder:
        decoder.decode(PNG)
        assert decoder.pid
        os.kill(decoder.pid, signal.SIGSTOP)
        with pytest.raises(DecoderDied, match="longer than"):
            decoder.decode(PNG + bytes(10_000_000))
        assert decoder.decode(PNG).mode == "8-bit RGB"


@linux
def test_memory_is_limited(large: bytes) -> None:
    with IsolatedDecoder(LIMIT, memory_bytes=500 * 2**20) as decoder:
        with pytest.raises(ImageError, match="not enough memory") as caught:
            decoder.decode(large)
        assert caught.value.status == "too_large"
        np.testing.assert_array_equal(decoder.decode(PNG).pixels, PIXELS)
    with IsolatedDecoder(LIMIT) as decoder:
        assert decoder.decode(large).pixels.shape == (10_000, 10_000, 3)


@linux
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_a_lack_of_memory_is_not_called_damage(suffix: str) -> None:
    """Wherever on its way the decoder meets it: the libraries say so in different words."""
    pixels = np.zeros((4000, 4000, 3), np.uint16 if suffix == ".tif" else np.uint8)
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    outcomes = []
    for memory in range(300, 420, 40):
        with IsolatedDecoder(LIMIT, memory_bytes=memory * 2**20) as decoder:
            try:
                outcomes.append(decoder.decode(data).mode)
            except ImageError as error:
                outcomes.append(error.status)
            except DecoderDied:  # there was no room for the file itself
                outcomes.append("died")
    assert "unreadable" not in outcomes


@linux
def test_a_file_larger_than_the_memory() -> None:
    with IsolatedDecoder(LIMIT, memory_bytes=400 * 2**20) as decoder:
        with pytest.raises(DecoderDied, match=r"^the decoder ended with exit code 1$"):
            decoder.decode(PNG + bytes(300_000_000))
        np.testing.assert_array_equal(decoder.decode(PNG).pixels, PIXELS)


def test_a_process_that_cannot_start_is_no_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with IsolatedDecoder(LIMIT) as decoder:
        with pytest.raises(RuntimeError, match="does not start: the decoder ended with exit code 1"):
            decoder.decode(PNG)
        monkeypatch.undo()
        assert decoder.decode(PNG).mode == "8-bit RGB"


@linux
def test_nothing_is_left_behind() -> None:
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    pids = []
    for _ in range(3):
        with IsolatedDecoder(LIMIT) as decoder:
            decoder.decode(PNG)
            pids.append(decoder.pid)
            assert Path(f"/proc/{decoder.pid}").exists()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "a zombie is there too"
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files
    decoder.close()


@linux
def test_a_child_outlives_no_parent() -> None:
    code = (
        "import os, sys; from diffad_ray.scoring.isolated import IsolatedDecoder; decoder = IsolatedDecoder(1000);"
        "decoder.decode(sys.stdin.buffer.read()); print(decoder.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=PNG, stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL
    child, deadline = Path(f"/proc/{int(done.stdout)}"), time.monotonic() + 10
    while child.exists() and "State:\tZ" not in (child / "status").read_text():  # a zombie waits for init alone
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_child_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys; import diffad_ray.scoring.isolated; sys.exit(bool({'torch', 'ray', 'pyarrow'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.usefixtures("cluster")
def test_works_inside_a_ray_worker() -> None:
    import ray

    @ray.remote
    def decoded(data: bytes) -> tuple[str, str, str]:
        with IsolatedDecoder(1000, timeout=1) as decoder:
            before = decoder.decode(data).mode
            assert decoder.pid
            os.kill(decoder.pid, signal.SIGSTOP)
            try:
                decoder.decode(data)
            except DecoderDied as error:
                return before, str(error), decoder.decode(data).mode
        return before, "survived", ""

    assert ray.get(decoded.remote(PNG)) == ("8-bit RGB", "decoding took longer than 1 s", "8-bit RGB")
