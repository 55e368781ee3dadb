"""The recipe's section `rtd`: settings of replaced-token detection."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class RtdConfig:
    """Replaced-token detection, read with training.objective rtd alone."""

    embedding_sharing: Literal["gdes", "es", "nes"] = "gdes"
    """The discriminator's embeddings. gdes: the generator's without their gradient, plus a table that starts at 0; es: the generator's;
    nes: its own."""
    generator_layers: int = 0
    """Layers of the generator, whose other sizes are the model's; 0: half of model.num_hidden_layers."""
    loss_weight: float = 50.0
    """Weight of the discriminator's mean loss beside the generator's."""
    temperature: float = 1.0
    """Temperature of the generator's distribution that the replaced tokens are drawn from."""

    def layers_of_generator(self, layers: int) -> int:
        """Returns the number of the generator's layers, for that of the discriminator's."""
        return self.generator_layers or max(1, layers // 2)
