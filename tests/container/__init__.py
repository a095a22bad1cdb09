"""The images and compose.yaml on a real engine: `make test-containers`."""
