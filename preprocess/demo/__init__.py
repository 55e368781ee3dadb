"""The demo corpus: generated Japanese text in the formats of the sources. No other part of this package uses it."""
