"""From a checkpoint to what is published: a Hugging Face directory with its model card."""
