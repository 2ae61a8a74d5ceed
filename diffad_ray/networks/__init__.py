"""The networks, as plain torch modules. Know nothing of diffusion, data or Ray."""
