"""Fine-tuning on JGLUE: five tasks, the grid of JGLUE's authors, Hugging Face's heads on a model pre-trained here.

Promises that text reaches the model as in pre-training (same normaliser, same word segmenter, same sentencepiece model) and that
answers are given in the characters of the file they were asked from.
"""
