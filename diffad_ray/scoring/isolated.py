"""Decodes images in a separate process, because an image may kill the process that decodes it.

Decoders are C code that reads arbitrary files, and a bug in one ends its process. The child is started as
`python -m diffad_ray.scoring.isolated`. It is not forked, because a fork would copy the locks of a Ray worker without
the threads that hold them. Parent and child exchange messages over pipes: the length of a header, the header in JSON,
and raw bytes. Nothing is unpickled, so a file that takes over the child can't run code in the parent.
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
"Time for the imports of the child on a busy machine."
DYING_SECONDS = 5.0
_LENGTH = struct.Struct(">I")


class DecoderDied(Exception):
    """The process that decoded an image has ended. The message says why in one line."""


class IsolatedDecoder:
    """Decodes images one after the other in a child process, which is started again after each death.

    It is a context manager, and must not be used by several threads at once.

    Args:
        max_pixels: larger images are refused, as in `decode_image`.
        memory_bytes: limit of the child's address space, including libraries; enforced on Linux only.
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
        """Process number of the child; None if no child runs."""
        return self._process.pid if self._process else None

    def decode(self, data: bytes, white: int | None = None, least_side: int | None = None) -> DecodedImage:
        """Decode an image file as `decode_image` does.

        Raises:
            ImageError: the file can't be decoded.
            DecoderDied: the child crashed, was killed or took too long. The next call starts another one.
            RuntimeError: the child does not start, which is not due to the image.
        """
        process = self._running()
        requests, answers = _pipes(process)
        try:
            with _killed_after(self.timeout, process) as expired:
                _send(requests, {"bytes": len(data), "white": white, "least_side": least_side}, data)
                answer = _receive(answers)
                pixels = _receive_pixels(answers, answer) if "shape" in answer else None
        except (EOFError, BrokenPipeError) as error:
            reason = self._death()
            if expired.is_set():
                reason = f"decoding took longer than {self.timeout:g} s"
            raise DecoderDied(reason) from error
        except BaseException:
            self.close()  # the rest in the pipes would be read as the answer to the next image
            raise
        if expired.is_set():
            self.close()  # the child was killed after its answer was complete
        if pixels is None:
            raise ImageError(answer["status"], answer["message"])
        return DecodedImage(pixels, *answer["facts"])

    def close(self) -> int:
        """End the child, if one runs, wait for it, and return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()  # without effect on one that has ended
        requests, answers = _pipes(process)
        with contextlib.suppress(BrokenPipeError):  # the child has not read everything
            requests.close()
        answers.close()
        return process.wait()

    def _death(self) -> str:
        """Return why the child ended, after its pipes were closed."""
        if self._process:
            # A process closes its files shortly before it ends. Killing it in between would change its exit code.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(DYING_SECONDS)
        return _reason(self.close())

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process and self._process.poll() is not None:
            self.close()  # it died between two images
        if self._process is None:
            command = [sys.executable, "-m", __name__, str(self.max_pixels), str(self.memory_bytes)]
            # Ray adds import paths that are not in the environment. OpenBLAS maps memory for each core.
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
    """Kill a process if the block takes too long, which closes its pipes. The event tells whether it was killed."""
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
    """Return why a child ended, from its exit code."""
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
    """Return the next header. Raises EOFError if the other process has ended."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    header: dict[str, Any] = json.loads(_exactly(stream, length))
    return header


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _receive_pixels(stream: IO[bytes], header: dict[str, Any]) -> np.ndarray:
    """Return the array [H,W,3] that follows its header. Raises EOFError if the other process has ended."""
    pixels = np.empty(header["shape"], header["dtype"])
    if stream.readinto(pixels.data.cast("B")) < pixels.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return pixels


def serve(max_pixels: int, memory_bytes: int) -> None:
    """Run the child: decode the images on standard input until it is closed."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output that a library prints must not mix with the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    cv2.setNumThreads(1)
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected here, and a core is large
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has ended
        _send(answers, {"pid": os.getpid()})
        while True:
            request = _receive(requests)
            data = _exactly(requests, request["bytes"])
            try:
                image = decode_image(data, max_pixels, request["white"], request["least_side"])
            except ImageError as error:
                _send(answers, {"status": error.status, "message": str(error)})
            else:
                pixels, *facts = image
                header = {"shape": pixels.shape, "dtype": pixels.dtype.name, "facts": facts}
                _send(answers, header, pixels.data.cast("B"))


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
