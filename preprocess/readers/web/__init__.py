"""Records of WARC files, and the answers of web servers in them."""
