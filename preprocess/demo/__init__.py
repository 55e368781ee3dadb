"""The demo corpus: our own sentences over JumanDIC's words, for `python -m preprocess.demo`. No other stage uses it."""
