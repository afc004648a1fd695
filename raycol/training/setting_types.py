"""Types and checks of the settings of `raycol train`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator

from raycol.data.examples import ExampleSource
from raycol.errors import InputError
from raycol.training.loss import Loss

Objective = Literal["cached", "contrastive", "distillation", "lambda-loss", "margin-mse"]
Normalization = Literal["min-max", "z-score"]
Scoring = Literal["maxsim", "mean-maxsim", "xtr"]
Schedule = Literal["linear", "cosine", "constant"]
TrainDtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]

# Lower bound of a trained temperature, CLIP's (Radford et al. 2021).
MIN_TEMPERATURE = 0.01


def _sources(value: Any) -> Any:
    """Accept a single source in place of a list."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check_objective(value: Any) -> Any:
    *names, last = get_args(Objective)
    if isinstance(value, str):
        if value not in (*names, last):
            raise ValueError(f"Input should be {', '.join(map(repr, names))} or {last!r}")
    elif not isinstance(value, Loss) or isinstance(value, type):
        raise ValueError("Input should be a name, or a Loss: an object with fingerprint, needs_scores and a call")
    return value


def _normalization(value: Any) -> Any:
    """Read true as "min-max"."""
    return ("min-max" if value else None) if isinstance(value, bool) else value


def _check_metric(name: str) -> str:
    from raycol.evaluation.metrics import parse_metrics  # imports ir_measures, which no command's --help needs

    try:
        (parsed,) = parse_metrics([name])
    except InputError as error:
        raise ValueError(str(error).removeprefix(f"{name!r:.60}: ")) from None
    return parsed


def name_of(objective: Objective | Loss) -> str:
    """Return the name of an objective, or the fingerprint of a loss."""
    return objective if isinstance(objective, str) else objective.fingerprint


Sources = Annotated[tuple[ExampleSource, ...], BeforeValidator(_sources), Field(min_length=1)]
ObjectiveOrLoss = Annotated[
    Objective | Loss, PlainValidator(_check_objective), PlainSerializer(name_of, when_used="json")
]
NormalizedScores = Annotated[Normalization | None, BeforeValidator(_normalization)]
Metric = Annotated[str, AfterValidator(_check_metric)]
LearningRate = Annotated[float, Field(gt=0, lt=1)]
