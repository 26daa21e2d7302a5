"""Parametrised tests of which only some cases are fast enough for every run."""

import pytest


def slow_after(count, cases):
    """``cases``, those after the first ``count`` marked as slow; a tuple has values for several names."""
    return [
        *cases[:count],
        *(
            pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
            for case in cases[count:]
        ),
    ]
