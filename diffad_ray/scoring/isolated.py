"""Decoding in a process of its own, for images that may kill the process that decodes them.

Decoders are C code that reads whatever was dropped into an archive; a bug in one ends the process it runs in. Here that
is a child, started as `python -m diffad_ray.scoring.isolated` and not forked, since a fork copies the threads and locks
of a Ray worker by half. The two speak over pipes: the length of a header, the header in JSON, and raw bytes. Nothing is
unpickled, so that a child taken over by a file can't run code in its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any

import cv2
import numpy as np

from diffad_ray.images import DecodedImage, ImageError, decode_image

START_SECONDS = 120.0
"Time for the child to import what it needs, on a machine that is busy."
DYING_SECONDS = 5.0
_LENGTH = struct.Struct(">I")


class DecoderDied(Exception):
    """The process that decoded an image is gone; the message says why, in one line."""


class IsolatedDecoder:
    """Decodes images one after the other in a child that starts with the first one, and anew after each death.

    A context manager; not for several threads at once.

    Args:
        max_pixels: larger images are refused, as `decode_image` does.
        memory_bytes: address space of the child, libraries included; enforced on Linux only.
        timeout: seconds for one image.
    """

    def __init__(self, max_pixels: int, memory_bytes: int = 4 * 2**30, timeout: float = 60.0) -> None:
        self.max_pixels, self.memory_bytes, self.timeout = max_pixels, memory_bytes, timeout
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> IsolatedDecoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child, where one runs."""
        return self._process.pid if self._process else None

    def decode(self, data: bytes, white: int | None = None) -> DecodedImage:
        """Decode an image file as `decode_image` does.

        Raises:
            ImageError: the file gives no pixels.
            DecoderDied: the child crashed, was killed or took too long; the next call starts another one.
            RuntimeError: the child does not start, which is no image's fault.
        """
        process = self._running()
        requests, answers = _pipes(process)
        try:
            with _killed_after(self.timeout, process) as expired:
                _send(requests, {"bytes": len(data), "white": white}, data)
                answer = _receive(answers)
                pixels = _receive_pixels(answers, answer) if "shape" in answer else None
        except (EOFError, BrokenPipeError) as error:
            reason = self._death()
            if expired.is_set():
                reason = f"decoding took longer than {self.timeout:g} s"
            raise DecoderDied(reason) from error
        except BaseException:
            self.close()  # what is left in the pipes would be taken for the answer to the next image
            raise
        if expired.is_set():
            self.close()  # killed just as the answer was complete
        if pixels is None:
            raise ImageError(answer["status"], answer["message"])
        return DecodedImage(pixels, answer["mode"])

    def close(self) -> int:
        """End the child, where one runs, and wait for it; gives its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()  # without effect on one that has ended
        requests, answers = _pipes(process)
        with contextlib.suppress(BrokenPipeError):  # by what the child has not read
            requests.close()
        answers.close()
        return process.wait()

    def _death(self) -> str:
        """What the child, whose pipes have ended, ended of."""
        if self._process:
            # It closes its files a little before it ends, and killing it in between would spoil its exit code.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(DYING_SECONDS)
        return _reason(self.close())

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process and self._process.poll() is not None:
            self.close()  # it died between two images and by neither
        if self._process is None:
            command = [sys.executable, "-m", __name__, str(self.max_pixels), str(self.memory_bytes)]
            # Ray gives its workers paths that the environment does not hold; OpenBLAS maps memory for every core.
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            try:
                with _killed_after(START_SECONDS, self._process):
                    _receive(_pipes(self._process)[1])
            except EOFError as error:
                raise RuntimeError(f"the decoder's process does not start: {self._death()}") from error
            except BaseException:
                self.close()
                raise
        return self._process


@contextlib.contextmanager
def _killed_after(seconds: float, process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """Kill a process unless the block ends in time, which ends all waiting for its pipes; the event says if it was."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(seconds, expire)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()


def _reason(code: int) -> str:
    """What an exit code tells of the end of a child."""
    if code >= 0:
        return f"the decoder ended with exit code {code}"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return "the decoder was killed (SIGKILL), most likely for lack of memory"
    return f"the decoder crashed ({name})"


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin
    assert process.stdout
    return process.stdin, process.stdout


def _send(stream: IO[bytes], header: dict[str, Any], body: bytes | memoryview = b"") -> None:
    encoded = json.dumps(header).encode()
    stream.write(_LENGTH.pack(len(encoded)) + encoded)
    stream.write(body)
    stream.flush()


def _receive(stream: IO[bytes]) -> dict[str, Any]:
    """The next header. Raises EOFError where the other side is gone."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    header: dict[str, Any] = json.loads(_exactly(stream, length))
    return header


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _receive_pixels(stream: IO[bytes], header: dict[str, Any]) -> np.ndarray:
    """The [H,W,3] array that follows its header. Raises EOFError where the other side is gone."""
    pixels = np.empty(header["shape"], header["dtype"])
    if stream.readinto(pixels.data.cast("B")) < pixels.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return pixels


def serve(max_pixels: int, memory_bytes: int) -> None:
    """The child: answers the images on its standard input until that ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    cv2.setNumThreads(1)
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected here, and a core is large
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        _send(answers, {"pid": os.getpid()})
        while True:
            request = _receive(requests)
            data = _exactly(requests, request["bytes"])
            try:
                pixels, mode = decode_image(data, max_pixels, request["white"])
            except ImageError as error:
                _send(answers, {"status": error.status, "message": str(error)})
            else:
                header = {"shape": pixels.shape, "dtype": pixels.dtype.name, "mode": mode}
                _send(answers, header, pixels.data.cast("B"))


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
