"""Optional filters of documents: quality and duplicates."""
