"""The zoo: models of which it is known what an audit must say.

    for one in specimens("broken"):
        assert audit(one.make(), one.examples(100), one.threat).verdict == one.verdict

Linear models with distances in closed form (`planes`), honest networks and robust ones, and networks and set-ups that
are broken on purpose, each with the checks that must notice.
"""

from sparring.zoo.linear import Planes, planes
from sparring.zoo.specimens import Specimen, find, specimens

__all__ = ["Planes", "Specimen", "find", "planes", "specimens"]
