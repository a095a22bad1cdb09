"""Rules that Hypothesis tries to break."""
