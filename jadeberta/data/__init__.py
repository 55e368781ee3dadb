"""Which samples a step sees, their masks, and the batches made of them: pure functions of seed, step and index."""
