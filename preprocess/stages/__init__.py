"""The four stages: extract, segment, tokenizer, pack."""
