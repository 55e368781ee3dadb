"""Where a release comes from, by hashes: from its files through checkpoint and shards to the files of the corpora. Needs no network."""
