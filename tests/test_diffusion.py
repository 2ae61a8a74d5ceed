"""The diffusion arithmetic, against diffusers and against its own identities."""

from __future__ import annotations

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffad_ray.diffusion.noise import fixed_noise, seeded_generator
from diffad_ray.diffusion.reconstruction import ddim, iterative, norm_guided, one_step, reverse_step
from diffad_ray.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
EXACT = NoiseSchedule().double()
SHAPE = (5, 3, 4, 4)
seeds = st.integers(0, 2**31)
steps = st.integers(0, 999)


@pytest.fixture(scope="module")
def oracle() -> DDPMScheduler:
    """diffusers' scheduler with its tables in float64: its own lose four digits at the first steps."""
    scheduler = DDPMScheduler(1000, 1e-4, 0.02, "linear", variance_type="fixed_large", clip_sample=False)
    torch.testing.assert_close(SCHEDULE.alphas_cumprod, scheduler.alphas_cumprod, atol=2e-6, rtol=1e-4)
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(dim=0)
    return scheduler


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(t: int) -> Tensor:
    return torch.full(SHAPE[:1], t)


class Denoises:
    """A noise predictor whose one-step reconstructions are the given ones; notes the sizes of its calls."""

    def __init__(self, *reconstructions: Tensor):
        self.target = torch.cat(reconstructions)
        self.calls: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls.append(len(x_t))
        return (x_t - EXACT.signal(t) * self.target[: len(x_t)]) / EXACT.noise(t)


def test_the_forward_process_is_that_of_diffusers(oracle: DDPMScheduler) -> None:
    torch.testing.assert_close(SCHEDULE.alphas_cumprod, oracle.alphas_cumprod.float(), atol=0, rtol=1e-6)
    x0, eps, t = noise(0, 5, 3, 4, 4).float(), noise(1, 5, 3, 4, 4).float(), torch.tensor([0, 1, 200, 400, 999])
    torch.testing.assert_close(SCHEDULE.add_noise(x0, t, eps), oracle.add_noise(x0, eps, t), atol=1e-5, rtol=0)


@pytest.mark.parametrize("t", [0, 1, 10, 250, 999])
def test_the_reverse_step_is_that_of_diffusers(oracle: DDPMScheduler, t: int) -> None:
    x_t, eps = noise(0).float(), noise(1).float()
    mean, variance = SCHEDULE.posterior(SCHEDULE.predict_x0(x_t, at(t), eps), x_t, at(t))
    sample = oracle.step(eps, t, x_t, generator=torch.Generator().manual_seed(2)).prev_sample
    drawn = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    # The last step adds no noise, there or here; the variance stays defined for losses.
    expected = variance.sqrt() * drawn if t > 0 else torch.zeros(SHAPE)
    torch.testing.assert_close(sample - mean, expected, atol=1e-5, rtol=1e-5)
    assert variance.shape == (5, 1, 1, 1)
    assert variance.min() > 0


@pytest.mark.parametrize("sign", [1, -1])
def test_the_reverse_step_clamps_what_the_network_imagines(sign: int) -> None:
    x_t = noise(0)
    mean, _ = reverse_step(EXACT, Denoises(torch.full(SHAPE, sign * 3.0)), x_t, at(100))
    torch.testing.assert_close(mean, EXACT.posterior(sign * torch.ones(SHAPE), x_t, at(100))[0].double())


@given(seed=seeds, t=steps)
@settings(max_examples=30, deadline=None)
def test_predict_x0_inverts_add_noise(seed: int, t: int) -> None:
    x0, eps = noise(seed).clamp(-1, 1), noise(seed + 1)
    torch.testing.assert_close(EXACT.predict_x0(EXACT.add_noise(x0, at(t), eps), at(t), eps), x0, atol=1e-9, rtol=0)


@given(seed=seeds, ordered=st.tuples(steps, steps).filter(lambda t: t[0] != t[1]).map(sorted), guidance=st.floats(0, 3))
@settings(max_examples=100, deadline=None)
def test_guidance_blends_two_one_step_reconstructions(seed: int, ordered: list[int], guidance: float) -> None:
    t_small, t_big = map(at, ordered)
    # So faint that 3 x extrapolation stays within [-1, 1] and no clamp hides a difference.
    small, big = (0.15 * noise(seed + k).clamp(-1, 1) for k in (0, 1))
    network = Denoises(small, big)
    x0, noise_small, noise_big = (noise(seed + k) for k in (2, 3, 4))
    found = norm_guided(EXACT, network, x0, t_small, t_big, noise_small, noise_big, guidance)
    share = guidance * (1 - EXACT.alphas_cumprod[ordered[0]])
    torch.testing.assert_close(found.x0, (1 - share) * small + share * big, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.x0_small, small, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.x0_big, big, atol=1e-5, rtol=0)
    assert network.calls == [2 * len(x0)], "both scales go through the network in one call"


@pytest.mark.parametrize("sign", [1, -1])
def test_the_guide_is_clamped_before_it_guides_and_the_result_after(sign: int) -> None:
    small, big = torch.full(SHAPE, sign * 1.5).double(), torch.full(SHAPE, sign * -7.0).double()
    found = norm_guided(EXACT, Denoises(small, big), noise(0), at(200), at(400), noise(1), noise(2), 1.0)
    share = 1 - float(EXACT.alphas_cumprod[200])
    assert found.x0_big.unique() == -sign
    torch.testing.assert_close(found.x0, sign * torch.full_like(small, (1 - share) * 1.5 - share), atol=1e-5, rtol=0)
    unguided = norm_guided(EXACT, Denoises(small, big), noise(0), at(200), at(400), noise(1), noise(2), 0.0)
    assert unguided.x0.unique() == sign
    plain = one_step(EXACT, Denoises(small), noise(0), at(200), noise(1))
    assert plain.unique() == sign


def test_no_guidance_is_the_plain_one_step() -> None:
    small, big = 0.8 * noise(0), noise(1)
    args = [noise(2), at(200)]
    plain = one_step(EXACT, Denoises(small), *args, noise(3))
    guided = norm_guided(EXACT, Denoises(small, big), *args, at(400), noise(3), noise(4), 0.0)
    torch.testing.assert_close(guided.x0, plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("wrong", [(1, 1e-4, 0.02), (10, 0.0, 0.02), (10, 0.03, 0.02), (10, 0.1, 1.0)])
def test_an_impossible_schedule_is_refused(wrong: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="a noise schedule needs"):
        NoiseSchedule(*wrong)


def test_the_noise_of_scoring_is_fixed_and_its_draws_are_independent() -> None:
    first = fixed_noise("gaussian", 3, 0, 3, 64, 48)
    torch.manual_seed(1234)
    assert torch.equal(first, fixed_noise("gaussian", 3, 0, 3, 64, 48)), "global state must not matter"
    others = [fixed_noise("gaussian", seed, draw, 3, 64, 48) for seed, draw in ((3, 1), (4, 0), (0, 3))]
    between = torch.corrcoef(torch.stack([draw.flatten() for draw in (first, *others)])) - torch.eye(4)
    assert between.abs().max() < 0.05
    assert abs(first.mean()) < 0.05
    assert abs(first.std() - 1) < 0.05


def test_neighbouring_seeds_give_unrelated_streams() -> None:
    keys = [(k,) for k in range(8)] + [(seed, step) for seed in range(4) for step in range(4)] + [(2, 1, 0), (-1,)]
    streams = torch.stack([torch.randn(4096, generator=seeded_generator("cpu", *key)) for key in keys])
    between = torch.corrcoef(streams) - torch.eye(len(keys))
    assert between.abs().max() < 0.1
    assert torch.equal(streams[9], torch.randn(4096, generator=seeded_generator("cpu", *keys[9])))


@pytest.mark.parametrize("t", [0, 100, 500, 999])
@pytest.mark.parametrize("variance", [0.25, 1.0])
def test_nothing_linear_is_left_to_predict(t: int, variance: float) -> None:
    x0, added = noise(1, 100_000, 1, 1, 1) * variance**0.5, noise(2, 100_000, 1, 1, 1)
    steps = torch.full((100_000,), t)
    x_t = EXACT.add_noise(x0, steps, added)
    estimate = EXACT.linear_estimate(steps, variance)
    residual = (added - estimate.slope * x_t) / estimate.error
    assert abs((residual * x_t / estimate.deviation).mean()) < 0.02
    assert abs(residual.std() - 1) < 0.02
    assert abs((x_t / estimate.deviation).std() - 1) < 0.02


def test_all_steps_back_end_at_the_image_if_the_noise_is_known() -> None:
    x0, seen = noise(1).clamp(-1, 1), []

    def knows(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(int(t[0]))
        return (x_t - EXACT.signal(t) * x0) / EXACT.noise(t)

    found = iterative(EXACT, knows, x0, 30, noise(2), lambda step: noise(step + 10))
    assert seen == list(range(30, -1, -1)), "a call a step"
    torch.testing.assert_close(found, x0, atol=0.03, rtol=0)


def test_each_step_back_adds_the_noise_of_its_variance_but_the_last() -> None:
    x0, asked = 0.3 * noise(1), []

    def network(x_t: Tensor, _: Tensor) -> Tensor:
        return x_t / 2  # so that what a step adds is still seen in the end

    def step_noise(step: int) -> Tensor:
        asked.append(step)
        return noise(step + 10)

    found = iterative(EXACT, network, x0, 3, noise(2), step_noise)
    expected = EXACT.add_noise(x0, at(3), noise(2))
    for step in (3, 2, 1, 0):
        expected, variance = reverse_step(EXACT, network, expected, at(step))
        if step:
            expected = expected + variance.sqrt() * noise(step + 10)
    assert asked == [3, 2, 1]
    torch.testing.assert_close(found, expected.clamp(-1, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("t", "calls", "expected"), [(30, 4, [30, 22, 14, 7]), (30, 1, [30]), (2, 9, [2, 1, 0]), (0, 1, [0])]
)
def test_deterministic_steps_carry_the_estimated_noise_on(t: int, calls: int, expected: list[int]) -> None:
    shown: list[tuple[int, Tensor]] = []

    def predict(x_t: Tensor, steps: Tensor) -> Tensor:
        shown.append((int(steps[0]), x_t))
        return 1.5 * noise(len(shown))

    found = ddim(EXACT, predict, noise(1), t, noise(2), calls)
    assert [step for step, _ in shown] == expected
    x_t = EXACT.add_noise(noise(1), at(t), noise(2))
    for k, (step, seen) in enumerate(shown, start=1):
        torch.testing.assert_close(seen, x_t, atol=1e-12, rtol=0)
        x0 = EXACT.predict_x0(x_t, at(step), 1.5 * noise(k)).clamp(-1, 1)
        if k < len(shown):
            x_t = EXACT.add_noise(x0, at(shown[k][0]), 1.5 * noise(k))
    torch.testing.assert_close(found, x0, atol=1e-12, rtol=0)
