"""Networks by name. A new one is one class in `cnn_model` that keeps its `Network`, and one line here.

Knows no torch: a network's class is imported when it is trained.
"""

import pkgutil
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class NetworkKind:
    """One entry of the registry.

    Attributes:
        name: what the configurations call it.
        text: one line for the help.
        made_by: its class, as `module:name`.
        smallest: pixels a side that an image must have.
    """

    name: str
    text: str
    made_by: str
    smallest: int = 1

    @property
    def module(self) -> type[Any]:
        """The network's class."""
        module: type[Any] = pkgutil.resolve_name(self.made_by)
        return module


NETWORKS: dict[str, NetworkKind] = {
    kind.name: kind
    for kind in (
        NetworkKind(name="gal", text="the paper's", made_by="cnn_model:BayesianCNN", smallest=8),
        NetworkKind(
            name="kirsch", text="BatchBALD's, with dropout of whole channels", made_by="cnn_model:BatchBALDCNN",
            smallest=16,
        ),
        NetworkKind(
            name="resnet18", text="a residual network under the paper's head", made_by="cnn_model:ResNet18", smallest=16
        ),
        NetworkKind(name="dense", text="the paper's head, on the bare pixels", made_by="cnn_model:DenseNetwork"),
    )
}  # fmt: skip
