"""Several machines: a run cut into jobs that share one store, handed to an engine that people already have (SLURM, Ray, processes).

- `Resources`: what one job asks for
- `Stage`: jobs that may run at once
- `stages_of`: a command of ours as stages
- `submit`: hands stages to an engine
"""

from safesteer_interp.cluster.executors import EXECUTORS, Resources, Submitted, submit
from safesteer_interp.cluster.stages import Stage, stages_of

__all__ = ["EXECUTORS", "Resources", "Stage", "Submitted", "stages_of", "submit"]
