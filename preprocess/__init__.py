"""From raw corpora to shards: extract -> segment -> tokenizer -> pack. Uses `jadeberta.shards` and nothing else of jadeberta."""
