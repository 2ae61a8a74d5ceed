"""Losses as event files for TensorBoard, by the writer that torch brings along."""

from __future__ import annotations

from types import TracebackType

from diffad_ray.errors import UserError
from diffad_ray.training.loop import Report


class Events:
    """Writes the reports of a training to a folder for TensorBoard; without a folder it does nothing.

    Args:
        folder: folder for event files; TensorBoard shows each subfolder as a run.

    Raises:
        UserError: the package tensorboard is not installed.

    Example:
        >>> with Events(None) as events:
        ...     events.add(Report(10, {"loss": 0.5}, 1e-4, 20.0, "float32"))
    """

    def __init__(self, folder: str | None):
        self._writer = None
        if folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError(
                    "training.tensorboard is set, but TensorBoard is not installed: "
                    "pip install 'diffad-ray[tensorboard]'"
                ) from error
            self._writer = SummaryWriter(folder)

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, report: Report) -> None:
        """Write the losses, the learning rate and the speed of a report."""
        if self._writer is None:
            return
        figures = {
            **report.losses,
            "learning_rate": report.learning_rate,
            "images_per_second": report.images_per_second,
        }
        for name, value in figures.items():
            self._writer.add_scalar(name, value, report.step)
