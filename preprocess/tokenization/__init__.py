"""Word counts, sentencepiece training, coverage, character vocabularies, and packing tokens into rows."""
