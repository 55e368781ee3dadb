"""`jadeberta publish`: a release, and chosen checkpoints as revisions, in one repository of the Hugging Face Hub."""
