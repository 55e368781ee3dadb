"""Where a run starts from: published weights, with another tokenizer where asked for, or a step of another run."""
