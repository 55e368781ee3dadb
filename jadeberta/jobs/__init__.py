"""A job from its first attempt to its end: records, requeue policy, exit reasons, and the local launcher."""
