"""The optimiser: AdamW or Muon, with learning rates and weight decay by parameter group, and frozen layers.

An encoder has three kinds of parameters: the embeddings (of tokens, positions and types), the backbone's layers, and
the head (everything behind the backbone, such as the projection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sentence_transformers import MultiVectorEncoder
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from raycol.errors import InputError
from raycol.training.config import TrainConfig


def freeze_layers(encoder: MultiVectorEncoder, n: int) -> None:
    """Freeze the embeddings and the lowest `n` layers.

    Raises:
        InputError: the backbone has fewer layers, or they share their weights.
    """
    backbone = encoder[0].model
    layers = layers_of(backbone, "freeze_layers")
    if n > len(layers):
        raise InputError(f"freeze_layers is {n}, but the model has {len(layers)} layers; freeze at most these")
    for module in (_embeddings(backbone), *layers[:n]):
        module.requires_grad_(False)


def make_optimiser(encoder: MultiVectorEncoder, loss: nn.Module, config: TrainConfig) -> Optimizer:
    """Return the configured optimiser of the trainable parameters of an encoder and its loss.

    Vectors (biases, norms) have no weight decay. The first group has the learning rate that records show, if any has.

    Raises:
        InputError: `layer_decay` is set and the backbone's layers share their weights.
    """
    rates = _learning_rates(encoder, config)
    own = set(loss.parameters()) - set(encoder.parameters())  # the temperature, if it is trained
    rates |= dict.fromkeys(own, config.temperature_learning_rate or config.learning_rate)
    muon = set(_hidden_matrices(encoder)) if config.optimizer == "muon" else set()
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for parameter in loss.parameters():  # these include the encoder's
        if parameter.requires_grad:
            rate = rates.get(parameter, config.learning_rate)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay, parameter in muon), []).append(parameter)
    by_rate = sorted(groups.items(), key=lambda group: group[0][0] != config.learning_rate)
    settings = [
        {"params": parameters, "lr": rate, "weight_decay": decay, "muon": is_muon}
        for (rate, decay, is_muon), parameters in by_rate
    ]
    return MuonAdamW(settings) if muon else AdamW(settings, fused=True)


class MuonAdamW(Optimizer):
    """Muon for the groups with `muon`, AdamW for the others: two optimisers that share the groups and state of one.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". Updates are scaled to the size of
    AdamW's (Liu et al. 2025, arXiv 2502.16982), so that both take the same learning rate.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        self._muon = Muon([group for group in groups if group["muon"]], adjust_lr_fn="match_rms_adamw")
        self._adamw = AdamW([group for group in groups if not group["muon"]], fused=True)
        self._share()

    def _share(self) -> None:
        self._muon.param_groups = [group for group in self.param_groups if group["muon"]]
        self._adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
        self._muon.state = self._adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of both."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters."""
        loss = None if closure is None else closure()
        self._muon.step()
        self._adamw.step()
        return loss


def _learning_rates(encoder: MultiVectorEncoder, config: TrainConfig) -> dict[nn.Parameter, float]:
    """Learning rates of the parameters that differ from `config.learning_rate`."""
    backbone, base = encoder[0].model, config.learning_rate
    rates: dict[nn.Parameter, float] = {}
    depth = 0
    if config.layer_decay < 1:
        layers = layers_of(backbone, "layer_decay")
        depth = len(layers)
        for number, layer in enumerate(layers, start=1):
            rates |= dict.fromkeys(layer.parameters(), base * config.layer_decay ** (depth - number))
    embedding_rate = config.embedding_learning_rate or base * config.layer_decay**depth
    rates |= dict.fromkeys(_embeddings(backbone).parameters(), embedding_rate)
    if config.head_learning_rate:
        head = (parameter for module in list(encoder)[1:] for parameter in module.parameters())
        rates |= dict.fromkeys(head, config.head_learning_rate)
    return rates


def _hidden_matrices(encoder: MultiVectorEncoder) -> Iterator[nn.Parameter]:
    """The matrices of the backbone's layers."""
    backbone = encoder[0].model
    embeddings = set(_embeddings(backbone).parameters())
    return (one for one in backbone.parameters() if one.ndim == 2 and one.requires_grad and one not in embeddings)


def layers_of(backbone: nn.Module, setting: str) -> nn.ModuleList:
    """The backbone's layers, the lowest first. `setting` is the one that needs them, for the error."""
    n = backbone.config.num_hidden_layers
    lists = (module for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module) == n)
    layers = next(lists, None)
    if layers is None:
        name = type(backbone).__name__
        raise InputError(f"{setting}: {name} has no list of {n} layers with weights of their own; leave {setting} out")
    return layers


def _embeddings(backbone: nn.Module) -> nn.Module:
    """The module of a backbone's embeddings: the token table with what stands beside it (positions, types, norm)."""
    table = backbone.get_input_embeddings()
    name = next(name for name, module in backbone.named_modules() if module is table)
    parent = backbone.get_submodule(name.rpartition(".")[0])
    # In a decoder, the table's parent is the backbone itself.
    has_layers = any(isinstance(module, nn.ModuleList) for module in parent.modules())
    return table if has_layers else parent
