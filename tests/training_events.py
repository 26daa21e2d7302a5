"""Events of training for tests that show them."""

from kineray.training import StepEvent


def step(number):
    """Step ``number`` of 9."""
    return StepEvent(
        step=number,
        total_steps=9,
        epoch=0.1,
        loss=1.0,
        lr=0.1,
        clips_per_s=8.0,
        data_wait=0.25,
        copy=0.0,
        seconds_left=75.0,
    )
