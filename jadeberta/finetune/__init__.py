"""Fine-tuning on JGLUE: five tasks, the grid of JGLUE's authors, Hugging Face's heads on a model pre-trained here.

Text reaches the model as in pre-training (same normaliser, word segmenter and sentencepiece model), and answers are spans of the
original characters of the file.
"""
