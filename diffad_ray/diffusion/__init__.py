"""Diffusion arithmetic, independent of networks and image files: noise schedule, noise draws, reconstructions."""
