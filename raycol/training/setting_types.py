"""Types and checks of the settings of `raycol train`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator

from raycol.core.config import Positive, parse_mapping
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
    """Accept a single source in place of a list, and an `ExampleSource`."""
    sources = value if isinstance(value, list | tuple) else (value,)
    return tuple(one.model_dump(exclude_unset=True) if type(one) is ExampleSource else one for one in sources)


def _check_objective(value: Any) -> Any:
    *names, last = get_args(Objective)
    if isinstance(value, str):
        if value not in (*names, last):
            raise ValueError(f"Input should be {', '.join(map(repr, names))} or {last!r}")
    elif not isinstance(value, Loss) or isinstance(value, type):
        raise ValueError("Input should be a name, or a Loss: an object with fingerprint, needs_scores and a call")
    return value


def _check_own_objective(value: Any) -> Any:
    return value if value is None else _check_objective(value)


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


class TrainingSource(ExampleSource):
    """A source of training examples, with settings that apply to its batches only."""

    objective: Annotated[
        Objective | Loss | None,
        PlainValidator(_check_own_objective),
        PlainSerializer(lambda value: value and name_of(value), when_used="json"),
    ] = None
    """Objective of its batches; by default that of the training."""

    temperature: Annotated[float, Field(gt=0)] | None = None
    """Softmax temperature of its batches; by default that of the training."""

    query_prompt: str | None = None
    """Text before its queries, behind the marker: "search_query: "."""

    document_prompt: str | None = None
    """Text before its documents, behind the marker: "search_document: "."""

    query_length: Positive | None = None
    """Maximum tokens of its queries; by default that of the model."""

    document_length: Positive | None = None
    """Maximum tokens of its documents; by default that of the model."""

    def own_settings(self) -> dict[str, Any]:
        """The settings that apply to its batches, without those that are not set."""
        return {name: value for name in _OF_BATCHES if (value := getattr(self, name)) is not None}


# The settings that a source may have, which apply to all of a batch.
_OF_BATCHES = tuple(name for name in TrainingSource.model_fields if name not in ExampleSource.model_fields)

Sources = Annotated[tuple[TrainingSource, ...], BeforeValidator(_sources), Field(min_length=1)]
ObjectiveOrLoss = Annotated[
    Objective | Loss, PlainValidator(_check_objective), PlainSerializer(name_of, when_used="json")
]
NormalizedScores = Annotated[Normalization | None, BeforeValidator(_normalization)]
Metric = Annotated[str, AfterValidator(_check_metric)]
MiningSettings = Annotated[dict[str, Any], BeforeValidator(parse_mapping)]
LearningRate = Annotated[float, Field(gt=0, lt=1)]
