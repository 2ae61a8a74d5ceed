"""Diffusion arithmetic: noise schedule, noise draws, reconstructions. Knows no network and no image file."""
