"""Familiarity: how well each place of an image fits in with what normal images show there, given the rest of the image.

A segmenter of pixels has learnt from pseudo-anomalies alone. In what a good part looks like, no pseudo-anomaly has any
part: normal images give a Gaussian of what each place shows. Far from it is unfamiliar, and a small network that has
seen what pseudo-anomalies leave of it says which of that is an anomaly. The segmenter and they judge, and a pixel is
anomalous where one or the other says so.

Letters in shapes: N images, C responses and colours, G places a side, K components of an image's code, D numbers of its
miniature.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffad_ray.detectors.gabor import GRID, MINIATURE, Described, channels, described, gabor_filters
from diffad_ray.detectors.patch_gaussian import PatchGaussian, unexplained
from diffad_ray.networks.residual_segmenter import squared_distance, untaught

DISTANCE_WEIGHT = 3.0
"Of log distances beside the network's log odds: what is like no pseudo-anomaly counts, too."
NEIGHBOURHOOD = 3
"Places a side over which both are averaged."
LEAST_SPREAD = 0.5
"How far the strangeness of one normal image in ten lies above the usual one, at least."
MOST_ODDS = 12.0
"Log odds at most, so that a probability stays below 1."


class Familiarity(nn.Module):
    """Gaussians of normal images, a judge of what they leave unexplained, and what that says of the odds.

    Before `learn` it knows nothing: its statistics have no elements. Its network is not for the training of the others.

    Args:
        image_size: S.
    """

    usual_strangeness: Tensor
    "[1]: the usual strangeness of a normal image's least familiar place"
    usual_evidence: Tensor
    "[1]: the usual log odds that the segmenter gives a normal image"
    slope: Tensor
    "[1]: log odds for each unit of strangeness, such that one normal image in ten has 1 more than the usual ones"

    def __init__(self, image_size: int):
        super().__init__()
        self.image_size = image_size
        count = channels(image_size)
        # None is the number of components, which depends on the images.
        self.shapes: dict[str, list[int | None]] = {
            "miniature_mean": [3 * MINIATURE**2],
            "basis": [3 * MINIATURE**2, None],
            "mean": [count, GRID, GRID],
            "effect": [None, count, GRID, GRID],
            "spread": [count],
            "whitening": [GRID**2, count, count],
            "exposure_mean": [2],
            "exposure_spread": [2],
            "usual_strangeness": [1],
            "usual_evidence": [1],
            "slope": [1],
        }
        for name in self.shapes:
            self.register_buffer(name, torch.empty(0))
        self.gabor: Tensor
        # Kept with the statistics: other filters would make other scores of them.
        self.register_buffer("gabor", gabor_filters())
        self.judge = untaught(count, 0).requires_grad_(False)

    @property
    def is_fitted(self) -> bool:
        return self.slope.numel() > 0

    @property
    def gaussian(self) -> PatchGaussian:
        """Of all normal images."""
        return PatchGaussian(*(getattr(self, name) for name in PatchGaussian._fields))

    def describe(self, images: Tensor) -> Described:
        """What is looked at of images [N,3,S,S] in [0,1]."""
        return described(images, self.gabor)

    def learn(self, gaussian: PatchGaussian, strangeness: Tensor, evidence: Tensor) -> None:
        """Keep the Gaussian of normal images, and what strangeness says of the odds.

        Args:
            gaussian: of all normal images.
            strangeness: [N] of normal squares' least familiar places, by Gaussians of others: its own are too near it.
                What judges has seen them, though; where they are few, new ones are somewhat stranger.
            evidence: [N] log odds of an anomaly that the segmenter gives them.
        """
        # Where normal images are all alike, nothing varies.
        slope = 1 / (strangeness.quantile(0.9) - strangeness.median()).clamp(min=LEAST_SPREAD)
        usual = {"usual_strangeness": strangeness.median()[None], "usual_evidence": evidence.median()[None]}
        for name, value in (gaussian._asdict() | usual | {"slope": slope[None]}).items():
            setattr(self, name, value if name == "effect" else value.float())

    def strangeness(self, left: Tensor) -> Tensor:
        """How strange what a Gaussian leaves unexplained, [N,C,G,G], makes each place: [N,G,G]."""
        return smooth(self.judge(left)) + DISTANCE_WEIGHT * smooth(squared_distance(left)).log()

    def log_odds(self, images: Tensor, weight: float) -> Tensor:
        """Log odds [N,G,G] of an anomaly at each place of images [N,3,S,S] in [0,1].

        The largest ones of a normal image, or tile, are usually those that the segmenter gives it; those of one in ten
        lie `weight` above that.
        """
        beyond = self.strangeness(unexplained(self.gaussian, self.describe(images))) - self.usual_strangeness
        return (self.usual_evidence + weight * self.slope * beyond).clamp(max=MOST_ODDS)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        # A detector from before familiarity, or an imported one, has nothing of it: that is no damage.
        if not any(name.startswith(prefix) for name in state_dict):
            state_dict |= {prefix + name: tensor for name, tensor in Familiarity(self.image_size).state_dict().items()}
        # Fitted or not, and with how many components, is up to what is loaded.
        for name, shape in self.shapes.items():
            given = state_dict.get(prefix + name, torch.empty(0))
            fits = len(given.shape) == len(shape) and all(
                wanted in (None, length) for wanted, length in zip(shape, given.shape, strict=True)
            )
            if fits or list(given.shape) == [0]:
                setattr(self, name, torch.empty_like(given, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *others)


def either(probability: Tensor, log_odds: Tensor) -> Tensor:
    """Probabilities [N,1,H,W] that a pixel is anomalous by what the segmenter says [N,1,H,W] or by log odds [N,G,G]."""
    size = probability.shape[-2:]
    other = F.interpolate(log_odds[:, None], size, mode="bilinear").sigmoid()
    return probability + (1 - probability) * other


def smooth(places: Tensor) -> Tensor:
    """Means of places [N,G,G] over their neighbourhoods."""
    padded = F.pad(places[:, None], (NEIGHBOURHOOD // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, NEIGHBOURHOOD, stride=1).squeeze(1)
