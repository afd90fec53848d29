"""A phase as a program: the static part, which one compilation serves."""

import dataclasses
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from experiments.config import Config, PhaseSpec, phases
from experiments.data.tasks import outputs_of
from experiments.objective import Objective

ANY_DATA = Config()

Params = dict[str, nnx.State]
"""`weights` and `selection` (the logits), the two groups of the optimiser, and `statistics`,
running means that the forward pass updates."""


@dataclasses.dataclass(frozen=True)
class Program:
    """The static part of a phase: equal programs share one compilation.

    Attributes:
        graphdef: of the model.
        config: the `compile_key` of the runs' configs.
        phase_index: into `phases(config)`.
        steps: per epoch.
        objective: of the task.
        scale: of the task; inputs are divided by it, None for tokens.
        seeded: the data are drawn with the run's seed.
        runs: R, how many runs train at once. With R > 1 runs, state, draws and metrics are
            [R, ...]; data are [R, ...] if seeded, and shared by all runs otherwise.
        has_convolutions: the network has.
        mesh: of the devices that train; None for one.
    """

    graphdef: nnx.GraphDef
    config: Config
    phase_index: int
    steps: int
    objective: Objective
    scale: float | None = 1.0
    seeded: bool = False
    runs: int = 1
    has_convolutions: bool = False
    mesh: Mesh | None = None

    @property
    def spec(self) -> PhaseSpec:
        return phases(self.config)[self.phase_index]

    def model(
        self, params: Params, non_trainable: nnx.State, scales: dict[str, Any] | None = None
    ) -> Any:
        """The network; scales: `temperature` and `noise` of its selective layers."""
        # Copies, because batch statistics are updated under differentiation.
        parts = (params["selection"], params["weights"], params["statistics"], non_trainable)
        model = nnx.merge(self.graphdef, *parts, copy=True)
        return nnx.view(model, **scales, raise_if_not_found=False) if scales else model


DATA_FIELDS = (
    *("task", "target", "target_kind", "inputs", "split_column", "validation_fraction"),
    *("test_fraction", "range", "points", "label_noise"),
)
"""What data a run has; their shapes, objective and scale are parts of a program by themselves."""


def data_key(config: Config) -> tuple[Any, ...]:
    """Equal for runs on the same data, but for what is drawn with the seed."""
    return config.data_dir, *(getattr(config, name) for name in DATA_FIELDS)


def compile_key(config: Config) -> Config:
    """The config with every field reset that does not change the computation of a phase.

    Runs with equal keys share compiled programs where their data have the same shapes, and with
    equal `data_key` they can train as one. A task with `outputs` is computed in the program.
    """
    kept = () if outputs_of(config.task) is None else ("task",)
    data = {name: getattr(ANY_DATA, name) for name in DATA_FIELDS if name not in kept}
    config = dataclasses.replace(
        config,
        preset="recommended",
        seed=0,
        data_dir=None,
        stream=False,
        run_dir=None,
        checkpoint_seconds=0.0,
        devices=0,
        model_axis=1,
        retries=0,
        control="learned",
        carry_weights=True,
        carry_moments=False,
        **data,
    )
    if config.is_uniform:
        return dataclasses.replace(config, method="uniform:" + config.activation_pool.names[0])
    return config
