"""`python -m diffad_ray.cli`."""

from diffad_ray.cli import main

if __name__ == "__main__":
    main()
