"""The networks, as plain torch modules that are independent of diffusion, data and Ray."""
