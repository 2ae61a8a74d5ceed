"""The networks: their sizes, and the images they take."""

from __future__ import annotations

import pytest
import torch
from tiny_detector import tiny_detector
from torch import nn

from diffad_ray.networks.denoiser import AttentionBlock, Denoiser
from diffad_ray.networks.group_norm import GroupNorm
from diffad_ray.networks.presets import PRESETS, NetworkSizes, network_sizes
from diffad_ray.networks.segmenter import Segmenter


def pair(preset: str, image_size: int) -> tuple[Denoiser, Segmenter]:
    """Both networks without memory for their weights."""
    sizes = network_sizes(preset, image_size)
    with torch.device("meta"):
        return Denoiser(sizes, image_size), Segmenter(sizes.segmenter_channels)


def millions(network: nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_paper_has_the_published_sizes_and_the_presets_grow() -> None:
    denoiser, segmenter = pair("paper", 256)
    assert round(millions(denoiser), 1) == 131.7
    assert round(millions(segmenter), 1) == 28.4
    totals = [sum(map(millions, pair(preset, 256))) for preset in PRESETS]
    assert totals == sorted(totals)
    assert totals[0] < 2


@pytest.mark.parametrize(("image_size", "sides"), [(32, (32, 16, 8)), (128, (32, 16, 8)), (256, (32, 16, 8))])
def test_attention_sits_at_the_published_feature_sizes(image_size: int, sides: tuple[int, ...]) -> None:
    assert network_sizes("paper", image_size).attention_sizes == sides


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("image_size", [32, 96, 224, 256])
def test_every_preset_takes_its_image_size(preset: str, image_size: int) -> None:
    denoiser, segmenter = pair(preset, image_size)
    x = torch.empty((2, 3, image_size, image_size), device="meta")
    assert denoiser(x, torch.zeros(2, dtype=torch.int64, device="meta")).shape == x.shape
    assert segmenter(torch.cat([x, x], dim=1)).shape == (2, 1, image_size, image_size)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 96), (128, 128), (160, 160), (224, 224), (96, 32)])
def test_a_detector_takes_sizes_that_it_was_not_built_for(size: tuple[int, int]) -> None:
    detection = tiny_detector().detect(torch.rand((1, 3, *size)))
    assert detection.anomaly_map.shape == (1, *size)
    assert detection.reconstruction.shape == (1, 3, *size)
    assert torch.isfinite(detection.anomaly_map).all()


@pytest.mark.parametrize(("image_size", "advice"), [(0, 32), (31, 32), (100, 96), (250, 256), (-64, 32)])
def test_a_size_that_cannot_be_halved_often_enough_names_one_that_can(image_size: int, advice: int) -> None:
    with pytest.raises(ValueError, match=rf"{image_size} px is not a multiple of 32: take {advice}$"):
        network_sizes("tiny", image_size)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown preset 'huge': take one of tiny, small, base, paper"):
        network_sizes("huge", 64)


def test_widths_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(ValueError, match=r"level 48 channels wide.*change channels"):
        NetworkSizes(
            channels=48, channel_multipliers=(1, 2), residual_blocks=1, attention_sizes=(8,), segmenter_channels=8
        )


@torch.inference_mode()
def test_the_denoiser_starts_at_zero_and_then_knows_the_time() -> None:
    x, t = torch.randn((1, 3, 32, 32)), torch.tensor([10])
    assert not Denoiser(network_sizes("tiny", 32), 32)(x, t).any()
    lively = tiny_detector().denoiser
    assert (lively(x, t) - lively(x, t + 400)).abs().max() > 0.1


def test_group_norm_of_bfloat16_channels_last_has_torchs_gradients() -> None:
    x = (torch.randn(3, 16, 8, 4) + 1).bfloat16().contiguous(memory_format=torch.channels_last)
    ours, torchs = GroupNorm(8, 16), nn.GroupNorm(8, 16)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    torchs.load_state_dict(ours.state_dict())
    found = []
    for norm, seen in ((ours, x.clone().requires_grad_()), (torchs, x.float().requires_grad_())):
        result = norm(seen)
        (result * torch.linspace(-1, 1, result.numel()).view_as(result)).sum().backward()
        found.append([result, seen.grad, norm.weight.grad, norm.bias.grad])
    assert found[0][0].is_contiguous(memory_format=torch.channels_last)
    assert found[0][1].is_contiguous(memory_format=torch.channels_last)
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine.float(), exact, atol=0.06, rtol=0.02)


def test_attention_in_bfloat16_learns_what_float32_does() -> None:
    gradients = []
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(3)
        block = AttentionBlock(16, heads=4, groups=8)
        nn.init.normal_(block.out.weight)
        x = torch.randn(2, 16, 4, 4).requires_grad_()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            block(x, x).square().mean().backward()
        gradients.append(x.grad)
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert difference < 0.02
