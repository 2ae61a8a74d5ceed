"""The files that a training writes while it runs: settings, checkpoint, and the table and plot of its losses."""

from __future__ import annotations

import io
import json
from typing import Any

import torch

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.training.learner import State
from diffad_ray.training.loop import Report

NO_LOSSES = ("step", "learning_rate", "images_per_second")
"Columns of the loss table that are not losses."


class TrainingFolder:
    """The folder `DETECTOR/training` with settings, last checkpoint and losses.

    Args:
        location: folder or prefix of the detector.
    """

    def __init__(self, location: str):
        self.location = f"{storage.normalised(location)}/training"
        self.losses: list[dict[str, float]] = []

    def claim(self, settings: dict[str, Any]) -> None:
        """Reserve the folder for a training with these settings, or check that an interrupted one has them.

        Raises:
            UserError: it holds a training with other settings, or can't be written.
        """
        text = json.dumps(settings, indent=1, sort_keys=True)
        try:
            if storage.create(f"{self.location}/settings.json", text.encode()):
                return
            found = self._stored()
        except OSError as error:
            raise UserError(f"the detector can't be written to {self.location}: {error}") from error
        wanted = _known(json.loads(text), found)
        if found != wanted:
            found, wanted = _flat(found), _flat(wanted)
            changes = ", ".join(
                f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}"
                for name in sorted(found.keys() | wanted.keys())
                if found.get(name) != wanted.get(name)
            )
            raise UserError(
                f"{self.location} holds a training with other settings ({changes}): go on with those, choose another "
                "folder, or start over with --fresh"
            )

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of the training that this folder is reserved for, or None."""
        try:
            return self._stored()
        except FileNotFoundError:
            return None

    def _stored(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(storage.read(f"{self.location}/settings.json"))
        return found

    def clear(self) -> None:
        """Delete the files of an earlier training."""
        for name in ("settings.json", "checkpoint.pt", "losses.jsonl", "losses.png"):
            storage.delete(f"{self.location}/{name}")

    def save(self, state: State) -> None:
        """Replace the checkpoint, and write the losses so far."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        storage.write(f"{self.location}/checkpoint.pt", buffer.getvalue())
        lines = "".join(json.dumps(line) + "\n" for line in self.losses)
        storage.write(f"{self.location}/losses.jsonl", lines.encode())

    def load(self) -> State | None:
        """Return the last checkpoint, or None, and load the losses up to its step."""
        try:
            data = storage.read(f"{self.location}/checkpoint.pt")
            lines = storage.read(f"{self.location}/losses.jsonl").decode().splitlines()
        except FileNotFoundError:
            return None
        # weights_only admits tensors, numbers and strings, so a forged file can't run code.
        state: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        self.losses = [line for line in map(json.loads, lines) if line["step"] <= state["step"]]
        return state

    def add(self, report: Report) -> None:
        """Add the losses of a report to the table."""
        line = {"step": report.step, **report.losses, "learning_rate": report.learning_rate}
        self.losses.append({**line, "images_per_second": round(report.images_per_second, 2)})

    def finish(self) -> None:
        """Plot the losses, if the kind has any, and delete the checkpoint, which the finished detector replaces."""
        if self.losses:
            storage.write(f"{self.location}/losses.png", self._plot())
        storage.delete(f"{self.location}/checkpoint.pt")

    def _plot(self) -> bytes:
        from matplotlib.figure import Figure

        # If parts take turns, a line has the losses of one part only.
        names = list(dict.fromkeys(name for line in self.losses for name in line if name not in NO_LOSSES))
        columns = min(4, len(names))
        rows = -(-len(names) // columns)
        figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, name in zip(places, names, strict=False):
            points = [(line["step"], line[name]) for line in self.losses if name in line]
            axes.plot(*zip(*points, strict=True), linewidth=1)
            is_positive = all(value > 0 for _, value in points)
            axes.set(title=name.replace("_", " "), xlabel="step", yscale="log" if is_positive else "linear")
            axes.grid(alpha=0.3)
        for axes in places[len(names) :]:
            axes.set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def _flat(settings: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Return nested settings by names such as `training_settings.steps`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{within}{name}.") if isinstance(value, dict) else {f"{within}{name}": value}
    return flat


def _known(settings: Any, earlier: Any) -> Any:
    """Return settings without those that did not exist when the earlier ones were written."""
    if not (isinstance(settings, dict) and isinstance(earlier, dict)):
        return settings
    return {name: _known(value, earlier[name]) for name, value in settings.items() if name in earlier}
