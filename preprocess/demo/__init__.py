"""The demo corpus: our own sentences over JumanDIC's words, for `python -m preprocess.demo_corpus`. No other stage uses it."""
