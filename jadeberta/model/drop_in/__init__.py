"""transformers' own DeBERTa V2 classes with our attention: `jadeberta.fast`."""
