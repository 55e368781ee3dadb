"""How good a model is: MLM accuracy on held-out documents."""
