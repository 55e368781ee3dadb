"""jadeberta: pre-trains a Japanese DeBERTa V2 on a cluster, from shards to a released model."""

__version__ = "0.1.0"
