"""What a fine-tuned model is compared with: baselines without pre-training, and other models in one table."""
