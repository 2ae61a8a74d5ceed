"""Familiarity: how well each place of an image fits in with what normal images show there, given the rest of the image.

A segmenter of pixels has learnt from pseudo-anomalies alone. In what a good part looks like, no pseudo-anomaly has any
part: normal images give a Gaussian of what each place shows, and examples of what places show anywhere. What is far
from all of them is unfamiliar, and a small network that has seen what pseudo-anomalies leave of them says which of that
is an anomaly.

Letters in shapes: N images, R residuals of a place, C responses and colours, G places a side, K components of an
image's code, D numbers of its miniature, M places known by example.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffad_ray.familiarity.exemplars import MOST_PLACES, KnownPlaces
from diffad_ray.familiarity.features import GRID, MINIATURE, Described, channels, described, gabor_filters
from diffad_ray.familiarity.gaussians import PatchGaussian
from diffad_ray.familiarity.judge import squared_distance, untaught
from diffad_ray.familiarity.normality import RESIDUALS, Normality, residuals

NEIGHBOURHOOD = 3
"Places a side over which odds and distances are averaged."
LEAST_DISTANCE_SPREAD, LEAST_STRANGENESS_SPREAD = 0.2, 0.5
"How far the log distance, and the strangeness, of one normal image in ten lie above the usual one, at least."
LESS_AS_SHOWN = 1.0
"""Spreads of log distances: so much less counts the distance from examples as an image shows them. New lots differ in
these rather than in what the Gaussian, which knows the image as a whole, leaves unexplained."""
HALVES, POSITIVE = ("effect", "shown", "left"), ("spread", "exposure_spread", "distance_spread", "slope")
"Statistics in float16, and such as are larger than 0."


class Familiarity(nn.Module):
    """Statistics of normal images, a judge of what they leave unexplained, and what that says of the odds.

    Before `learn` it knows nothing: its statistics have no elements. Its network is not for the training of the others.

    Args:
        image_size: S.
    """

    usual_distance: Tensor
    "[R-1]: the usual log distance, from examples of each kind, of a normal image's place that is farthest from them"
    distance_spread: Tensor
    "[R-1]: how far that of one normal image in ten lies above the usual one"
    usual_strangeness: Tensor
    "[1]: the usual strangeness of a normal image's least familiar place"
    usual_evidence: Tensor
    "[1]: the usual log odds that the detector itself gives a normal image"
    slope: Tensor
    "[1]: log odds for each unit of strangeness, such that one normal image in ten has 1 more than the usual ones"

    def __init__(self, image_size: int):
        super().__init__()
        self.image_size = image_size
        count = channels(image_size)
        # K and M depend on the images.
        self.shapes: dict[str, list[int | str]] = {
            "miniature_mean": [3 * MINIATURE**2],
            "basis": [3 * MINIATURE**2, "K"],
            "mean": [count, GRID, GRID],
            "effect": ["K", count, GRID, GRID],
            "spread": [count],
            "whitening": [GRID**2, count, count],
            "exposure_mean": [2],
            "exposure_spread": [2],
            "common_mean": [count],
            "common_whitening": [count, count],
            "shown": ["M", count],
            "left": ["M", count],
            "usual_distance": [RESIDUALS - 1],
            "distance_spread": [RESIDUALS - 1],
            "usual_strangeness": [1],
            "usual_evidence": [1],
            "slope": [1],
        }
        for name in self.shapes:
            self.register_buffer(name, torch.empty(0))
        self.gabor: Tensor
        # Kept with the statistics: other filters would make other scores of them.
        self.register_buffer("gabor", gabor_filters())
        self.judge = untaught(RESIDUALS, count, 0).requires_grad_(False)

    @property
    def is_fitted(self) -> bool:
        return self.slope.numel() > 0

    @property
    def normality(self) -> Normality:
        """Of all normal images."""
        gaussian = PatchGaussian(*(getattr(self, name) for name in PatchGaussian._fields))
        return Normality(gaussian, KnownPlaces(*(getattr(self, name) for name in KnownPlaces._fields)))

    def describe(self, images: Tensor) -> Described:
        """What is looked at of images [N,3,S,S] in [0,1]."""
        return described(images, self.gabor)

    def opinions(self, residuals: Tensor) -> Tensor:
        """Of what normal images do not explain [N,R,C,G,G], smoothed: [N,R,G,G].

        First the log odds that the judge gives each place, then log distances from the nearest examples.
        """
        distances = smooth(squared_distance(residuals[:, 1:])).log()
        return torch.cat([smooth(self.judge(residuals)[:, None]), distances], dim=1)

    def learn(self, normal: Normality, opinions: Tensor, evidence: Tensor) -> None:
        """Keep the statistics of normal images, and what opinions say of the odds.

        Args:
            normal: of all normal images.
            opinions: [N,R,G,G] of normal squares by statistics of others: their own are too near them. What judges has
                seen them, though; where they are few, new ones are somewhat stranger.
            evidence: [N] log odds of an anomaly that the detector itself gives them.
        """
        farthest = opinions[:, 1:].flatten(2).amax(dim=2)
        self.usual_distance = farthest.median(dim=0).values
        self.distance_spread = (farthest.quantile(0.9, dim=0) - self.usual_distance).clamp(min=LEAST_DISTANCE_SPREAD)
        strangeness = self.strangeness(opinions).flatten(1).amax(dim=1)
        self.usual_strangeness, self.usual_evidence = strangeness.median()[None], evidence.median().float()[None]
        # Where normal images are all alike, nothing varies.
        self.slope = 1 / (strangeness.quantile(0.9) - self.usual_strangeness).clamp(min=LEAST_STRANGENESS_SPREAD)
        for part in normal:
            for name, value in part._asdict().items():
                setattr(self, name, value)

    def strangeness(self, opinions: Tensor) -> Tensor:
        """How strange opinions [N,R,G,G] make each place: [N,G,G].

        What is like no pseudo-anomaly counts, too, by its distance from either kind of examples, in units of how far
        those of normal images differ: which of the two tells defects depends on the product.
        """
        usual, spread = (values[:, None, None] for values in (self.usual_distance, self.distance_spread))
        shown, left = ((opinions[:, 1:] - usual) / spread).unbind(dim=1)
        return opinions[:, 0] + torch.logaddexp(shown - LESS_AS_SHOWN, left)

    def log_odds(self, images: Tensor, weight: float) -> Tensor:
        """Log odds [N,G,G] of an anomaly at each place of images [N,3,S,S] in [0,1].

        The largest ones of a normal image, or tile, are usually those that the segmenter gives it; those of one in ten
        lie `weight` above that.
        """
        strangeness = self.strangeness(self.opinions(residuals(self.normality, self.describe(images))))
        beyond = strangeness - self.usual_strangeness
        return self.usual_evidence + weight * self.slope * beyond

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # A detector from before familiarity, or an imported one, has nothing of it: that is no damage.
        if not any(name.startswith(prefix) for name in state_dict):
            state_dict |= {prefix + name: tensor for name, tensor in Familiarity(self.image_size).state_dict().items()}
        given = {name: state_dict[prefix + name] for name in self.shapes if prefix + name in state_dict}
        # Fitted or not, and with how many components, is up to what is loaded.
        if wrong := self._damage(given):
            error_msgs.append(prefix + wrong)
            return
        for name, tensor in given.items():
            setattr(self, name, torch.empty_like(tensor, device=getattr(self, name).device))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _damage(self, given: dict[str, Tensor]) -> str | None:
        """Which of the statistics can't be, and why: they come from a file, and must not fail as images are scored."""
        if all(list(tensor.shape) == [0] for tensor in given.values()):
            return None
        lengths: dict[int | str, int] = {}
        for name, tensor in given.items():
            expected = torch.float16 if name in HALVES else torch.float32
            if tensor.dtype != expected:
                return f"{name} holds {tensor.dtype}, not {expected}"
            fits = len(tensor.shape) == len(self.shapes[name]) and all(
                length == (lengths.setdefault(letter, length) if isinstance(letter, str) else letter)
                for letter, length in zip(self.shapes[name], tensor.shape, strict=True)
            )
            if not fits or not 0 < lengths.get("M", 1) <= MOST_PLACES:
                return f"{name} has shape {list(tensor.shape)}"
            if not tensor.isfinite().all() or (name in POSITIVE and (tensor <= 0).any()):
                return f"{name} holds numbers that can't be"
        return None


def either(own: Tensor, log_odds: Tensor) -> Tensor:
    """Log odds [N,1,H,W] that a pixel is anomalous by one opinion [N,1,H,W] or by another, of places [N,G,G].

    1 - (1 - p)(1 - q) in log odds: the odds are those of p, plus those of q, plus their product.
    """
    other = F.interpolate(log_odds[:, None], own.shape[-2:], mode="bilinear")
    return torch.logaddexp(torch.logaddexp(own, other), own + other)


def smooth(places: Tensor) -> Tensor:
    """Means of places [N,R,G,G] over their neighbourhoods."""
    return F.avg_pool2d(F.pad(places, (NEIGHBOURHOOD // 2,) * 4, mode="replicate"), NEIGHBOURHOOD, stride=1)
