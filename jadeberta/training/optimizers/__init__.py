"""What updates the weights: `build_optimizer` chooses by `training.optimizer`, and each optimizer has a file.

They work on ZeRO's flat partitions. What needs a whole parameter gets it from `partitions.py`.
"""

from jadeberta.training.optimizers.build import build_optimizer, require_stage

__all__ = ["build_optimizer", "require_stage"]
