"""Archives of corpora: the members of .tar and .zip files are read as files are, and nothing is unpacked to the disk."""
