"""``kineray sweep SCRIPT``, and what can be done with a sweep that was started; each is a module."""

from kineray.cli.verbs import DefaultGroup, add_verbs

command = DefaultGroup(
    name="sweep",
    default="run",
    short_help="Search learning rates and model fields with Ray Tune.",
    help="Search the space of a script. `kineray sweep SCRIPT` is `kineray sweep run SCRIPT`.",
)

add_verbs(command, __name__)
