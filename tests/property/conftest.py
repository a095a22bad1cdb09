"""How hard Hypothesis looks: `HYPOTHESIS_PROFILE=long` for thirty times as many examples.

That takes longer than one test may by default: run it with `-o timeout=0`.

Failures print what repeats them (`print_blob`); pytest's `--hypothesis-seed` repeats a run.
"""

import os

import hypothesis

hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("streamsched"), max_examples=3_000
)
if profile := os.environ.get("HYPOTHESIS_PROFILE"):
    hypothesis.settings.load_profile(profile)
